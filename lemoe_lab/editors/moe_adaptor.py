"""The conventional mixture-of-experts adaptor: the same experts learn every batch.

editor = MoEAdaptor()
editor = MoEAdaptor(experts=8, top_k=2, level="token")
"""

from __future__ import annotations

import copy
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from ..adaptor.routing import Router, Routes, SoftmaxRouter
from ..edits import EditStream
from ..host.states import LayerStates
from .base import named, tensors_of
from .shared.bypass import BypassConfig, BypassEditor


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

    @property
    def name(self) -> str:
        return "MoE adaptor" if self.config.level == "input" else "MoE adaptor, token-level"

    def _calibrate(self, stream: EditStream) -> dict[str, Tensor]:
        return {}

    def _new_router(self, calibration: dict[str, Tensor]) -> Router:
        config = self.config
        per_token = config.level == "token"
        width = self.host.width if per_token else self.host.embedding_width
        return SoftmaxRouter(width, config.experts, config.top_k, per_token, config.seed)

    def _prepare_experts(self) -> None:
        adaptor = self.adaptor
        if not len(adaptor.experts):
            adaptor.experts.extend(self._new_expert(i + 1) for i in range(self.config.experts))
        else:
            adaptor.experts = nn.ModuleList(copy.deepcopy(expert) for expert in adaptor.experts)

    def _grow_router(self, features: Tensor, prompts: Tensor) -> None:
        self.adaptor.router.grow(features, self.steps - 1, prompts)

    def _trained_experts(self) -> list[nn.Parameter]:
        return list(self.adaptor.experts.parameters())

    def _trained_router(self) -> list[nn.Parameter]:
        return list(self.adaptor.router.parameters())

    def _training_routes(self, features: Tensor) -> Routes:
        return self.adaptor.router.route(features)

    def _router_loss(self, states: LayerStates) -> Tensor:
        router = self.adaptor.router
        assert isinstance(router, SoftmaxRouter)
        counted = None
        if router.per_token:  # padding at the end of a row is nobody's work
            lengths = torch.tensor([len(s) for s in states.sequences], device=self.host.device)
            places = torch.arange(states.hidden.shape[1], device=self.host.device)
            counted = (places < lengths[:, None]).flatten()
        return self.config.balance * router.balance_loss(counted)

    # State

    def step_state(self, step: int) -> dict[str, Tensor]:
        if step == 0:
            return self.adaptor.router.calibration_state()
        after = self._after(step)
        experts = nn.ModuleList(after.experts).state_dict()
        return named("experts", experts) | named("router", after.router.tensors)

    def load_step_state(self, step: int, state: dict[str, Tensor]) -> None:
        self._history.append(self._snapshot())
        self._prepare_experts()
        device = self.host.device
        self.adaptor.experts.load_state_dict(tensors_of(state, "experts", device))
        self.adaptor.router.load_step_state(step - 1, tensors_of(state, "router", device))
        self._latest = self._made()
