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
from dataclasses import replace
from typing import Literal

import numpy as np
import pandas as pd

from ... import planning
from ...editors import Editor, LEMoE
from ...edits import EditError, EditStream
from ...host import Host
from ..common.choices import AS_GIVEN, check_known, editor_specs, planned, rebatched
from ..common.points import Axes2, principal_axes
from .runs import COLUMNS, Order, OrderRun, Run

SMALL = 48  # edits of a run unless more are asked for
MOST_RUNS = 8
Event = Literal["progress", "planned", "runs"]


class PlaygroundModel:
    """Plans and runs orders of one stream's first edits on one host.

    Attributes
    ----------
    order
        What is planned now: planner, batch size, seed, and how many edits.
    stream
        The edits in the batches of that order.
    formed
        How many of its batches are shown as formed.
    runs
        Finished runs, the oldest first.
    running
        The run that is under way, or None.
    on_event
        Called with ``planned``, ``progress`` or ``runs`` when that has changed.
    """

    def __init__(
        self, stream: EditStream, host: Host, editor: Editor | None = None, edits: int = SMALL
    ) -> None:
        self.source, self.host = stream, host
        self.specs = editor_specs(editor or LEMoE())
        self.runs: list[OrderRun] = []
        self.running: Run | None = None
        self.on_event: list[Callable[[Event], None]] = []
        self._numbers = 0
        edits = min(max(1, edits), len(stream.edits))
        batch_size = min(edits, max(len(batch) for batch in stream))
        self._plan(Order(AS_GIVEN, batch_size, 0, edits))

    # Planning

    def choose(self, **changes: object) -> None:
        """Plan again with another planner, batch_size, seed or number of edits.

        Raises
        ------
        EditError
            If the edits cannot be put into such batches; the order then stays as it was.
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
        self.formed = len(self.stream)
        self.similarity = planning.similarity(self.stream, self.host)
        self._tell("planned")

    def form(self, batches: int) -> None:
        """Show only the first batches as formed."""
        if not 0 <= batches <= len(self.stream):
            raise EditError(
                f"formed batches lie between 0 and {len(self.stream)}, not at {batches}"
            )
        self.formed = batches
        self._tell("planned")

    def batches(self) -> pd.DataFrame:
        """One row per batch: batch, edits, within (mean cosine similarity, NaN for one edit)."""
        edits = self.source.edits[: self.order.edits]
        points = {edit.id: point for edit, point in zip(edits, self._embeddings(), strict=True)}
        rows = []
        for batch in self.stream:
            own = np.stack([points[edit.id] for edit in batch])
            pairs = (own @ own.T)[np.triu_indices(len(own), 1)]
            rows.append((batch.step, len(batch), pairs.mean() if len(pairs) else np.nan))
        return pd.DataFrame(rows, columns=["batch", "edits", "within"])

    def map(self) -> tuple[Axes2, dict[str, np.ndarray]]:
        """The axes, and where every edit (by id) lies on them, (2,); the same for all orders."""
        points = self._embeddings()
        axes = principal_axes(points)
        edits = self.source.edits[: self.order.edits]
        places = axes.project(points)
        return axes, {edit.id: place for edit, place in zip(edits, places, strict=True)}

    def _embeddings(self) -> np.ndarray:
        return planning.embeddings(self.source.edits[: self.order.edits], self.host)

    # Running

    @property
    def busy(self) -> bool:
        """Whether a run is under way."""
        return self.running is not None

    def run(self, editor: str, seed: int = 0) -> None:
        """Begin to learn the planned order with an editor.

        Raises
        ------
        EditError
            If a run is under way, or if there is no such editor.
        RuntimeError
            If an open session edits the host.
        """
        if self.running:
            raise EditError("a run is under way; wait for its end or stop it")
        check_known("editor", editor, self.specs)
        self.host.require_free()
        made = self.specs[editor].make(seed)
        self.running = Run(self.host, made, self.stream, self.order, seed)
        self._tell("progress")

    def tick(self, seconds: float = 0.08) -> bool:
        """Do what is due for about ``seconds``; whether more is due.

        Raises
        ------
        Exception
            If the run fails; the host is then free again, and earlier runs stay.
        """
        if not self.busy:
            return False
        running = self.running
        try:
            ended = running.advance(seconds)
        except BaseException:
            self.running = None
            self._tell("runs")
            raise
        if ended:
            self.running = None
            self._keep(running.result | {"seconds": running.seconds})
        else:
            self._tell("progress")
        return not ended

    def wait(self) -> None:
        """Do everything that is due."""
        while self.tick(1.0):
            pass

    def stop(self) -> None:
        """Give the run up that is under way; the host is free again, and earlier runs stay."""
        if self.running:
            running, self.running = self.running, None
            running.cancel()
            self._tell("runs")

    # Comparing

    def _keep(self, row: dict[str, object]) -> None:
        self._numbers += 1
        self.runs.append(OrderRun(self._numbers, row))
        spare = [run for run in self.runs[:-1] if not run.pinned]
        for run in spare[: max(0, len(self.runs) - MOST_RUNS)]:
            self.runs.remove(run)
        self._tell("runs")

    def pin(self, number: int, pinned: bool = True) -> None:
        """Keep a run when others are cleared, or no longer."""
        self._run(number).pinned = pinned
        self._tell("runs")

    def show(self, number: int) -> None:
        """Plan the order of a finished run again."""
        self._plan(self._run(number).order)

    def clear(self) -> None:
        """Forget all runs that are not pinned."""
        self.runs = [run for run in self.runs if run.pinned]
        self._tell("runs")

    def _run(self, number: int) -> OrderRun:
        for run in self.runs:
            if run.number == number:
                return run
        known = ", ".join(str(run.number) for run in self.runs) or "none"
        raise EditError(f"no run {number}; the table has {known}")

    def table(self) -> pd.DataFrame:
        """One row per finished run, see ``runs.COLUMNS``."""
        rows = [{"run": run.number, **run.row, "pinned": run.pinned} for run in self.runs]
        return pd.DataFrame(rows, columns=list(COLUMNS))

    def _tell(self, event: Event) -> None:
        for listener in self.on_event:
            listener(event)
