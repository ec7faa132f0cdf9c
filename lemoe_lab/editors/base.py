"""What every editor is: edit a batch, take the last batch back, say what it holds."""

from __future__ import annotations

import inspect
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
from .shared.footprint import Footprint, Workload
from .shared.preset import Preset
from .shared.signature import signature_of

SAVED_AS = {"enough": "loss_threshold"}  # names of settings in older files
OnStep = Callable[[int, int, float], None]  # optimiser step, steps in all, loss


class EditorConfig(BaseModel):
    """Settings of an editor: unknown or impossible ones fail at construction."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    learning_only: ClassVar[tuple[str, ...]] = ()  # settings that stay out of exports

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
    Between attach and detach the host answers with the edits applied.

    Attributes
    ----------
    Config
        The class of its settings.
    presets
        Settings that figures show under a name of their own. A class that has a ``Config`` and
        names none has one, called like the class: the default settings.
    replaced_parts, learning_only, hashes
        What becomes of a step's tensors in an export, see :meth:`answering_state`: beginnings of
        names of those that every batch replaces, and of those that only learning needs; names of
        numbers that stand for prompts and targets.
    known
        All editors that can be made, by the names of their classes. A class is known once it is
        defined, here or anywhere; one that is defined again takes the older one's place.
    """

    Config: ClassVar[type[EditorConfig]]
    presets: ClassVar[Mapping[str, Preset]] = {}
    replaced_parts: tuple[str, ...] = ()
    learning_only: ClassVar[tuple[str, ...]] = ()
    hashes: ClassVar[tuple[str, ...]] = ()
    known: ClassVar[dict[str, type[Editor]]] = {}

    def __init_subclass__(cls, **keywords: object) -> None:
        super().__init_subclass__(**keywords)
        if "presets" not in vars(cls):
            line = (cls.__doc__ or cls.__name__).strip().partition("\n")[0]
            cls.presets = {cls.__name__: Preset(line)} if "Config" in vars(cls) else {}
        if hasattr(cls, "Config"):
            cls.__signature__ = signature_of(cls.Config)
        if not inspect.isabstract(cls):
            cls._make_known()

    @classmethod
    def _make_known(cls) -> None:
        name, library = cls.__name__, __name__.partition(".")[0]
        namesake = Editor.known.get(name, cls).__module__
        if namesake != cls.__module__ and namesake.partition(".")[0] == library:
            raise TypeError(
                f"{namesake} has an editor {name} already, and saved runs, exports and sweeps know "
                "an editor by the name of its class; choose another name"
            )
        Editor.known[name] = cls

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
        """What figures call this editor: the preset whose settings it has, else its class."""
        held = self.config.model_dump().items()
        fitting = {
            n: len(p.settings) for n, p in self.presets.items() if p.settings.items() <= held
        }
        return max(fitting, key=fitting.__getitem__, default=type(self).__name__)

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

    def answering_state(self) -> dict[str, Tensor]:
        """The tensors that the editor answers with, by name: what an export holds.

        ``calibration.*``, what step 0 holds; ``step0001.*`` and on, what each batch added; and
        ``latest.*``, what every batch replaced. What only learning needs is left out, and hashes
        of prompts and targets are blanked. ``load_step_state`` gets a batch's tensors together
        with the latest ones.
        """
        state = {}
        for step in range(self.steps + 1):
            for name, tensor in self.step_state(step).items():
                if name.startswith(self.learning_only):
                    continue
                latest = step and name.startswith(self.replaced_parts)
                part = "latest" if latest else f"step{step:04d}" if step else "calibration"
                tensor = tensor.detach()
                state[f"{part}.{name}"] = (
                    torch.zeros_like(tensor) if name in self.hashes else tensor
                )
        return state

    def footprint(self, work: Workload) -> Footprint:
        """What the editor needs for a stream beside the host, which it knows, from shapes alone."""
        return Footprint(0, 0, "nothing that grows")

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
