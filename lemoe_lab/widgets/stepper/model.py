"""The stepper without its view: commands, and the work that they ask for in small ticks.

    model = StepperModel(session)
    model.step()
    model.wait()                                  # or: while model.tick(0.08): do something else
    model.ask("The prime minister of Gemland is").edited

Commands return at once. ``tick`` does the work that is due for about as long as it is told and
returns whether more is due; between two ticks the host is whole and answers questions, although a
batch may be half learned. ``pause`` holds a running batch between two optimiser steps; every
command that leads away from a half-learned batch abandons it.
"""

from __future__ import annotations

import time
from dataclasses import replace
from itertools import count
from typing import Literal

from ...edits import Edit, EditError
from ...session import EditSession
from ..common import ask as asking
from ..common.background import Model, Progress, Slices
from ..common.choices import AS_GIVEN, Choice, editor_specs, remade
from ..common.history import History

Phase = Literal["idle", "training", "held"]

LOOK_EVERY = 1.0  # seconds between two looks at how much of the running batch is said


class StepperModel(Model):
    """Steps a session forth and back and remembers what came of it.

    Its listeners hear ``progress``, ``moved`` (batches applied or taken back), ``grown`` (an edit
    joined the stream) or ``remade`` (:meth:`reset` put another session in the place of the first).
    """

    def __init__(self, session: EditSession) -> None:
        super().__init__()
        self.session = session
        self.source = session.stream
        self.specs = editor_specs(session.editor)
        size = max(len(batch) for batch in session.stream)
        self.choice = Choice(session.editor.name, AS_GIVEN, size, int(session.editor.config.seed))
        self.added: list[tuple[int, Edit]] = []  # the step before which each joined, and the edit
        self.delay = 0.0  # seconds to wait between two batches while playing
        self.step_seconds: list[float] = []  # of every batch learned here, waiting not counted
        self._target: int | None = None  # learn until so many batches are applied
        self._held = False
        self._running: RunningBatch | None = None
        self._next_batch_at = 0.0
        self.history = History(session)

    # What is

    @property
    def steps(self) -> int:
        """How many batches are applied; the running one does not count."""
        return self._running.before if self._running else self.session.steps

    @property
    def batches(self) -> int:
        """How many batches the stream has."""
        return len(self.session.stream)

    @property
    def phase(self) -> Phase:
        """Nothing to do, learning, or held in the middle of a batch."""
        if self._held:
            return "held"
        return "idle" if self._target is None else "training"

    @property
    def busy(self) -> bool:
        """Whether work is due."""
        return self.phase == "training"

    @property
    def progress(self) -> Progress | None:
        """How far the batch is that is being learned, None if there is none."""
        return self._running.progress if self._running else None

    @property
    def can_undo(self) -> bool:
        return self.steps > 0 or self._running is not None

    @property
    def can_redo(self) -> bool:
        return self.session.redoable > 0 and self._running is None

    @property
    def can_learn(self) -> bool:
        return self.steps < self.batches

    # Commands

    def play(self) -> None:
        """Learn batch after batch until the end or a pause."""
        self._learn_up_to(self.batches)

    def pause(self) -> None:
        """Stop after the optimiser step that is running; a half-learned batch is held."""
        self._held, self._target = self._running is not None, None
        self.tell("progress")

    def toggle(self) -> None:
        """Pause while learning, else play."""
        (self.pause if self.busy else self.play)()

    def step(self) -> None:
        """Learn one batch, or learn the held one to its end."""
        self._learn_up_to(self.steps + 1)

    def undo(self) -> None:
        """Take the last batch back; a running one is abandoned instead."""
        if self._running:
            self.abandon()
            return
        if not self.steps:
            raise EditError("nothing to undo: no batch is applied")
        self.session.undo()
        self._settle()

    def redo(self) -> None:
        """Apply the batch that was last taken back, without training."""
        if not self.can_redo:
            raise EditError("nothing to redo: no batch was taken back since the last step")
        self.session.redo()
        self._settle()

    def jump(self, step: int) -> None:
        """Undo, redo and learn until ``step`` batches are applied."""
        if not 0 <= step <= self.batches:
            raise EditError(f"step must lie between 0 and {self.batches}, not {step}")
        self.abandon()
        self.session.jump(min(step, self.steps + self.session.redoable))
        self._settle()
        if self.steps < step:
            self._learn_up_to(step)

    def abandon(self) -> None:
        """Forget the running batch; all batches before it stay."""
        running = self._running
        if running:
            running.cancel()
        self._forget_running()
        if running:
            self._settle()

    def reset(self, choice: Choice) -> None:
        """Start again with the same edits and these choices; if they are impossible, do not."""
        self.abandon()
        groups = [*(batch.edits for batch in self.source), *([edit] for _, edit in self.added)]
        source = self.source.with_groups(groups)
        self.session = remade(self.session, source, choice, self.specs)
        self.choice, self.source, self.added = choice, source, []
        self.step_seconds.clear()
        self.history = History(self.session)
        self.tell("remade")

    def teach(self, prompt: str, target: str) -> Edit:
        """Make an edit of its own; it joins the stream as the next batch, which is then learned.

        An EditError says if it is empty, too long, or what the model says already.
        """
        session = self.session
        known = {edit.id for edit in session.stream.edits}
        new_id = next(name for name in map("asked/{}".format, count(1)) if name not in known)
        edit = Edit(id=new_id, prompt=prompt, target=target)
        session.host.encode(edit.prompt, edit.target)
        if session.host.exact_match([edit.prompt], [edit.target])[0]:
            raise EditError(
                f"the model already answers {edit.prompt!r} with {edit.target!r}; "
                "type another target"
            )
        done = self.steps + (self._running is not None)
        to_the_end = self._target == self.batches
        session.add_batch([edit], at=done)
        self.added.append((done, edit))
        self.tell("grown")
        self._learn_up_to(self.batches if to_the_end else max(done + 1, self._target or 0))
        return edit

    def ask(self, prompt: str) -> asking.Answer:
        """Ask the model with and without the edits, at any time between two ticks."""
        self._require_plain_host()
        return replace(asking.ask(self.session, prompt), step=self.steps)

    def open(self, edit: str) -> asking.OpenedEdit:
        """Everything about one edit of the stream, by its id."""
        self._require_plain_host()
        return asking.open_edit(self.session, self.history, edit)

    def _require_plain_host(self) -> None:
        if self._running and self.session.editor.changed_tensors():
            raise EditError(
                f"{self.session.editor.name} is changing the host's weights; "
                "ask again when the running batch is learned or abandoned"
            )

    # Work

    def tick(self, seconds: float = 0.08) -> bool:
        """Do what is due for about ``seconds``; after an error the last whole step is applied."""
        if not self.busy:
            return False
        if self._running is None:
            rest = self._next_batch_at - time.perf_counter()
            if rest > 0:
                time.sleep(min(seconds, rest, 0.02))
                return True
            self._running = RunningBatch(self.session)
        try:
            ended = self._running.advance(seconds)
        except BaseException:
            self._forget_running()
            self._settle()
            raise
        if ended:
            self.step_seconds.append(self._running.seconds)
            self._running = None
            self._next_batch_at = time.perf_counter() + self.delay
            self._settle()
        else:
            self.tell("progress")
        return self.busy

    def _learn_up_to(self, target: int) -> None:
        if target > self.batches:
            raise EditError(
                f"all {self.batches} batches are applied; undo some, or teach the model a new edit"
            )
        self._held, self._target = False, target
        self._next_batch_at = 0.0
        self.tell("progress")

    def _settle(self) -> None:
        """After the number of applied batches has changed."""
        if self._target is not None and self.steps >= self._target:
            self._target = None
        self.history.update()
        self.tell("moved")

    def _forget_running(self) -> None:
        self._running, self._held, self._target = None, False, None


class RunningBatch(Slices):
    """The next batch of a session, being learned; if it cannot be, the session stays as it was."""

    def __init__(self, session: EditSession) -> None:
        self.session, self.before = session, session.steps
        self.batch = session.stream.batches[self.before]
        progress = self.progress = Progress(self.batch.step)
        self._looked_at = time.perf_counter()
        super().__init__(lambda checkpoint: progress.learn(session, checkpoint))

    def advance(self, seconds: float) -> bool:
        ended = super().advance(seconds)
        if not ended and time.perf_counter() - self._looked_at >= LOOK_EVERY:
            prompts = [edit.prompt for edit in self.batch]
            targets = [edit.target for edit in self.batch]
            scores = self.session.host.score(prompts, targets)
            self.progress.reliability = sum(s.reproduced for s in scores) / len(scores)
            self._looked_at = time.perf_counter()
        return ended
