"""What the editors with an adaptor share: experts beside one FFN, taken back step by step."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from ...adaptor.experts import Expert, LowRankExpert
from ...adaptor.mixture import BypassMoE
from ...adaptor.routing import Router, Routes
from ...edits import EditBatch, EditStream
from ...host.encoding import TokenSequence
from ...host.identity import prompt_numbers
from ...host.reuse import Kept, reused
from ...host.states import LayerStates
from ...host.surroundings import ordinarily
from ..base import EditorConfig, OnStep, TrainingReport, train, two_thirds_up
from .reversible import HookedEditor


class BypassConfig(EditorConfig):
    """Settings of every editor with an adaptor.

    Parameters
    ----------
    layer
        The decoder layer whose FFN gets the adaptor, from 0; None: two thirds up, as in the paper.
    intermediate
        Hidden size of an expert; None: that of the host's own FFN.
    expert_rank
        Experts are the host's own FFN with low-rank changes of this rank (LoRA), see
        :class:`~lemoe_lab.adaptor.experts.LowRankExpert`; None: FFNs of the host's kind.
    scale
        lambda, the weight of the experts beside the FFN.
    steps, learning_rate, loss_threshold
        AdamW takes at most ``steps`` steps at each batch, fewer once the loss is below
        ``loss_threshold``.
    router_learning_rate
        The learning rate of what is trained in the router; None: ``learning_rate``.
    """

    layer: int | None = Field(None, ge=0)
    intermediate: int | None = Field(None, ge=1)
    expert_rank: int | None = Field(None, ge=1)
    scale: float = Field(1.0, gt=0)
    steps: int = Field(100, ge=1)
    learning_rate: float = Field(2e-3, gt=0)
    router_learning_rate: float | None = Field(None, ge=0)
    loss_threshold: float = Field(0.001, ge=0)

    @model_validator(mode="after")
    def _one_size(self) -> BypassConfig:
        if self.intermediate is not None and self.expert_rank is not None:
            raise ValueError("intermediate and expert_rank both say how large experts are; set one")
        return self


@dataclass(frozen=True, eq=False)
class RouterState:
    """What one step left in the router: what it added, and copies of what every step replaces."""

    tensors: dict[str, Tensor]

    def buffers(self) -> Iterator[Tensor]:
        """All tensors that are held here."""
        return iter(self.tensors.values())


@dataclass(frozen=True, eq=False)
class Snapshot:
    """What one step made; step 0 is the state before the first batch.

    After a step there are its own experts and, if experts are frozen, those of all earlier steps.
    """

    step: int
    router: RouterState
    experts: tuple[Expert | LowRankExpert, ...]


class BypassEditor(HookedEditor):
    """An editor that trains a :class:`~lemoe_lab.adaptor.mixture.BypassMoE`, no weight of the host.

    A method says what its router is, how the experts grow with a batch, and its loss.
    """

    config: BypassConfig

    # What a method decides

    @abstractmethod
    def _calibrate(self, stream: EditStream) -> dict[str, Tensor]:
        """What the router needs before the first batch."""

    @abstractmethod
    def _new_router(self, calibration: dict[str, Tensor]) -> Router:
        """The router before the first batch."""

    @abstractmethod
    def _prepare_experts(self) -> None:
        """Make the experts that the next batch trains; never change one in place."""

    @abstractmethod
    def _grow_router(self, features: Tensor, prompts: Tensor) -> None:
        """Make room for the next batch, whose prompts have these features (n, d) and numbers."""

    @abstractmethod
    def _trained_experts(self) -> list[nn.Parameter]:
        """Parameters of experts that the current batch trains."""

    @abstractmethod
    def _trained_router(self) -> list[nn.Parameter]:
        """Parameters of the router that the current batch trains."""

    @abstractmethod
    def _training_routes(self, features: Tensor) -> Routes:
        """Routes of the batch's prompts at this training step."""

    def _router_loss(self, states: LayerStates) -> Tensor | float:
        """What is added to the cross-entropy of the targets."""
        return 0.0

    # Life

    @property
    def layer(self) -> int:
        return two_thirds_up(self.host, self.config.layer)

    def _hang_on(self, stream: EditStream, calibration: dict[str, Tensor] | None) -> None:
        if calibration is None:
            calibration = self._calibrate(stream)
        self.adaptor = BypassMoE(self._new_router(calibration), self.config.scale)
        self.adaptor.to(self.host.device)
        self._detach = self.adaptor.attach(self.host, self.layer, self._applied)
        self._latest = self._made()

    # Editing

    def _learn(
        self, batch: EditBatch, sequences: Sequence[TokenSequence], on_step: OnStep | None
    ) -> TrainingReport:
        with self.disabled():
            states = self.host.states(sequences, self.layer)
        features = self.features(states)
        self._prepare_experts()
        self._grow_router(features, prompt_numbers(self.host, batch))
        losses = self._train(states, features, on_step)
        with torch.no_grad():
            routes = self._training_routes(features)
        self._latest = self._made()
        return TrainingReport(losses, routes.expert[:, 0].tolist())

    def _train(self, states: LayerStates, features: Tensor, on_step: OnStep | None) -> list[float]:
        config, host = self.config, self.host
        ids = host.target_ids(states.sequences)
        kept: Kept = {}

        def loss_of() -> Tensor:
            routes = self._training_routes(features)
            with self.scoring(routes), reused(host, states, self.layer, kept):
                hidden = host.finish(states, self.layer)
            loss = F.cross_entropy(host.target_logits(hidden, states.sequences), ids)
            return loss + self._router_loss(states)

        rate = config.learning_rate
        router_rate = rate if config.router_learning_rate is None else config.router_learning_rate
        groups = [(self._trained_experts(), rate), (self._trained_router(), router_rate)]
        return train(groups, loss_of, config.steps, config.loss_threshold, on_step)

    def _made(self) -> Snapshot:
        """What the step that ends now made."""
        router = RouterState(self.adaptor.router.step_state(self.steps - 1))
        experts = self.adaptor.experts
        return Snapshot(self.steps, router, tuple(experts[self._first_expert(self.steps) :]))

    def _first_expert(self, step: int) -> int:
        """Where the experts that a step made begin."""
        return max(0, step - 1) if self.experts_frozen else 0

    def _snapshot(self) -> Snapshot:
        return self._latest

    def _restore(self, snapshot: Snapshot) -> None:
        router, experts = self.adaptor.router, self.adaptor.experts
        router.forget(snapshot.step - 1)
        router.load_step_state(snapshot.step - 1, snapshot.router.tensors)
        del experts[self._first_expert(snapshot.step) :]
        experts.extend(snapshot.experts)
        self._latest = snapshot

    def _new_expert(self, number: int) -> Expert | LowRankExpert:
        config, ffn = self.config, self.host.ffn(self.layer)
        seed = config.seed * 100_003 + number
        if config.expert_rank is not None:
            return LowRankExpert(ffn, config.expert_rank, seed)
        return Expert(ffn, config.intermediate, seed)

    # Routes

    @ordinarily
    def features(self, states: LayerStates) -> Tensor:
        if self.adaptor.router.feature == "state":
            return states.prompt_state
        return self.host.embed_tokens([sequence.prompt for sequence in states.sequences])

    @ordinarily
    def prompt_features(self, prompts: Sequence[str]) -> Tensor:
        if self.adaptor.router.feature == "embedding":
            return self.host.embed(prompts)
        with self.disabled():
            return self.host.prompt_states(prompts, self.layer)

    @ordinarily
    @torch.no_grad()
    def routes(self, features: Tensor) -> Routes:
        return self.adaptor.router.route(features)

    @contextmanager
    def scoring(self, routes: Routes | None) -> Iterator[None]:
        with self.adaptor.pinned(routes):
            yield

    @contextmanager
    def disabled(self) -> Iterator[None]:
        with self.adaptor.pinned(None):
            yield
