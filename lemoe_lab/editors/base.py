"""What every editor is: edit a batch, take the last batch back, say what it holds."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from torch import Tensor

from ..adaptor.routing import BYPASS, Routes
from ..edits import EditBatch, EditStream
from ..host import Host
from ..host.encoding import TokenSequence
from ..host.states import LayerStates

SAVED_AS = {"enough": "loss_threshold"}  # names of settings in older files
OnStep = Callable[[int, int, float], None]  # optimiser step, steps in all, loss


class EditorConfig(BaseModel):
    """Settings of an editor: unknown or impossible ones fail at construction."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int = 0

    @model_validator(mode="before")
    @classmethod
    def _as_saved(cls, settings: dict) -> dict:
        """Settings of saved runs and exports, some of which have older names."""
        return {SAVED_AS.get(name, name): value for name, value in settings.items()}


class ConfigError(ValueError):
    """A setting that an editor does not have or cannot take."""


@dataclass
class TrainingReport:
    """What happened while a batch was learned.

    ``losses`` has one entry per optimiser step; ``experts`` one per edit of the batch, the expert
    that learned it, empty for editors that do not route.
    """

    losses: list[float] = field(default_factory=list)
    experts: list[int] = field(default_factory=list)


class Editor(ABC):
    """An editing method.

    Life: ``attach(host, stream)``, any number of ``edit``, ``undo`` and ``redo``, ``detach``.
    Between attach and detach the host answers with the edits applied. ``variants`` are settings
    that figures show under a name of their own.
    """

    Config: ClassVar[type[EditorConfig]]
    variants: ClassVar[Mapping[str, Mapping[str, object]]] = {}

    def __init__(self, **settings: object) -> None:
        try:
            self.config = self.Config(**settings)
        except ValidationError as error:
            problems = "; ".join(
                f"{'.'.join(map(str, e['loc'])) or 'settings'}: {e['msg']}" for e in error.errors()
            )
            allowed = ", ".join(self.Config.model_fields)
            raise ConfigError(
                f"{type(self).__name__}: {problems}. Its settings are: {allowed}"
            ) from error

    @property
    def name(self) -> str:
        """What figures call this editor: the variant whose settings it has, else its class."""
        held = self.config.model_dump().items()
        fitting = (name for name, settings in self.variants.items() if settings.items() <= held)
        return next(fitting, type(self).__name__)

    @property
    @abstractmethod
    def layer(self) -> int:
        """The lowest decoder layer whose output this editor changes."""

    @property
    @abstractmethod
    def steps(self) -> int:
        """How many batches are applied now."""

    @abstractmethod
    def attach(
        self, host: Host, stream: EditStream, calibration: dict[str, Tensor] | None = None
    ) -> None:
        """Hang on the host, calibrated for a stream or by the ``step_state(0)`` of a saved run."""

    @abstractmethod
    def detach(self) -> None:
        """Give the host back as it was."""

    @abstractmethod
    def edit(self, batch: EditBatch, on_step: OnStep | None = None) -> TrainingReport:
        """Learn one batch; if it is interrupted, nothing of it remains."""

    @abstractmethod
    def undo(self) -> None:
        """Take the last batch back, exactly."""

    @abstractmethod
    def redo(self) -> None:
        """Apply the batch that was last taken back, exactly as it was learned."""

    @abstractmethod
    def changed_tensors(self) -> tuple[str, ...]:
        """Names of the host's tensors that this editor changes; none for an adaptor."""

    @abstractmethod
    def step_state(self, step: int) -> dict[str, Tensor]:
        """The tensors that batch ``step`` added (0: what was calibrated before the first)."""

    @abstractmethod
    def load_step_state(self, step: int, state: dict[str, Tensor]) -> None:
        """Apply the tensors of batch ``step`` after those of all earlier ones."""

    def state_dict(self) -> dict[str, Tensor]:
        """All step states in one dict."""
        return {
            f"step{step:04d}.{key}": tensor
            for step in range(self.steps + 1)
            for key, tensor in self.step_state(step).items()
        }

    @property
    def added_values(self) -> int:
        """How many numbers answer beside the host's own weights."""
        steps = range(self.steps + 1) if self.experts_frozen else {0, self.steps}
        return sum(t.numel() for step in steps for t in self.step_state(step).values())

    def features(self, states: LayerStates) -> Tensor:
        """What routing looks at, one row per prompt; (B, 0) for editors that do not route."""
        return torch.empty(len(states.sequences), 0)

    def prompt_features(self, prompts: Sequence[str]) -> Tensor:
        """The same as :meth:`features` for prompts (N), computed with nothing applied."""
        return torch.empty(len(prompts), 0)

    def routes(self, features: Tensor) -> Routes | None:
        """Routes of prompts now; None of an editor that does not route."""
        return None

    @property
    @abstractmethod
    def version(self) -> Hashable:
        """What the state is called: equal names mean the same state, bit for bit."""

    def expert_version(self, expert: int) -> Hashable:
        """The same for the weights of one expert; None for the bypass, which has none."""
        return None if expert == BYPASS else self.version

    @property
    def experts_frozen(self) -> bool:
        """Whether every batch has an expert of its own that later batches leave alone."""
        return False

    @contextmanager
    def scoring(self, routes: Routes | None) -> Iterator[None]:
        """Forward passes inside run with these routes for their rows; None: as they come."""
        yield

    @abstractmethod
    def disabled(self) -> AbstractContextManager[None]:
        """The host answers as if nothing was applied until the block ends."""


def train(
    groups: Sequence[tuple[list[torch.nn.Parameter], float]],
    loss_of: Callable[[], Tensor],
    steps: int,
    loss_threshold: float,
    on_step: OnStep | None,
) -> list[float]:
    """AdamW without weight decay until the loss is ``loss_threshold`` or the steps are used up.

    ``groups`` holds parameters with their learning rates. Returns the loss at every step.

    Raises
    ------
    RuntimeError
        If the loss is no number any more.
    """
    optimizer = torch.optim.AdamW(
        [{"params": parameters, "lr": rate} for parameters, rate in groups if parameters],
        weight_decay=0.0,
    )
    losses: list[float] = []
    for step in range(steps):
        loss = loss_of()
        losses.append(finite(loss.item(), step + 1))
        if on_step:
            on_step(step + 1, steps, losses[-1])
        if losses[-1] < loss_threshold:
            break
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return losses


def finite(loss: float, step: int) -> float:
    """The loss of an optimiser step; RuntimeError if it is no number any more."""
    if math.isfinite(loss):
        return loss
    raise RuntimeError(
        f"the loss is {loss} at optimiser step {step}, so nothing can be learned from it; take a "
        "lower learning_rate, or load a host in float16 as bfloat16 or float32 "
        "(load_host(..., dtype=torch.float32))"
    )


def two_thirds_up(host: Host, layer: int | None) -> int:
    """The layer that was chosen; None: two thirds of the way up, as in LEMoE's paper."""
    return len(host.layers) * 2 // 3 if layer is None else layer


def encode_batch(host: Host, batch: EditBatch) -> list[TokenSequence]:
    """Prompts and targets of a batch; an error names the edit."""
    sequences = []
    for edit in batch:
        try:
            sequences.append(host.encode(edit.prompt, edit.target))
        except ValueError as error:
            raise type(error)(f"edit {edit.id!r}: {error}") from error
    return sequences


def tensors_of(state: dict[str, Tensor], part: str, device: torch.device) -> dict[str, Tensor]:
    """The tensors below ``part`` of a step state, without that prefix."""
    return {
        name.removeprefix(f"{part}."): tensor.to(device)
        for name, tensor in state.items()
        if name.startswith(f"{part}.")
    }


def named(part: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors with ``part`` before their names."""
    return {f"{part}.{name}": tensor.detach() for name, tensor in tensors.items()}
