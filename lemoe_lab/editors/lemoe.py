"""LEMoE: one frozen expert per batch, found again by anchors (arXiv 2406.20030).

editor = LEMoE(routing="scoped")
editor = LEMoE(routing="kv_anchor", rehearse_anchors=True, bypass=True, centre=True)
editor = LEMoE(routing="kv_anchor")       # read literally
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from ..adaptor.calibration import (
    Calibration,
    embedding_space,
    scoped_space,
    similarity_threshold,
)
from ..adaptor.routing import KVAnchorRouter, Router, ScopedRouter, single_routes
from ..edits import EditBatch, EditStream
from ..host.names import Features
from .base import named
from .shared.addresses import AddressRouter, bank_calibration, has_rivals, subjects_of
from .shared.bypass import BypassConfig, BypassEditor, Step
from .shared.footprint import Footprint, Workload
from .shared.preset import Preset


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
    words
        Scoped routing only: an edit is looked for by its subject, word for word, and then by what
        is asked, seven eighths up, where that shows; without, by the prompt's state alone. A
        subject that an edit does not name is looked for, see
        :func:`~lemoe_lab.datasets.found_subject`.
    recall
        With words: a rewording is answered as the edit itself, see
        :class:`~lemoe_lab.editors.shared.addresses.AddressRouter`.
    relation_alarms
        With words: the share of other questions about a subject that may be taken for an edit.
        None: 0.03 where the stream brings facts that show its own questions, 0.3 on the bank of
        prompts, whose questions lie closer together than those of most streams.
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
    words: bool = False
    recall: bool = True
    relation_alarms: float | None = Field(None, gt=0, lt=1)
    learning_rate: float = Field(5e-3, gt=0)

    @model_validator(mode="after")
    def _switches_fit(self) -> LEMoEConfig:
        if self.rehearse_anchors and not self.centre:
            raise ValueError("rehearse_anchors needs centre=True: addresses are stored centred")
        if self.words and self.routing != "scoped":
            raise ValueError('words belong to routing="scoped"')
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
    presets: ClassVar = {
        "LEMoE scoped": Preset(
            "an expert per batch, found by the frozen host's hidden state, one anchor per edit",
            {"routing": "scoped"},
            "#0072B2",
        ),
        "LEMoE scoped, by words": Preset(
            "found by the subject's words and what is asked; rewordings are answered as the edit",
            {"routing": "scoped", "words": True},
            "#004B87",
            compared=False,
        ),
        "LEMoE KV anchor": Preset(
            "key-value anchors that rehearse old addresses; unfamiliar inputs bypass the experts",
            {"routing": "kv_anchor", "centre": True, "rehearse_anchors": True, "bypass": True},
            "#56B4E9",
        ),
        "LEMoE KV anchor, literal": Preset(
            "the paper's equations as they stand",
            {"routing": "kv_anchor", "learning_rate": 2e-3, "router_learning_rate": 3e-4},
            "#CC79A7",
        ),
        "LEMoE KV anchor, rehearsed": Preset(
            "key-value anchors that rehearse old addresses; every input goes to an expert",
            {"routing": "kv_anchor", "centre": True, "rehearse_anchors": True},
            "#332288",
            compared=False,
        ),
        "LEMoE scoped, one expert": Preset(
            "scoped routing to a single expert, trained on and on",
            {"routing": "scoped", "insert": False},
            "#A6D5F7",
            compared=False,
        ),
        "one expert": Preset(
            "a single expert for every input, trained on and on",
            {"routing": "kv_anchor", "learning_rate": 2e-3, "insert": False},
            "#E69F00",
            compared=False,
        ),
    }
    hashes: ClassVar = ("router.anchors.prompts",)

    @property
    def name(self) -> str:
        config = self.config
        name = "LEMoE scoped" + ", by words" * config.words
        if config.routing == "kv_anchor":
            centred = config.centre and not config.rehearse_anchors
            switches = {"centred": centred, "rehearsed": config.rehearse_anchors}
            on = [word for word, is_on in switches.items() if is_on] + ["bypass"] * config.bypass
            words = " + ".join(on) or "literal"
            name = "LEMoE KV anchor" + f", {words}" * (words != "rehearsed + bypass")
        if config.insert:
            return name
        return f"{name}, one expert".removeprefix("LEMoE KV anchor, literal, ")

    @property
    def layer(self) -> int:
        if self.config.words and self.config.layer is None:
            return len(self.host.layers) * 7 // 8
        return super().layer

    # Before the first batch

    def _new_router(self, stream: EditStream, calibration: dict[str, Tensor] | None) -> Router:
        config, saved = self.config, calibration
        known = self._calibrated(stream) if saved is None else Calibration.of_state(saved)
        scope = (known.centre, known.projection, known.threshold, not config.insert)
        if config.words:
            return AddressRouter(*scope, config.recall)
        if config.routing == "scoped":
            return ScopedRouter(*scope)
        sizes = (self.host.embedding_width, config.value_width)
        return KVAnchorRouter(*sizes, config.seed, known.centre, config.centre, known.threshold)

    def _calibrated(self, stream: EditStream) -> Calibration:
        """Centre, projection and threshold, as far as the settings need them."""
        config, host, facts = self.config, self.host, stream.calibration
        if config.words and not has_rivals(facts):
            return bank_calibration(host, self.layer, config.relation_alarms or 0.3)
        scoped = config.routing == "scoped"
        if not (scoped or config.centre or config.bypass):
            return Calibration()
        if not facts:
            raise ValueError(
                f"{self.name} calibrates on facts outside the stream, and this stream carries "
                "none; give the stream `calibration`, or use the literal KV anchor"
            )
        width = min(config.value_width, host.width)
        fitted = (host, facts, self.layer, width, config.seed)
        space = scoped_space(*fitted) if scoped else embedding_space(host, facts)
        if not (scoped or config.bypass):
            return Calibration(space.centre)
        share = (config.relation_alarms or 0.03) if config.words else config.false_alarms
        threshold = similarity_threshold(space.addresses, space.data, share, config.words)
        return Calibration(space.centre, space.projection, threshold)

    # A batch: what grows, what is frozen, what trains

    def _begin(
        self, batch: EditBatch, features: Features, prompts: Tensor, lengths: Tensor
    ) -> Step:
        config, router = self.config, self.adaptor.router
        (expert,) = self._renew_experts()  # f_t; f_1 .. f_{t-1} are frozen
        index = len(self.adaptor.experts) - 1
        keyed = isinstance(router, KVAnchorRouter)
        if config.insert or self.steps == 1 or not keyed:
            named = [subjects_of(batch)] if config.words else []
            router.grow(features, self.steps - 1, prompts, *named)  # k_t, or an anchor per edit
        own = torch.arange(-len(features), 0, device=features.device) + len(router.memory.expert)
        chosen = torch.full_like(own, index)  # (n,)
        return Step(
            experts=list(expert.parameters()),
            router=[router.keys[-1], router.down, router.up] if keyed else [],
            routes=lambda: single_routes(chosen, router.gate_of(features, index), anchor=own),
            extra_loss=router.rehearsal_loss if config.rehearse_anchors else float,
        )

    def _renew_experts(self) -> Sequence[nn.Module]:
        experts = self.adaptor.experts
        experts[-1:].requires_grad_(False)
        if self.config.insert or not len(experts):
            experts.append(self._new_expert(self.steps))
        else:
            experts[0] = copy.deepcopy(experts[0]).requires_grad_(True)
        return experts[-1:]

    @property
    def experts_frozen(self) -> bool:
        return self.config.insert

    def _expert_state(self, experts: Sequence[nn.Module]) -> dict[str, Tensor]:
        return named("expert", experts[-1].state_dict())

    @property
    def replaced_parts(self) -> tuple[str, ...]:
        projection = ("router.down", "router.up")
        return projection if self.config.insert else (*projection, "expert.")

    # Memory

    def footprint(self, work: Workload) -> Footprint:
        """Anchors, in room for twice as many and once more in the steps, and what is trained."""
        config, host = self.config, self.host
        scoped = config.routing == "scoped"
        width = min(config.value_width, host.width) if scoped else host.embedding_width
        trained = 0 if scoped else config.value_width * (width + config.value_width + 1)
        stored = width + host.width * config.words
        return super().footprint(work, routing=work.anchors(stored, trained))
