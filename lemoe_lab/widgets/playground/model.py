"""The playground without its view: plan an order, look at its batches, run it, compare.

    model = PlaygroundModel(stream, host)
    model.choose(planner="k-means", batch_size=8)
    model.similarity["within"]
    model.run("LEMoE scoped")
    model.wait()                                  # or: while model.tick(0.08): do something else
    model.table()                                 # one row per finished run

A run trains in slices, as the stepper does: ``tick`` does what is due for about as long as it is
told, and between two ticks the host may be asked and another order may be planned.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from torch.overrides import TorchFunctionMode

from ... import planning, probes
from ...editors import Editor, LEMoE
from ...edits import EditError, EditStream
from ...host import Host
from ...session import EditSession
from ..common.background import Checkpoint, Model, Progress, Slices
from ..common.choices import AS_GIVEN, check_known, editor_specs, planned, rebatched
from ..common.points import Axes2, principal_axes

SMALL = 48  # edits of a run unless more are asked for
MOST_RUNS = 8
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


class PlaygroundModel(Model):
    """Plans and runs orders of one stream's first edits on one host.

    Its listeners hear ``planned``, ``progress`` or ``runs`` when that has changed.
    """

    def __init__(
        self, stream: EditStream, host: Host, editor: Editor | None = None, edits: int = SMALL
    ) -> None:
        super().__init__()
        self.source, self.host = stream, host
        self.specs = editor_specs(editor or LEMoE())
        self.runs: list[OrderRun] = []  # finished ones, the oldest first
        self.running: Run | None = None
        self._numbers = 0
        edits = min(max(1, edits), len(stream.edits))
        batch_size = min(edits, max(len(batch) for batch in stream))
        self._plan(Order(AS_GIVEN, batch_size, 0, edits))

    # Planning

    def choose(self, **changes: object) -> None:
        """Plan again with another planner, batch_size, seed or number of edits.

        Where that is impossible an EditError says why, and the order stays as it was.
        """
        order = replace(self.order, **changes)
        self._plan(replace(order, batch_size=min(order.batch_size, max(1, order.edits))))

    def _plan(self, order: Order) -> None:
        available = len(self.source.edits)
        if not 1 <= order.edits <= available:
            raise EditError(f"edits must lie between 1 and {available}, not {order.edits}")
        stream = rebatched(self.source, order.batch_size, order.edits)
        self.stream = planned(stream, order.planner, order.seed, self.host)
        self.order = order
        self.formed = len(self.stream)  # how many batches are shown as formed
        self.similarity = planning.similarity(self.stream, self.host)
        self.tell("planned")

    def form(self, batches: int) -> None:
        """Show only the first batches as formed."""
        if not 0 <= batches <= len(self.stream):
            raise EditError(
                f"formed batches lie between 0 and {len(self.stream)}, not at {batches}"
            )
        self.formed = batches
        self.tell("planned")

    def batches(self) -> pd.DataFrame:
        """One row per batch: batch, edits, within (mean cosine similarity, NaN for one edit)."""
        points, rows = self._embeddings(), []
        for batch in self.stream:
            own = np.stack([points[edit.id] for edit in batch])
            pairs = (own @ own.T)[np.triu_indices(len(own), 1)]
            rows.append((batch.step, len(batch), pairs.mean() if len(pairs) else np.nan))
        return pd.DataFrame(rows, columns=["batch", "edits", "within"])

    def map(self) -> tuple[Axes2, dict[str, np.ndarray]]:
        """The axes, and where every edit (by id) lies on them, (2,); the same for all orders."""
        points = self._embeddings()
        axes = principal_axes(np.array([*points.values()]))
        return axes, dict(zip(points, axes.project([*points.values()]), strict=True))

    def _embeddings(self) -> dict[str, np.ndarray]:
        edits = self.source.edits[: self.order.edits]
        points = planning.embeddings(edits, self.host)
        return {edit.id: point for edit, point in zip(edits, points, strict=True)}

    # Running

    @property
    def busy(self) -> bool:
        """Whether a run is under way."""
        return self.running is not None

    def run(self, editor: str, seed: int = 0) -> None:
        """Begin to learn the planned order with an editor; one run at a time, on a free host."""
        if self.running:
            raise EditError("a run is under way; wait for its end or stop it")
        check_known("editor", editor, self.specs)
        self.host.require_free()
        made = self.specs[editor].make(seed)
        self.running = Run(self.host, made, self.stream, self.order, seed)
        self.tell("progress")

    def tick(self, seconds: float = 0.08) -> bool:
        """Learn for about ``seconds``; after an error the host is free, and earlier runs stay."""
        running = self.running
        if running is None:
            return False
        try:
            ended = running.advance(seconds)
        except BaseException:
            self.running = None
            self.tell("runs")
            raise
        if ended:
            self.running = None
            self._keep(running.result | {"seconds": running.seconds})
        else:
            self.tell("progress")
        return not ended

    def stop(self) -> None:
        """Give the run up that is under way; the host is free again, and earlier runs stay."""
        if self.running:
            running, self.running = self.running, None
            running.cancel()
            self.tell("runs")

    # Comparing

    def _keep(self, row: dict[str, object]) -> None:
        self._numbers += 1
        self.runs.append(OrderRun(self._numbers, row))
        spare = [run for run in self.runs[:-1] if not run.pinned]
        for run in spare[: max(0, len(self.runs) - MOST_RUNS)]:
            self.runs.remove(run)
        self.tell("runs")

    def pin(self, number: int, pinned: bool = True) -> None:
        """Keep a run when others are cleared, or no longer."""
        self._run(number).pinned = pinned
        self.tell("runs")

    def show(self, number: int) -> None:
        """Plan the order of a finished run again."""
        self._plan(self._run(number).order)

    def clear(self) -> None:
        """Forget all runs that are not pinned."""
        self.runs = [run for run in self.runs if run.pinned]
        self.tell("runs")

    def _run(self, number: int) -> OrderRun:
        runs = {run.number: run for run in self.runs}
        if number not in runs:
            known = ", ".join(map(str, runs)) or "none"
            raise EditError(f"no run {number}; the table has {known}")
        return runs[number]

    def table(self) -> pd.DataFrame:
        """One row per finished run, see ``COLUMNS``."""
        rows = [{"run": run.number, **run.row, "pinned": run.pinned} for run in self.runs]
        return pd.DataFrame(rows, columns=list(COLUMNS))


class Run(Slices):
    """One order being learned by one editor; after its end, or :meth:`cancel`, the host is free.

    The result is the row of the run.
    """

    def __init__(
        self, host: Host, editor: Editor, stream: EditStream, order: Order, seed: int
    ) -> None:
        self.editor, self.order = editor, order
        self.note = "opening the session"
        self.progress = Progress(1, len(stream))
        self._host, self._stream, self._seed = host, stream, seed
        super().__init__(self._learn)

    @property
    def doing(self) -> str:
        """What happens now, in words."""
        return self.note or str(self.progress)

    @property
    def share(self) -> float:
        """How much is done, in [0, 1]."""
        return (self.progress.batch - 1 + self.progress.share) / len(self._stream)

    def _learn(self, checkpoint: Checkpoint) -> dict[str, object]:
        with Calibrating(self, checkpoint):
            session = EditSession(self._host, self.editor, self._stream, progress=False)
        self.note, batches = "", len(self._stream)
        with session:
            while session.steps < batches:
                self.progress = Progress(session.steps + 1, batches)
                self.progress.learn(session, checkpoint)
            self.note = "measuring everything once more"
            self.progress = Progress(batches + 1, batches)
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
            self._run.note = f"calibrating the router, optimiser step {self._steps}"
            self._checkpoint()
        return function(*args, **(kwargs or {}))
