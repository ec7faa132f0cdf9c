"""Runs of an order: under way, in slices, and finished, as rows of a table."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import pandas as pd
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook

from ... import probes
from ...editors import Editor
from ...edits import EditStream
from ...host import Host
from ...session import EditSession
from ..common.slices import Checkpoint, Slices

COLUMNS = (
    "run",
    "editor",
    "order",
    "batch_size",
    "batches",
    "edits",
    "order_seed",
    "editor_seed",
    "within",
    "between",
    "immediate",
    "reliability",
    "generality",
    "locality",
    "seconds",
    "pinned",
)
GENERALITY = ("generality_light", "generality_strong")
LOCALITY = ("locality_same_subject", "locality_near", "locality_far")


@dataclass(frozen=True)
class Order:
    """What an order is made with: the first ``edits`` of a stream, in batches, by a planner."""

    planner: str
    batch_size: int
    seed: int
    edits: int


@dataclass
class OrderRun:
    """A finished run; a pinned one is kept when others are cleared."""

    number: int
    row: dict[str, object]
    pinned: bool = False

    @property
    def order(self) -> Order:
        """The order that was run."""
        row = self.row
        return Order(row["order"], row["batch_size"], row["order_seed"], row["edits"])


class Run:
    """One order being learned by one editor.

    Attributes
    ----------
    doing
        What happens now, in words.
    share
        How much is done, in [0, 1].
    """

    def __init__(
        self, host: Host, editor: Editor, stream: EditStream, order: Order, seed: int
    ) -> None:
        self.editor, self.order = editor, order
        self.doing, self.share = "opening the session", 0.0
        self._host, self._stream, self._seed = host, stream, seed
        self._seconds = 0.0
        self._slices = Slices(self._work)

    def advance(self, seconds: float) -> dict[str, object] | None:
        """Go on for about ``seconds``; the row of the run once it has ended."""
        started = time.perf_counter()
        ended = self._slices.advance(seconds)
        self._seconds += time.perf_counter() - started
        return self._slices.result | {"seconds": self._seconds} if ended else None

    def stop(self) -> None:
        """Give it up; the host is free afterwards."""
        self._slices.cancel()

    def _work(self, checkpoint: Checkpoint) -> dict[str, object]:
        with calling_after_optimiser_steps(self._calibrating(checkpoint)):
            session = EditSession(self._host, self.editor, self._stream, progress=False)
        batches = len(self._stream)

        def on_step(step: int, steps: int, loss: float) -> None:
            done = len(session.reports)
            self.share = (done + step / steps) / batches
            self.doing = (
                f"batch {done + 1} of {batches}, optimiser step {step} of at most {steps}, "
                f"loss {loss:.3f}"
            )
            checkpoint()

        with session:
            while session.steps < batches:
                session.step(on_step, checkpoint=checkpoint)
            self.doing, self.share = "measuring everything once more", 1.0
            session.evaluator.measure(self._stream.batches, batches, checkpoint=checkpoint)
            session.evaluate()
            return self._row(probes.order(session))

    def _calibrating(self, checkpoint: Checkpoint) -> Checkpoint:
        steps = 0

        def on_step() -> None:
            nonlocal steps
            steps += 1
            self.doing = f"calibrating the router, optimiser step {steps}"
            checkpoint()

        return on_step

    def _row(self, measured: pd.DataFrame) -> dict[str, object]:
        found = measured.iloc[0]
        return {
            "editor": self.editor.name,
            "order": self.order.planner,
            "batch_size": self.order.batch_size,
            "batches": int(found["batches"]),
            "edits": self.order.edits,
            "order_seed": self.order.seed,
            "editor_seed": self._seed,
            **found[["within", "between", "immediate", "reliability"]].astype(float),
            "generality": _mean_of(found, GENERALITY),
            "locality": _mean_of(found, LOCALITY),
        }


@contextmanager
def calling_after_optimiser_steps(act: Checkpoint) -> Iterator[None]:
    """Call ``act`` after every optimiser step of this thread until the block ends.

    Calibration has no callback of its own; between two of its steps nothing hangs on the host.
    """
    mine = threading.get_ident()

    def hook(_optimiser: Optimizer, _args: tuple, _kwargs: dict) -> None:
        if threading.get_ident() == mine:
            act()

    handle = register_optimizer_step_post_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def _mean_of(row: pd.Series, names: tuple[str, ...]) -> float:
    """The mean of those columns that were measured; NaN if none was."""
    values = [row[name] for name in names if name in row and not pd.isna(row[name])]
    return float(np.mean(values)) if values else float("nan")
