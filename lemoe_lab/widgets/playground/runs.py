"""Runs of an order: under way, in slices, and finished, as rows of a table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.overrides import TorchFunctionMode

from ... import probes
from ...editors import Editor
from ...edits import EditStream
from ...host import Host
from ...session import EditSession
from ..common.background import Checkpoint, Slices

MADE_WITH = ("editor", "order", "batch_size", "batches", "edits", "order_seed", "editor_seed")
MEASURED = ("within", "between", "immediate", "reliability", "generality", "locality", "seconds")
COLUMNS = ("run", *MADE_WITH, *MEASURED, "pinned")
GENERALITY = ["generality_light", "generality_strong"]
LOCALITY = ["locality_same_subject", "locality_near", "locality_far"]


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


class Run(Slices):
    """One order being learned by one editor; after its end, or :meth:`cancel`, the host is free.

    Attributes
    ----------
    doing
        What happens now, in words.
    share
        How much is done, in [0, 1].
    result
        The row of the run once it has ended.
    """

    def __init__(
        self, host: Host, editor: Editor, stream: EditStream, order: Order, seed: int
    ) -> None:
        self.editor, self.order = editor, order
        self.doing, self.share = "opening the session", 0.0
        self._host, self._stream, self._seed = host, stream, seed
        super().__init__(self._learn)

    def _learn(self, checkpoint: Checkpoint) -> dict[str, object]:
        with Calibrating(self, checkpoint):
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
            found = probes.order(session).iloc[0]
        order = self.order
        made_with = (self.editor.name, order.planner, order.batch_size, batches, order.edits)
        row = dict(zip(MADE_WITH, (*made_with, order.seed, self._seed), strict=True))
        row |= {name: float(found[name]) for name in MEASURED[:4]}
        return row | {
            "generality": float(found.reindex(GENERALITY).astype(float).mean()),
            "locality": float(found.reindex(LOCALITY).astype(float).mean()),
        }


class Calibrating(TorchFunctionMode):
    """Inside the block a run halts at the gradients that this thread computes.

    Calibration has no callback of its own; where it computes gradients nothing hangs on the host.
    """

    def __init__(self, run: Run, checkpoint: Checkpoint) -> None:
        super().__init__()
        self._run, self._checkpoint, self._steps = run, checkpoint, 0

    def __torch_function__(
        self, function: Callable, types: tuple, args: tuple = (), kwargs: dict | None = None
    ) -> object:
        if function is torch.Tensor.backward:
            self._steps += 1
            self._run.doing = f"calibrating the router, optimiser step {self._steps}"
            self._checkpoint()
        return function(*args, **(kwargs or {}))
