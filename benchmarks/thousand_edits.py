"""Times 1,000 edits in 10 batches of 100 with scoped LEMoE on the embedded host.

    python benchmarks/thousand_edits.py
    python benchmarks/thousand_edits.py --edits 3000 --batch-size 30

Prints where the seconds go and what an edit of the last tenth of the batches costs against one
of the first tenth.
"""

from __future__ import annotations

import argparse
import time

import pandas as pd

import lemoe_lab as ll


def measure(edits: int, batch_size: int, seed: int) -> pd.DataFrame:
    """One row per part of the run, with seconds and its share."""
    host = ll.load_host("almanac")
    stream = ll.datasets.almanac(edits=edits, batch_size=batch_size, seed=seed)
    editor = ll.editors.preset("LEMoE scoped")
    started = time.perf_counter()
    with ll.EditSession(host, editor, stream, progress=False) as session:
        calibrated = time.perf_counter()
        session.jump(len(stream))
        stepped = time.perf_counter()
        session.evaluate()
        ended = time.perf_counter()
        features = host.prompt_states([edit.prompt for edit in stream.edits], session.editor.layer)
        routing = time.perf_counter()
        session.editor.routes(features)
        routed = time.perf_counter()
        reports = session.reports
    train = sum(report["train_seconds"] for report in reports)
    immediate = sum(report["evaluate_seconds"] for report in reports)
    seconds = {
        "calibrate the router": calibrated - started,
        "train": train,
        "evaluate, immediate": immediate,
        "evaluate, final": ended - stepped,
        "route all prompts once": routed - routing,
        "total": ended - started,
    }
    cost = [report["train_seconds"] + report["evaluate_seconds"] for report in reports]
    table = pd.DataFrame({"seconds": seconds})
    tenth = max(1, len(cost) // 10)
    first, last = cost[1 : 1 + tenth], cost[-tenth:]  # the very first batch also warms caches
    table.attrs["growth"] = sum(last) / sum(first)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--edits", type=int, default=1000)
    parser.add_argument("--batch-size", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    table = measure(**vars(parser.parse_args()))
    print(table.round(2).to_string())
    growth = table.attrs["growth"]
    print(f"time per edit, last tenth of the batches against the first: {growth:.2f} x")


if __name__ == "__main__":
    main()
