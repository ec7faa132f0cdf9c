"""What the editors with an adaptor share: experts beside one FFN, taken back step by step."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from ...adaptor.experts import Expert
from ...adaptor.mixture import BypassMoE
from ...adaptor.routing import Router, Routes
from ...edits import EditBatch, EditStream
from ...host.encoding import TokenSequence
from ...host.identity import prompt_numbers
from ...host.names import Asked, Features
from ...host.reuse import Kept, reused
from ...host.states import LayerStates
from ...host.surroundings import ordinarily
from ..base import EditorConfig, OnStep, TrainingReport, named, tensors_of, train, two_thirds_up
from .footprint import FLOAT32, TRAINED, Footprint, Workload, ffn_sizes
from .low_rank import LowRankExpert
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
        :class:`~lemoe_lab.editors.shared.low_rank.LowRankExpert`; None: FFNs of the host's kind.
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


@dataclass(frozen=True)
class Step:
    """How one batch is learned.

    ``experts`` and ``router`` are the parameters that train, each with its own learning rate;
    ``routes`` gives the routes (n) of the batch's prompts at an optimiser step, and ``extra_loss``
    what is added to the cross-entropy of their targets.
    """

    experts: list[nn.Parameter]
    router: list[nn.Parameter]
    routes: Callable[[], Routes]
    extra_loss: Callable[[], Tensor | float] = float


@dataclass(frozen=True, eq=False)
class Made:
    """What a batch made; step 0 is the state before the first one.

    ``router`` holds what it added there and copies of what every batch replaces; ``experts`` are
    its own if batches have experts of their own, else all.
    """

    step: int
    router: dict[str, Tensor]
    experts: tuple[Expert | LowRankExpert, ...]


class BypassEditor(HookedEditor):
    """An editor that trains a :class:`~lemoe_lab.adaptor.mixture.BypassMoE`, no weight of the host.

    A method says what its router is, which experts a batch trains, and what its loss adds.
    """

    config: BypassConfig

    # What a method decides

    @abstractmethod
    def _new_router(self, stream: EditStream, calibration: dict[str, Tensor] | None) -> Router:
        """The router before the first batch, calibrated for the stream or as it was saved."""

    @abstractmethod
    def _renew_experts(self) -> Sequence[nn.Module]:
        """Make and return the experts that the next batch trains; never change one in place."""

    @abstractmethod
    def _expert_state(self, experts: Sequence[nn.Module]) -> dict[str, Tensor]:
        """The tensors of the experts that a batch made, as they are called in its state."""

    @abstractmethod
    def _begin(
        self, batch: EditBatch, features: Features, prompts: Tensor, lengths: Tensor
    ) -> Step:
        """Grow by a batch.

        Its prompts have these features (n, d) and numbers (n,), and with their targets these
        lengths in tokens (n,).
        """

    # Life

    @property
    def layer(self) -> int:
        return two_thirds_up(self.host, self.config.layer)

    def _hang_on(self, stream: EditStream, calibration: dict[str, Tensor] | None) -> None:
        self.adaptor = BypassMoE(self._new_router(stream, calibration), self.config.scale)
        self.adaptor.to(self.host.device)
        self._detach = self.adaptor.attach(self.host, self.layer, self._applied)

    def _new_expert(self, number: int) -> Expert | LowRankExpert:
        config, ffn = self.config, self.host.ffn(self.layer)
        seed = config.seed * 100_003 + number
        if config.expert_rank is not None:
            return LowRankExpert(ffn, config.expert_rank, seed)
        return Expert(ffn, config.intermediate, seed)

    # Learning

    def _learn(
        self, batch: EditBatch, sequences: Sequence[TokenSequence], on_step: OnStep | None
    ) -> TrainingReport:
        with self.disabled():
            states = self.host.states(sequences, self.layer)
        lengths = torch.tensor([len(s) for s in sequences], device=self.host.device)
        numbers = prompt_numbers(self.host, batch)
        step = self._begin(batch, self.features(states), numbers, lengths)
        losses = self._train(step, states, on_step)
        with torch.no_grad():
            routes = step.routes()
        return TrainingReport(losses, routes.expert[:, 0].tolist())

    def _train(self, step: Step, states: LayerStates, on_step: OnStep | None) -> list[float]:
        """AdamW on the cross-entropy of the targets and what the method adds."""
        config, host = self.config, self.host
        ids = host.target_ids(states.sequences)
        kept: Kept = {}

        def loss_of() -> Tensor:
            routes = step.routes()
            with self.scoring(routes), reused(host, states, self.layer, kept):
                hidden = host.finish(states, self.layer)  # (n, L, d)
            loss = F.cross_entropy(host.target_logits(hidden, states.sequences), ids)
            return loss + step.extra_loss()

        rate = config.learning_rate
        router_rate = rate if config.router_learning_rate is None else config.router_learning_rate
        groups = [(step.experts, rate), (step.router, router_rate)]
        return train(groups, loss_of, config.steps, config.loss_threshold, on_step)

    # Back and forth

    def _first_expert(self, step: int) -> int:
        """Where the experts that a step made begin."""
        return max(0, step - 1) if self.experts_frozen else 0

    def _snapshot(self) -> Made:
        router = self.adaptor.router.step_state(self.steps - 1)
        return Made(
            self.steps, router, tuple(self.adaptor.experts[self._first_expert(self.steps) :])
        )

    def _restore(self, snapshot: Made) -> None:
        router, experts = self.adaptor.router, self.adaptor.experts
        router.forget(snapshot.step - 1)
        router.load_step_state(snapshot.step - 1, snapshot.router)
        del experts[self._first_expert(snapshot.step) :]
        experts.extend(snapshot.experts)

    def step_state(self, step: int) -> dict[str, Tensor]:
        if step == 0:
            return self.adaptor.router.calibration_state()
        made = self._after(step)
        return self._expert_state(made.experts) | named("router", made.router)

    def _load(self, state: dict[str, Tensor]) -> None:
        device = self.host.device
        for name, tensor in self._expert_state(self._renew_experts()).items():
            tensor.copy_(state[name])
        self.adaptor.router.load_step_state(self.steps - 1, tensors_of(state, "router", device))

    # Routes

    @ordinarily
    def features(self, states: LayerStates) -> Features:
        rows = [sequence.prompt for sequence in states.sequences]
        if self.adaptor.router.feature == "embedding":
            return self.host.embed_tokens(rows)
        return self._with_words(states.prompt_state, rows)

    @ordinarily
    def prompt_features(self, prompts: Sequence[str]) -> Features:
        if self.adaptor.router.feature == "embedding":
            return self.host.embed(prompts)
        with self.disabled():
            states = self.host.prompt_states(prompts, self.layer)
        return self._with_words(states, map(self.host.encode_prompt, prompts))

    def _with_words(self, states: Tensor, rows: Iterable[Sequence[int]]) -> Features:
        """States (N, d) of prompts with these token ids, and their words if the router reads."""
        if self.adaptor.router.feature == "state":
            return states
        return Asked.of(states, [self.host.encoding.text(row) for row in rows])

    @ordinarily
    @torch.no_grad()
    def routes(self, features: Features) -> Routes:
        return self.adaptor.router.route(features)

    def scoring(self, routes: Routes) -> AbstractContextManager[None]:
        return self.adaptor.pinned(routes)

    def disabled(self) -> AbstractContextManager[None]:
        return self.adaptor.muted()

    # Memory

    def footprint(
        self, work: Workload, trained: int = 1, answering: int = 1, routing: float = 0
    ) -> Footprint:
        """As of every editor; a batch trains ``trained`` experts, and ``answering`` answer it.

        ``routing`` is what the router takes, in bytes.
        """
        matrices, rank = ffn_sizes(self.host, self.layer), self.config.expert_rank
        width, native = matrices[-1]
        if rank is None:
            hidden = self.config.intermediate or native
            numbers = sum(outputs * inputs for outputs, inputs in matrices) * hidden // native
            kind = f"of hidden size {hidden:,}"
        else:
            hidden = 2 * native  # the host's FFN runs with the changes and without
            numbers = sum(rank * (outputs + inputs) for outputs, inputs in matrices)
            kind = f"of rank {rank}"
        tokens = answering * work.batch_size * work.tokens
        return Footprint(
            held=work.batches * trained * numbers * FLOAT32,
            training=(TRAINED * trained * numbers + tokens * (width + 4 * hidden)) * FLOAT32,
            holds=f"{work.batches * trained:,} experts {kind}",
            answering=answering * 3 * hidden * FLOAT32,
            routing=routing,
        )
