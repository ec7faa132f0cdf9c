"""What the editors share that overwrite weights of the host."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor, nn

from ...edits import EditBatch, EditStream
from ...host.encoding import TokenSequence
from ..base import OnStep, TrainingReport, named, tensors_of
from .footprint import FLOAT32, TRAINED, Footprint, Workload
from .reversible import ReversibleEditor


@dataclass(frozen=True)
class Overwritten:
    """Weights and memory at one time, by name; the tensors are shared, never changed in place."""

    weights: dict[str, Tensor]
    memory: dict[str, Tensor]


class WeightEditor(ReversibleEditor):
    """An editor that overwrites tensors of the host and remembers what they were.

    Attributes
    ----------
    parameters
        The host's parameters that this editor changes, by name.
    calibrated
        What was found out before the first batch, by name; batches do not change it.
    memory
        Whatever else the last batch left behind, by name. Replace its tensors, never change them.
    """

    def __init__(self, **settings: object) -> None:
        super().__init__(**settings)
        self.parameters: dict[str, nn.Parameter] = {}
        self.calibrated: dict[str, Tensor] = {}
        self.memory: dict[str, Tensor] = {}
        self._originals: dict[str, Tensor] = {}

    # What a method decides

    @abstractmethod
    def _edited_weights(self) -> Sequence[nn.Parameter]:
        """The host's parameters that batches change."""

    @abstractmethod
    def _overwrite(
        self, batch: EditBatch, sequences: Sequence[TokenSequence], on_step: OnStep | None
    ) -> TrainingReport:
        """Learn a batch by changing :attr:`parameters`, in place if it likes."""

    def _calibrate(self, stream: EditStream) -> dict[str, Tensor]:
        """What the method needs to know of the unedited host before the first batch."""
        return {}

    # Life

    def changed_tensors(self) -> tuple[str, ...]:
        return tuple(self.parameters)

    def _hang_on(self, stream: EditStream, calibration: dict[str, Tensor] | None) -> None:
        chosen = {id(parameter) for parameter in self._edited_weights()}
        named_parameters = self.host.model.named_parameters()
        self.parameters = {name: p for name, p in named_parameters if id(p) in chosen}
        self._originals = {name: p.data for name, p in self.parameters.items()}
        self.calibrated = self._calibrate(stream) if calibration is None else calibration
        self.memory = {}

    def _take_off(self) -> None:
        self._point_at(self._originals)
        self.parameters, self._originals = {}, {}

    def _learn(
        self, batch: EditBatch, sequences: Sequence[TokenSequence], on_step: OnStep | None
    ) -> TrainingReport:
        self._point_at({name: p.data.clone() for name, p in self.parameters.items()})
        return self._overwrite(batch, sequences, on_step)

    def _snapshot(self) -> Overwritten:
        return Overwritten({name: p.data for name, p in self.parameters.items()}, dict(self.memory))

    def _restore(self, snapshot: Overwritten) -> None:
        self._point_at(snapshot.weights)
        self.memory = dict(snapshot.memory)

    def _earlier_memories(self) -> list[dict[str, Tensor]]:
        """While a batch is learned: :attr:`memory` after each earlier batch, the oldest first."""
        return [snapshot.memory for snapshot in self.snapshots[1 : self.steps]]

    def _point_at(self, weights: dict[str, Tensor]) -> None:
        for name, tensor in weights.items():
            self.parameters[name].data = tensor

    @contextmanager
    def disabled(self) -> Iterator[None]:
        now = {name: p.data for name, p in self.parameters.items()}
        self._point_at(self._originals)
        try:
            yield
        finally:
            self._point_at(now)

    @contextmanager
    def trainable(self) -> Iterator[list[nn.Parameter]]:
        """The parameters collect gradients until the block ends."""
        parameters = list(self.parameters.values())
        for parameter in parameters:
            parameter.requires_grad_(True)
        try:
            yield parameters
        finally:
            for parameter in parameters:
                parameter.requires_grad_(False)
                parameter.grad = None

    # State

    @property
    def added_values(self) -> int:
        return 0

    def answering_state(self) -> dict[str, Tensor]:
        """``weights.*`` after the last batch; calibration and memory serve learning alone."""
        state = self.step_state(self.steps) if self.steps else {}
        return {name: tensor for name, tensor in state.items() if name.startswith("weights.")}

    def footprint(self, work: Workload) -> Footprint:
        weights = self._edited_weights()
        return Footprint(
            held=work.batches * sum(weight.nbytes for weight in weights),
            training=sum(weight.numel() for weight in weights) * (1 + TRAINED) * FLOAT32,
            holds=f"{work.batches} copies of {len(weights)} weights",
        )

    def step_state(self, step: int) -> dict[str, Tensor]:
        if step == 0:
            return self.calibrated
        after = self._after(step)
        return named("weights", after.weights) | named("memory", after.memory)

    def _load(self, state: dict[str, Tensor]) -> None:
        device = self.host.device
        self._restore(
            Overwritten(tensors_of(state, "weights", device), tensors_of(state, "memory", device))
        )


def matrix(module: nn.Module) -> Tensor:
    """A linear module's weight as a view (out, in), also where the host stores it transposed."""
    transposed = not isinstance(module, nn.Linear)
    return module.weight.data.T if transposed else module.weight.data
