"""The conventional mixture-of-experts adaptor: the same experts learn every batch.

editor = MoEAdaptor()
editor = MoEAdaptor(experts=8, top_k=2, level="token")
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from ..adaptor.routing import BYPASS, Router, Routes, bypass_routes
from ..edits import EditBatch, EditStream
from .base import named
from .shared.bypass import BypassConfig, BypassEditor, Step
from .shared.footprint import FLOAT32, Footprint, Workload
from .shared.preset import Preset


class SoftmaxRouter(Router):
    """The router of a conventional mixture of experts.

        g(i|e) = Top_k softmax_i(w_i . e)     (Shazeer et al., arXiv 1701.06538, without noise)

    e is standardised with mean and spread of the first batch, so that the experts are chosen about
    equally often at birth: without that the common part of all embeddings picks one for everybody.

    Parameters
    ----------
    width, experts, top_k
        d of the host, how many experts there are, and how many of them answer an input.
    per_token
        Decide for every token from the FFN's input instead of once from the prompt's embedding.
    """

    def __init__(self, width: int, experts: int, top_k: int, per_token: bool, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.weight = nn.Parameter(torch.randn(experts, width, generator=generator) / width**0.5)
        self.register_buffer("centre", torch.zeros(width))
        self.register_buffer("spread", torch.zeros(width))  # zeros: nothing was learned yet
        self.top_k = top_k
        self.per_token = per_token
        self.feature = "state" if per_token else "embedding"
        self.last_probabilities: Tensor | None = None

    def probabilities(self, features: Tensor) -> Tensor:
        """softmax_i(w_i . e) of every expert, (N, n)."""
        return (((features - self.centre) / self.spread) @ self.weight.T).softmax(-1)

    def route(self, features: Tensor) -> Routes:
        if not self.spread.any():
            return bypass_routes(len(features), features.device)
        self.last_probabilities = self.probabilities(features)
        gate, expert = self.last_probabilities.topk(self.top_k, dim=-1)
        first = expert[:, 0]
        return Routes(expert, gate, gate[:, 0].detach(), torch.full_like(first, BYPASS))

    def balance_loss(self, counted: Tensor | None = None) -> Tensor:
        """n * sum_i f_i P_i - 1 over the rows routed last (Fedus et al., arXiv 2101.03961, eq. 4).

        f_i is the share of rows whose first choice is expert i, P_i its mean probability;
        ``counted`` (N,) bool leaves rows out. 0 when all experts are used alike, n - 1 at worst.
        """
        if self.last_probabilities is None:
            raise RuntimeError("nothing was routed yet; call route(features) first")
        probabilities = self.last_probabilities
        if counted is not None:
            probabilities = probabilities[counted]
        experts = probabilities.shape[1]
        share = F.one_hot(probabilities.argmax(-1), experts).float().mean(0)  # (n,)
        return experts * (share * probabilities.mean(0)).sum() - 1

    def grow(self, features: Tensor, expert: int, prompts: Tensor | None = None) -> None:
        if not self.spread.any():
            self.centre.copy_(features.mean(0))
            floor = self.centre.square().mean().sqrt() / 10  # a batch of one has no spread
            self.spread.copy_(features.std(0, correction=0).clamp(min=floor.item()))

    def calibration_state(self) -> dict[str, Tensor]:
        return {}

    def step_state(self, expert: int) -> dict[str, Tensor]:
        state = {"weight": self.weight, "centre": self.centre, "spread": self.spread}
        return {name: tensor.detach().clone() for name, tensor in state.items()}

    @torch.no_grad()
    def load_step_state(self, expert: int, state: dict[str, Tensor]) -> None:
        for name, tensor in state.items():
            getattr(self, name).copy_(tensor)

    def forget(self, expert: int) -> None:
        """Every batch replaces all that is here."""


class MoEAdaptorConfig(BypassConfig):
    """Settings of the conventional adaptor, beside those of every adaptor.

    Parameters
    ----------
    experts, top_k
        How many experts are shared by all batches, and how many of them answer an input.
    level
        ``"input"`` routes a prompt once, by its mean embedding, as LEMoE does; ``"token"`` routes
        every token by its hidden state.
    balance
        Weight of the load-balancing loss.
    """

    experts: int = Field(4, ge=1)
    top_k: int = Field(1, ge=1)
    level: Literal["input", "token"] = "input"
    balance: float = Field(0.01, ge=0)

    @model_validator(mode="after")
    def _enough_experts(self) -> MoEAdaptorConfig:
        if self.top_k > self.experts:
            raise ValueError(f"top_k is {self.top_k}, but there are only {self.experts} experts")
        return self


class MoEAdaptor(BypassEditor):
    """A conventional MoE adaptor in the shape of MEMoE (arXiv 2405.19086), LEMoE's strawman.

        h = FFN(x) + scale * sum_i g(i|e) f_i(x),   g(i|e) = Top_k softmax_i(w_i . e)

    All experts f_i and the router w are trained at every batch. A stream of many batches is the
    lifelong mode; ``stream.merged()``, one batch of all edits, is the batch mode.
    """

    Config = MoEAdaptorConfig
    config: MoEAdaptorConfig
    presets: ClassVar = {
        "MoE adaptor": Preset("four experts shared by all batches", colour="#D55E00")
    }
    replaced_parts = ("experts.", "router.weight", "router.centre", "router.spread")

    @property
    def name(self) -> str:
        return "MoE adaptor" if self.config.level == "input" else "MoE adaptor, token-level"

    def _new_router(self, stream: EditStream, calibration: dict[str, Tensor] | None) -> Router:
        config = self.config
        per_token = config.level == "token"
        width = self.host.width if per_token else self.host.embedding_width
        return SoftmaxRouter(width, config.experts, config.top_k, per_token, config.seed)

    def _renew_experts(self) -> nn.ModuleList:
        known = self.adaptor.experts
        number = range(1, self.config.experts + 1)
        renewed = map(copy.deepcopy, known) if len(known) else map(self._new_expert, number)
        self.adaptor.experts = nn.ModuleList(renewed)
        return self.adaptor.experts

    def _expert_state(self, experts: Sequence[nn.Module]) -> dict[str, Tensor]:
        return named("experts", nn.ModuleList(experts).state_dict())

    def _begin(self, batch: EditBatch, features: Tensor, prompts: Tensor, lengths: Tensor) -> Step:
        router = self.adaptor.router
        router.grow(features, self.steps - 1, prompts)
        counted = None
        if router.per_token:  # padding at the end of a row is nobody's work
            places = torch.arange(int(lengths.max()), device=lengths.device)
            counted = (places < lengths[:, None]).flatten()  # (n * L,)
        return Step(
            experts=list(self._renew_experts().parameters()),
            router=list(router.parameters()),
            routes=lambda: router.route(features),
            extra_loss=lambda: self.config.balance * router.balance_loss(counted),
        )

    # Memory

    def footprint(self, work: Workload) -> Footprint:
        config, host = self.config, self.host
        widest = max(host.width, host.embedding_width)
        router = work.batches * (config.experts + 2) * widest * FLOAT32
        return super().footprint(work, config.experts, config.top_k, router)
