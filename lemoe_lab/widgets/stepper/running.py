"""One batch while it is being learned: slice by slice, with how far it is.

batch = RunningBatch(session)
while not batch.advance(0.08):
    batch.progress.loss
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from ...session import EditSession
from ..common.background import Checkpoint, Slices

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


class RunningBatch(Slices):
    """The next batch of a session, being learned; if it cannot be, the session stays as it was.

    Attributes
    ----------
    before
        How many batches were applied when it began.
    """

    def __init__(self, session: EditSession) -> None:
        self.session, self.before = session, session.steps
        self.batch = session.stream.batches[self.before]
        self.progress = Progress(self.batch.step)
        self._looked_at = time.perf_counter()
        super().__init__(self._learn)

    def _learn(self, checkpoint: Checkpoint) -> None:
        progress = self.progress

        def on_step(step: int, steps: int, loss: float) -> None:
            progress.step, progress.steps, progress.loss = step, steps, loss
            checkpoint()

        self.session.step(on_step, checkpoint=checkpoint)

    def advance(self, seconds: float) -> bool:
        ended = super().advance(seconds)
        if not ended and time.perf_counter() - self._looked_at >= LOOK_EVERY:
            prompts = [edit.prompt for edit in self.batch]
            targets = [edit.target for edit in self.batch]
            scores = self.session.host.score(prompts, targets)
            self.progress.reliability = sum(s.reproduced for s in scores) / len(scores)
            self._looked_at = time.perf_counter()
        return ended
