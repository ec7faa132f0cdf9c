"""LEMoE: one frozen expert per batch, found again by anchors (arXiv 2406.20030).

editor = LEMoE(routing="scoped")
editor = LEMoE(routing="kv_anchor", rehearse_anchors=True, bypass=True, centre=True)
editor = LEMoE(routing="kv_anchor")       # read literally
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from ..adaptor import BypassMoE, Detach, Expert
from ..calibration import (
    calibration_set,
    fit_projection,
    held_out_addresses,
    similarity_threshold,
)
from ..edits import CalibrationFact, EditBatch, EditStream
from ..host import Host, LayerStates
from ..routing import KVAnchorRouter, Router, Routes, ScopedRouter, bypass_routes
from .base import Editor, EditorConfig, OnStep, TrainingReport, encode_batch, train


class LEMoEConfig(EditorConfig):
    """Settings of LEMoE.

    Parameters
    ----------
    layer
        The decoder layer whose FFN gets the adaptor, from 0; None: two thirds up, as in the paper.
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
    intermediate
        Hidden size of an expert; None: that of the host's own FFN.
    false_alarms
        Share of rival pairs of calibration prompts that may look alike; decides the threshold.
    """

    layer: int | None = Field(None, ge=0)
    routing: Literal["scoped", "kv_anchor"] = "scoped"
    rehearse_anchors: bool = False
    centre: bool = False
    bypass: bool = False
    insert: bool = True
    intermediate: int | None = Field(None, ge=1)
    scale: float = Field(1.0, gt=0)
    steps: int = Field(60, ge=1)
    learning_rate: float = Field(2e-3, gt=0)
    enough: float = Field(0.005, ge=0)
    value_width: int = Field(64, ge=1)
    false_alarms: float = Field(3e-4, gt=0, lt=1)

    @model_validator(mode="after")
    def _switches_fit(self) -> LEMoEConfig:
        if self.rehearse_anchors and not self.centre:
            raise ValueError("rehearse_anchors needs centre=True: addresses are stored centred")
        if self.routing == "scoped" and (self.rehearse_anchors or self.centre):
            raise ValueError('rehearse_anchors and centre belong to routing="kv_anchor"')
        return self


@dataclass(frozen=True)
class Snapshot:
    """Router and experts at one time; experts that are no longer trained are shared, not copied."""

    router: Router
    experts: tuple[Expert, ...]


class LEMoE(Editor):
    """LEMoE with its three pillars as switches (order planning is the stream's).

        h = FFN(x) + scale * g(i|e) f_i(x),   i = argmax_j g(j|e)

    At step t expert f_t (and with KV anchor routing its key and the projection) learns batch t;
    everything older is frozen. In scoped routing the gate is 1.
    """

    Config = LEMoEConfig
    config: LEMoEConfig

    def __init__(self, **settings: object) -> None:
        super().__init__(**settings)
        self._host: Host | None = None
        self._detach: Detach | None = None
        self._history: list[Snapshot] = []  # before every applied batch
        self._undone: list[Snapshot] = []

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

    @property
    def host(self) -> Host:
        if self._host is None:
            raise RuntimeError("this editor is not attached to a host; call attach(host, stream)")
        return self._host

    @property
    def layer(self) -> int:
        if self.config.layer is not None:
            return self.config.layer
        return len(self.host.layers) * 2 // 3

    @property
    def steps(self) -> int:
        return len(self._history)

    def changed_tensors(self) -> tuple[str, ...]:
        return ()

    # Life

    def attach(
        self, host: Host, stream: EditStream, calibration: dict[str, Tensor] | None = None
    ) -> None:
        self._host = host
        if calibration is None:
            calibration = self._calibrate(stream.calibration)
        self.adaptor = BypassMoE(self._new_router(calibration), self.config.scale)
        self.adaptor.to(host.device)
        self._history, self._undone = [], []
        self._detach = self.adaptor.attach(host, self.layer)

    def detach(self) -> None:
        if self._detach:
            self._detach()
        self._host = self._detach = None

    def _calibrate(self, facts: tuple[CalibrationFact, ...]) -> dict[str, Tensor]:
        """Centre, projection and threshold, as far as the settings need them."""
        config, host = self.config, self.host
        scoped = config.routing == "scoped"
        if not (scoped or config.centre or config.bypass):
            return {}
        if not facts:
            raise ValueError(
                f"{self.name} calibrates on facts outside the stream, and this stream carries "
                "none; give the stream `calibration`, or use the literal KV anchor"
            )
        prompts = [prompt for fact in facts for prompt in fact.prompts]
        if scoped:
            data = calibration_set(facts, host.prompt_states(prompts, self.layer))
            width = min(config.value_width, host.width)
            addresses = held_out_addresses(data, width, config.seed)
            centre, projection = fit_projection(data, width, config.seed)
            state = {"centre": centre, "projection": projection}
        else:
            data = calibration_set(facts, host.embed(prompts))
            state = {"centre": data.features.flatten(0, 1).mean(0)}
            addresses = F.normalize(data.features - state["centre"], dim=-1)
        if scoped or config.bypass:
            threshold = similarity_threshold(addresses, data, config.false_alarms)
            state["threshold"] = torch.tensor(threshold, dtype=torch.double)
        return state

    def _new_router(self, calibration: dict[str, Tensor]) -> Router:
        threshold = calibration["threshold"].item() if "threshold" in calibration else None
        if self.config.routing == "scoped":
            return ScopedRouter(calibration["centre"], calibration["projection"], threshold)
        return KVAnchorRouter(
            self.host.width,
            self.config.value_width,
            self.config.seed,
            calibration.get("centre"),
            self.config.centre,
            threshold,
        )

    # Editing

    def edit(self, batch: EditBatch, on_step: OnStep | None = None) -> TrainingReport:
        sequences = encode_batch(self.host, batch)
        with self.adaptor.pinned(None):
            states = self.host.states(sequences, self.layer)
        features = self.features(states)
        self._history.append(self._snapshot())
        try:
            self._add_expert()
            if self.config.insert or self.steps == 1 or self.config.routing == "scoped":
                self.adaptor.router.grow(features, self.steps - 1)
            losses = self._train(states, features, on_step)
        except BaseException:
            self._restore(self._history.pop())
            raise
        self._undone.clear()
        return TrainingReport(losses)

    def _snapshot(self) -> Snapshot:
        return Snapshot(copy.deepcopy(self.adaptor.router), tuple(self.adaptor.experts))

    def _restore(self, snapshot: Snapshot) -> None:
        self.adaptor.router = copy.deepcopy(snapshot.router)
        self.adaptor.experts = nn.ModuleList(snapshot.experts)

    def _add_expert(self) -> None:
        experts = self.adaptor.experts
        experts.requires_grad_(False)
        if self.config.insert or not len(experts):
            seed = self.config.seed * 100_003 + self.steps
            expert = Expert(self.host.ffn(self.layer), self.config.intermediate, seed)
            experts.append(expert.to(self.host.device))
        else:
            experts[0] = copy.deepcopy(experts[0]).requires_grad_(True)

    def _train(self, states: LayerStates, features: Tensor, on_step: OnStep | None) -> list[float]:
        config, host, router = self.config, self.host, self.adaptor.router
        current = self.steps - 1
        ids = host.target_ids(states.sequences)
        parameters = list(self.adaptor.experts[-1].parameters())
        if isinstance(router, KVAnchorRouter):
            parameters += [router.keys[-1], router.down, router.up]
        routes = bypass_routes(len(features), host.device)
        routes.expert.fill_(current)

        def loss_of() -> Tensor:
            routes.gate = router.gate_of(features, current)
            with self.adaptor.pinned(routes):
                hidden = host.finish(states, self.layer)
            loss = F.cross_entropy(host.target_logits(hidden, states.sequences), ids)
            return loss + router.rehearsal_loss() if config.rehearse_anchors else loss

        return train(
            parameters, loss_of, config.steps, config.learning_rate, config.enough, on_step
        )

    def undo(self) -> None:
        if not self._history:
            raise RuntimeError("nothing to undo: no batch is applied")
        self._undone.append(self._snapshot())
        self._restore(self._history.pop())

    def redo(self) -> None:
        if not self._undone:
            raise RuntimeError("nothing to redo: no batch was taken back")
        self._history.append(self._snapshot())
        self._restore(self._undone.pop())

    # Routes

    def features(self, states: LayerStates) -> Tensor:
        if self.adaptor.router.feature == "state":
            return states.prompt_state
        embedding = self.host.model.get_input_embeddings()
        rows = [torch.tensor(s.prompt, device=self.host.device) for s in states.sequences]
        return torch.stack([embedding(row).float().mean(0) for row in rows])

    def routes(self, features: Tensor) -> Routes:
        return self.adaptor.router.route(features)

    @property
    def experts_frozen(self) -> bool:
        return self.config.insert

    @contextmanager
    def scoring(self, routes: Routes | None) -> Iterator[None]:
        with self.adaptor.pinned(routes):
            yield

    # State

    def step_state(self, step: int) -> dict[str, Tensor]:
        if step == 0:
            return self.adaptor.router.calibration_state()
        after = self._history[step] if step < self.steps else self._snapshot()
        expert = after.experts[-1].state_dict()
        router = after.router.step_state(step - 1)
        return {f"expert.{k}": v for k, v in expert.items()} | {
            f"router.{k}": v for k, v in router.items()
        }

    def load_step_state(self, step: int, state: dict[str, Tensor]) -> None:
        self._history.append(self._snapshot())
        self._add_expert()
        parts = {"expert": {}, "router": {}}
        for name, tensor in state.items():
            part, key = name.split(".", 1)
            parts[part][key] = tensor.to(self.host.device)
        self.adaptor.experts[-1].load_state_dict(parts["expert"])
        self.adaptor.router.load_step_state(step - 1, parts["router"])
