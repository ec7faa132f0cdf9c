"""Times the live views of the edit stepper against the steps they show, and 'Ask the model'.

    python benchmarks/stepper_overhead.py

The views are all of the panel: three figures, the table, an asked question, the running batch's
progress, what is measured for them, and the rests in which the kernel answers clicks. Half of the
questions are asked while a batch trains. Aims: at most 20% of a step, at most 0.5 s an answer.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time

import pandas as pd

import lemoe_lab as ll
from lemoe_lab.widgets.common.panel import PAUSE


def measure(edits: int, batch_size: int, seed: int, questions: int) -> pd.DataFrame:
    """One row per editor: seconds for a step, for its views, their share, for an answer."""
    rows = {}
    for editor in map(ll.editors.preset, ("LEMoE scoped", "MoE adaptor")):
        host = ll.load_host("almanac")
        stream = ll.datasets.almanac(edits=edits, batch_size=batch_size, seed=seed)
        stream = ll.drop_known(host, stream)
        with ll.EditSession(host, editor, stream, progress=False) as session:
            rows[editor.name] = asyncio.run(_one(session, questions))
    return pd.DataFrame.from_dict(rows, orient="index")


async def _one(session: ll.EditSession, questions: int) -> dict[str, float]:
    stepper = ll.widgets.EditStepper(session)
    model, asked = stepper.model, [edit.prompt for edit in session.stream.edits]
    stepper.ask.prompt.value = asked[0]
    answers = []
    started = time.perf_counter()
    stepper.controls.play.click()
    while model.phase == "training":
        await asyncio.sleep(PAUSE)
        if model.progress and len(answers) < questions // 2:
            answers.append(_answer_seconds(stepper, asked[-len(answers) - 1]))
    elapsed = time.perf_counter() - started - sum(answers)
    learning = sum(model.step_seconds)
    while len(answers) < questions:
        answers.append(_answer_seconds(stepper, asked[len(answers)]))
    steps = len(model.step_seconds)
    return {
        "steps": steps,
        "step (s)": learning / steps,
        "views per step (s)": (elapsed - learning) / steps,
        "share": (elapsed - learning) / learning,
        "answer, median (s)": statistics.median(answers),
        "answer, slowest (s)": max(answers),
    }


def _answer_seconds(stepper: ll.widgets.EditStepper, prompt: str) -> float:
    started = time.perf_counter()
    stepper.ask.prompt.value = prompt
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--edits", type=int, default=300)
    parser.add_argument("--batch-size", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--questions", type=int, default=40)
    print(measure(**vars(parser.parse_args())).round(3).to_string())


if __name__ == "__main__":
    main()
