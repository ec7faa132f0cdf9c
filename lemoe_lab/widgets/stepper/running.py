"""One batch while it is being learned: slice by slice, with how far it is.

batch = RunningBatch(session)
while not batch.advance(0.08):
    batch.progress.loss
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from ...edits import EditBatch
from ...session import EditSession
from ..common.slices import Checkpoint, Slices

LOOK_EVERY = 1.0  # seconds between two looks at how much of the batch is said


@dataclass
class Progress:
    """How far the running batch is; ``reliability`` is the share of its targets said so far."""

    batch: int
    step: int = 0
    steps: int = 0
    loss: float = float("nan")
    reliability: float | None = None

    @property
    def share(self) -> float:
        """Optimiser steps done, in [0, 1]."""
        return self.step / self.steps if self.steps else 0.0


class RunningBatch:
    """The next batch of a session, being learned.

    Attributes
    ----------
    before
        How many batches were applied when it began.
    seconds
        Time spent on it, waiting not counted.
    """

    def __init__(self, session: EditSession) -> None:
        self.session = session
        self.before = session.steps
        self.batch = session.stream.batches[self.before]
        self.progress = Progress(self.batch.step)
        self.seconds = 0.0
        self._looked_at = time.perf_counter()
        self._slices = Slices(self._learn)

    def _learn(self, checkpoint: Checkpoint) -> None:
        progress = self.progress

        def on_step(step: int, steps: int, loss: float) -> None:
            progress.step, progress.steps, progress.loss = step, steps, loss
            checkpoint()

        self.session.step(on_step, checkpoint=checkpoint)

    def advance(self, seconds: float) -> bool:
        """Learn for about ``seconds``; True once the batch is learned and measured.

        Raises
        ------
        Exception
            If it cannot be learned; the session is back at the last whole step.
        """
        started = time.perf_counter()
        ended = self._slices.advance(seconds)
        self.seconds += time.perf_counter() - started
        if not ended and time.perf_counter() - self._looked_at >= LOOK_EVERY:
            self.progress.reliability = said(self.session, self.batch)
            self._looked_at = time.perf_counter()
        return ended

    def cancel(self) -> None:
        """Forget what was learned of it; the session is back at the last whole step."""
        self._slices.cancel()


def said(session: EditSession, batch: EditBatch) -> float:
    """The share of a batch's targets that the model says now, stop included."""
    scores = session.host.score([e.prompt for e in batch], [e.target for e in batch])
    return sum(score.reproduced for score in scores) / len(scores)
