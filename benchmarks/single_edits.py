"""What every editor does with single edits, each made on the unedited host and taken back.

    python benchmarks/single_edits.py --edits 50 --seed 1
    python benchmarks/single_edits.py --only GRACE ROME

Prints the share of generated answers that are exactly right: for the edit's own prompt, for strong
rewordings, and, as the unedited host's, for near prompts; and the seconds to learn an edit.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

import pandas as pd

import lemoe_lab as ll
from lemoe_lab.editors import Editor
from lemoe_lab.evaluation import Evaluator
from lemoe_lab.host import Host

METHODS = (
    "LEMoE scoped",
    "MoE adaptor",
    "FineTune",
    "FineTuneEWC",
    "LocFT replay",
    "UltraEdit, single edits",
    "ROME",
    "MEMIT",
    "AlphaEdit, single edits",
    "MEND",
    "GRACE",
    "DEFER",
    "WISE",
)


def measure(names: Sequence[str], edits: int, seed: int) -> pd.DataFrame:
    """One row per editor, a preset of the library."""
    host = ll.load_host("almanac")
    stream = ll.datasets.almanac(edits=edits, batch_size=1, seed=seed)
    rows = {}
    for name in names:
        editor = ll.editors.preset(name)
        editor.attach(host, stream)
        try:
            rows[name] = _scores(host, editor, stream)
        finally:
            editor.detach()
    return pd.DataFrame.from_dict(rows, orient="index")


def _scores(host: Host, editor: Editor, stream: ll.EditStream) -> dict[str, float]:
    evaluator, rows, seconds = Evaluator(host, editor), [], 0.0
    for batch in stream:
        started = time.perf_counter()
        editor.edit(batch)
        seconds += time.perf_counter() - started
        rows += evaluator.measure(batch, batch.step)
        editor.undo()
    frame = ll.metrics.table_of(rows)
    frame = frame[frame["scorer"] == "generated"]
    means = frame.groupby(["metric", "group"])["value"].mean()
    return {
        "reliability": means["reliability", ""],
        "generality, strong": means["generality", "strong"],
        "locality, near": means["locality", "near"],
        "seconds": seconds / len(stream),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--edits", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", nargs="+", choices=METHODS, default=METHODS)
    given = parser.parse_args()
    print(measure(given.only, given.edits, given.seed).round(3).to_string())


if __name__ == "__main__":
    main()
