"""Times `import lemoe_lab` against the import of what loads any host: torch and transformers.

    python benchmarks/import_time.py
    python benchmarks/import_time.py --repetitions 10

Prints the seconds of both, each in a new interpreter, and their ratio; above 1.5 something is
imported that only some calls need, and belongs into them (`python -X importtime` tells what).
"""

from __future__ import annotations

import argparse
import subprocess
import sys

import pandas as pd

BOUND = 1.5
IMPORTS = {
    "torch and transformers": "import torch; from transformers import AutoModelForCausalLM",
    "lemoe_lab": "import lemoe_lab",
}
TIMED = "import time; started = time.perf_counter(); {}; print(time.perf_counter() - started)"


def seconds(statement: str) -> float:
    """How long a statement takes in a new interpreter, its start left out."""
    command = [sys.executable, "-c", TIMED.format(statement)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(result.stdout.split()[-1])


def measure(repetitions: int) -> pd.DataFrame:
    """One row per import: its fastest time in seconds, and how often that is the first one's.

    They take turns, after one of each that fills the system's caches.
    """
    times = [
        {name: seconds(code) for name, code in IMPORTS.items()} for _ in range(1 + repetitions)
    ]
    fastest = pd.DataFrame(times[1:]).min()
    return pd.DataFrame({"seconds": fastest, "ratio": fastest / fastest.iloc[0]})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=5)
    table = measure(**vars(parser.parse_args()))
    print(table.round(2).to_string())
    print(f"at most {BOUND} times: {'yes' if table['ratio'].iloc[-1] <= BOUND else 'no'}")


if __name__ == "__main__":
    main()
