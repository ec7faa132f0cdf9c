"""Compares the throughput of a sweep on two worker processes with that on one.

    python benchmarks/sweep_throughput.py

Every worker has one torch thread, and has done other runs before the clock starts. Prints seconds
and runs per minute, and the ratio of the two.
"""

from __future__ import annotations

import argparse
import tempfile
import time

import pandas as pd

import lemoe_lab as ll
from lemoe_lab import sweeps

WARM_UP = 4  # runs before the clock starts: two for each worker


def timed(workers: int, warm_up: list[sweeps.Run], runs: list[sweeps.Run]) -> float:
    """Seconds that ``runs`` take on so many workers, after some other runs to warm them up."""
    with tempfile.TemporaryDirectory() as folder, sweeps.local_cluster(workers) as cluster:
        sweeps.sweep(warm_up, folder, cluster, progress=False)
        started = time.perf_counter()
        result = sweeps.sweep(runs, folder, cluster, progress=False)
        seconds = time.perf_counter() - started
    if not result.runs["status"].eq("finished").all():
        raise RuntimeError(result.failures["traceback"].iloc[0])
    return seconds


def measure(runs: int, edits: int, batch_size: int) -> pd.DataFrame:
    """One row per number of workers."""
    every = sweeps.grid(
        "almanac",
        editors=[ll.editors.preset("MoE adaptor")],
        orders=[ll.planning.RandomOrder(seed) for seed in range(runs + WARM_UP)],
        streams=[sweeps.AlmanacStream(edits=edits, batch_size=batch_size)],
    )
    seconds = {workers: timed(workers, every[:WARM_UP], every[WARM_UP:]) for workers in (1, 2)}
    table = pd.DataFrame({"seconds": seconds}).rename_axis("workers")
    return table.assign(runs_per_minute=60 * runs / table["seconds"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=8)
    parser.add_argument("--edits", type=int, default=60)
    parser.add_argument("--batch-size", type=int, default=20)
    table = measure(**vars(parser.parse_args()))
    print(table.round(2).to_string())
    print(f"two workers against one: {table['seconds'][1] / table['seconds'][2]:.2f} x")


if __name__ == "__main__":
    main()
