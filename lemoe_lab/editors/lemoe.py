"""LEMoE: one frozen expert per batch, found again by anchors (arXiv 2406.20030).

editor = LEMoE(routing="scoped")
editor = LEMoE(routing="kv_anchor", rehearse_anchors=True, bypass=True, centre=True)
editor = LEMoE(routing="kv_anchor")       # read literally
"""

from __future__ import annotations

import copy
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from ..adaptor.anchors import Threshold
from ..adaptor.calibration import calibration_set, scoped_space, similarity_threshold
from ..adaptor.routing import KVAnchorRouter, Router, Routes, ScopedRouter, single_routes
from ..edits import EditStream
from ..host.states import LayerStates
from .base import named, tensors_of
from .shared.bypass import BypassConfig, BypassEditor


class LEMoEConfig(BypassConfig):
    """Settings of LEMoE, beside those of every adaptor.

    Parameters
    ----------
    routing
        ``"scoped"`` (ours) or ``"kv_anchor"`` (the paper).
    rehearse_anchors
        KV anchor only: keep every edit's address and keep the projection true to it; needs centre.
    centre
        KV anchor only: centre and normalise e with the mean of the calibration prompts.
    bypass
        Inputs that resemble no edit take the plain FFN. Scoped routing always does.
    insert
        A new expert for every batch; False trains one expert on and on.
    value_width
        Size of keys and values, and of the scoped router's addresses.
    false_alarms
        Share of rival pairs of calibration prompts that may look alike; decides the similarity
        that a prompt needs. With more edits than there were calibration facts it falls in
        proportion, so that a prompt is not taken for some edit more often.
    learning_rate
        Higher than the other adaptors': an expert that trains alone cannot disturb older ones.
    """

    routing: Literal["scoped", "kv_anchor"] = "scoped"
    rehearse_anchors: bool = False
    centre: bool = False
    bypass: bool = False
    insert: bool = True
    value_width: int = Field(64, ge=1)
    false_alarms: float = Field(3.5e-4, gt=0, lt=1)
    learning_rate: float = Field(5e-3, gt=0)

    @model_validator(mode="after")
    def _switches_fit(self) -> LEMoEConfig:
        if self.rehearse_anchors and not self.centre:
            raise ValueError("rehearse_anchors needs centre=True: addresses are stored centred")
        if self.routing == "scoped" and (self.rehearse_anchors or self.centre):
            raise ValueError('rehearse_anchors and centre belong to routing="kv_anchor"')
        return self


class LEMoE(BypassEditor):
    """LEMoE with its three pillars as switches (order planning is the stream's).

        h = FFN(x) + scale * g(i|e) f_i(x),   i = argmax_j g(j|e)

    At step t expert f_t (and with KV anchor routing its key and the projection) learns batch t;
    everything older is frozen. In scoped routing the gate is 1.
    """

    Config = LEMoEConfig
    config: LEMoEConfig

    @property
    def name(self) -> str:
        config = self.config
        if config.routing == "scoped":
            name = "LEMoE scoped"
        elif config.rehearse_anchors and config.bypass:
            name = "LEMoE KV anchor"
        else:
            extras = [
                word
                for word, on in (
                    ("centred", config.centre and not config.rehearse_anchors),
                    ("rehearsed", config.rehearse_anchors),
                    ("bypass", config.bypass),
                )
                if on
            ]
            name = "LEMoE KV anchor, " + (" + ".join(extras) or "literal")
        return (
            name
            if config.insert
            else f"{name}, one expert".removeprefix("LEMoE KV anchor, literal, ")
        )

    # The router

    def _calibrate(self, stream: EditStream) -> dict[str, Tensor]:
        """Centre, projection and threshold, as far as the settings need them."""
        config, host, facts = self.config, self.host, stream.calibration
        scoped = config.routing == "scoped"
        if not (scoped or config.centre or config.bypass):
            return {}
        if not facts:
            raise ValueError(
                f"{self.name} calibrates on facts outside the stream, and this stream carries "
                "none; give the stream `calibration`, or use the literal KV anchor"
            )
        if scoped:
            width = min(config.value_width, host.width)
            space = scoped_space(host, facts, self.layer, width, config.seed)
            data, addresses = space.data, space.addresses
            state = {"centre": space.centre, "projection": space.projection}
        else:
            prompts = [prompt for fact in facts for prompt in fact.prompts]
            data = calibration_set(facts, host.embed(prompts))
            state = {"centre": data.features.flatten(0, 1).mean(0)}
            addresses = F.normalize(data.features - state["centre"], dim=-1)
        if scoped or config.bypass:
            state |= similarity_threshold(addresses, data, config.false_alarms).state()
        return state

    def _new_router(self, calibration: dict[str, Tensor]) -> Router:
        bypass = Threshold.of_state(calibration) if "rivals" in calibration else None
        if self.config.routing == "scoped":
            return ScopedRouter(calibration["centre"], calibration["projection"], bypass)
        return KVAnchorRouter(
            self.host.embedding_width,
            self.config.value_width,
            self.config.seed,
            calibration.get("centre"),
            self.config.centre,
            bypass,
        )

    # Training

    def _prepare_experts(self) -> None:
        experts = self.adaptor.experts
        experts[-1:].requires_grad_(False)
        if self.config.insert or not len(experts):
            experts.append(self._new_expert(self.steps))
        else:
            experts[0] = copy.deepcopy(experts[0]).requires_grad_(True)

    def _grow_router(self, features: Tensor, prompts: Tensor) -> None:
        if self.config.insert or self.steps == 1 or self.config.routing == "scoped":
            self.adaptor.router.grow(features, self.steps - 1, prompts)

    def _trained_experts(self) -> list[nn.Parameter]:
        return list(self.adaptor.experts[-1].parameters())

    def _trained_router(self) -> list[nn.Parameter]:
        router = self.adaptor.router
        if not isinstance(router, KVAnchorRouter):
            return []
        return [router.keys[-1], router.down, router.up]

    def _training_routes(self, features: Tensor) -> Routes:
        current = self.steps - 1
        expert = torch.full((len(features),), current, device=features.device)
        return single_routes(expert, self.adaptor.router.gate_of(features, current))

    def _router_loss(self, states: LayerStates) -> Tensor | float:
        return self.adaptor.router.rehearsal_loss() if self.config.rehearse_anchors else 0.0

    @property
    def experts_frozen(self) -> bool:
        return self.config.insert

    # State

    def step_state(self, step: int) -> dict[str, Tensor]:
        if step == 0:
            return self.adaptor.router.calibration_state()
        after = self._after(step)
        expert = after.experts[-1].state_dict()
        return named("expert", expert) | named("router", after.router.tensors)

    def load_step_state(self, step: int, state: dict[str, Tensor]) -> None:
        self._history.append(self._snapshot())
        self._prepare_experts()
        device = self.host.device
        self.adaptor.experts[-1].load_state_dict(tensors_of(state, "expert", device))
        self.adaptor.router.load_step_state(step - 1, tensors_of(state, "router", device))
        self._latest = self._made()
