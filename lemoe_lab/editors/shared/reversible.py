"""Editors that go back by snapshots: their life on a host, undo and redo."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor

from ...adaptor.routing import BYPASS
from ...edits import EditBatch, EditStream
from ...host import Host
from ...host.encoding import TokenSequence
from ...host.hooks import Hung
from ...host.surroundings import learning, ordinarily, ordinary
from ..base import Editor, OnStep, TrainingReport, encode_batch


class ReversibleEditor(Editor):
    """An editor that keeps a snapshot from after every batch.

    A method says how it hangs on the host, how it learns a batch, and what a snapshot of it is.
    Snapshots are never changed in place; each may hold what its batch made and no more, the others
    being there too.
    """

    def __init__(self, **settings: object) -> None:
        super().__init__(**settings)
        self._host: Host | None = None
        self._steps = 0
        self.snapshots: list = []  # after 0, 1, ... batches; those past `steps` were taken back
        self._learned: dict[int, int] = {}  # by step, which of all batches ever learned it was

    # What a method decides

    @abstractmethod
    def _hang_on(self, stream: EditStream, calibration: dict[str, Tensor] | None) -> None:
        """Calibrate, unless a calibration is given, and get ready on ``self.host``."""

    @abstractmethod
    def _take_off(self) -> None:
        """Give the host back as it was, also after a :meth:`_hang_on` that failed half-way."""

    @abstractmethod
    def _learn(
        self, batch: EditBatch, sequences: Sequence[TokenSequence], on_step: OnStep | None
    ) -> TrainingReport:
        """Learn a batch; ``steps`` counts it already. If this raises, the snapshot is restored."""

    @abstractmethod
    def _load(self, state: dict[str, Tensor]) -> None:
        """Apply the ``step_state`` of a batch in place of learning it; ``steps`` counts it."""

    @abstractmethod
    def _snapshot(self) -> object:
        """What :meth:`_restore` needs to bring the present state back, bit for bit."""

    @abstractmethod
    def _restore(self, snapshot: object) -> None:
        """Bring back the state of a snapshot, which stays usable."""

    # Life

    @property
    def host(self) -> Host:
        if self._host is None:
            raise RuntimeError("this editor is not attached to a host; call attach(host, stream)")
        return self._host

    @property
    def steps(self) -> int:
        return self._steps

    @property
    def redoable(self) -> int:
        """How many batches :meth:`redo` can bring back."""
        return len(self.snapshots) - 1 - self._steps

    @property
    def version(self) -> Hashable:
        return self.steps, self._learned.get(self.steps)

    def expert_version(self, expert: int) -> Hashable:
        if self.experts_frozen and expert != BYPASS:
            return expert, self._learned.get(expert + 1)
        return super().expert_version(expert)

    def attach(
        self, host: Host, stream: EditStream, calibration: dict[str, Tensor] | None = None
    ) -> None:
        host.claim(self)
        self._host = host
        self._steps, self.snapshots, self._learned = 0, [], {}
        try:
            with ordinary(host.model, learning=True):
                self._hang_on(stream, calibration)
                self.snapshots.append(self._snapshot())
        except BaseException:
            self.detach()
            raise

    def detach(self) -> None:
        if self._host is None:
            return
        self._take_off()
        self._host.release()
        self._host = None

    @learning
    def edit(self, batch: EditBatch, on_step: OnStep | None = None) -> TrainingReport:
        sequences = encode_batch(self.host, batch)
        with self._next_step():
            report = self._learn(batch, sequences, on_step)
        self._learned[self.steps] = max(self._learned.values(), default=0) + 1
        return report

    def load_step_state(self, step: int, state: dict[str, Tensor]) -> None:
        with self._next_step():
            self._load(state)

    @contextmanager
    def _next_step(self) -> Iterator[None]:
        """Keep what the block makes of the next batch; if it raises, nothing of that remains."""
        self._steps += 1
        try:
            yield
            made = self._snapshot()
        except BaseException:
            self._go_to(self._steps - 1)
            raise
        self.snapshots[self._steps :] = [made]

    def _go_to(self, step: int) -> None:
        self._steps = step
        self._restore(self.snapshots[step])

    @ordinarily
    def undo(self) -> None:
        if not self._steps:
            raise RuntimeError("nothing to undo: no batch is applied")
        self._go_to(self._steps - 1)

    @ordinarily
    def redo(self) -> None:
        if not self.redoable:
            raise RuntimeError("nothing to redo: no batch was taken back")
        self._go_to(self._steps + 1)

    def _after(self, step: int) -> object:
        """The snapshot from right after batch ``step``."""
        return self.snapshots[step]


class HookedEditor(ReversibleEditor):
    """A reversible editor that hangs on the host by hooks and overwrites nothing.

    :meth:`_hang_on` puts what takes the hooks off into ``_detach``.
    """

    def __init__(self, **settings: object) -> None:
        super().__init__(**settings)
        self._detach: Hung | None = None

    def changed_tensors(self) -> tuple[str, ...]:
        return ()

    def _applied(self) -> Hashable:
        """What a gate asks: the present state's name, None while nothing is applied."""
        return self.version if self.steps else None

    def _take_off(self) -> None:
        if self._detach:
            self._detach()
        self._detach = None
