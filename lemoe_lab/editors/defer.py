"""DEFER: one gate and one side network beside a layer, trained on and on (arXiv 2211.11031)."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from ..adaptor.calibration import scoped_space
from ..edits import EditBatch, EditStream
from ..host.encoding import TokenSequence
from ..host.states import LayerStates
from .base import OnStep, TrainingReport, named, tensors_of, train
from .shared.footprint import FLOAT32, TRAINED, Footprint, Workload
from .shared.preset import Preset
from .shared.replacing import Replacement, ReplacingConfig, ReplacingEditor


class DEFERConfig(ReplacingConfig):
    """Settings of DEFER, beside those of every editor that replaces an FFN's output.

    Parameters
    ----------
    threshold
        Inputs whose gate is at least this take the side network's output.
    scope_width
        Size of the addresses that the gate looks at.
    gate_hidden
        Hidden size of the gate; None: a linear gate, as in the paper's code, which on a host as
        narrow as the embedded one cannot tell a batch of 30 edits from everything else.
    side_hidden
        Hidden size of the side network; None: a linear map, as in the paper's code.
    contrast
        Weight of the gate's loss on the split; 0 trains the gate by the targets alone, as the
        paper's code does, and it opens to everything.
    outside_sample
        How many prompts of the split that loss looks at in every step.
    """

    threshold: float = Field(0.5, gt=0, lt=1)
    scope_width: int = Field(64, ge=1)
    gate_hidden: int | None = Field(512, ge=1)
    side_hidden: int | None = Field(None, ge=1)
    contrast: float = Field(1.0, ge=0)
    outside_sample: int = Field(512, ge=1)
    learning_rate: float = Field(3e-3, gt=0)


class Deferral(nn.Module):
    """The gate, on addresses of inputs, and the side network, on the inputs themselves."""

    def __init__(self, width: int, scope_width: int, config: DEFERConfig) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.gate = _network(scope_width, config.gate_hidden, 1)
            self.side = _network(width, config.side_hidden, width)

    def gate_logits(self, addresses: Tensor) -> Tensor:
        """Logits (N,) of deferring, from addresses (N, scope_width)."""
        return self.gate(addresses)[:, 0]


class DEFER(ReplacingEditor):
    """DEFER: a gate g that defers inputs in scope to a side network o (arXiv 2211.11031).

        h = o(x)       if g(x) >= threshold
        h = FFN(x)     otherwise
        h = g(x) o(x) + (1 - g(x)) FFN(x)                              while a batch is learned

    x is the FFN's input at the last prompt token; the decision and o(x) hold for the whole input.
    This is the baseline of GRACE's paper that follows SERAC (arXiv 2206.06520): one gate and one
    side network for all edits, trained on and on by gradient with no memory of earlier batches.

    The gate sees x through a projection that is trained before the stream, on facts that the stream
    never touches, then kept: phrasings of a fact (in scope) come to lie close, other facts (out of
    scope) apart. While a batch is learned its prompts are in scope, and prompts of those facts out:

        loss = cross-entropy of the targets + contrast * (-log g(in scope) - log(1 - g(out)))
    """

    Config = DEFERConfig
    config: DEFERConfig
    presets: ClassVar = {
        "DEFER": Preset("a gate and a side network beside one layer", colour="#8F8500")
    }
    replaced_parts = ("networks.",)
    learning_only: ClassVar = ("outside",)  # the negative examples

    # Before the first batch

    def _prepare(self, stream: EditStream, calibration: dict[str, Tensor] | None) -> None:
        self.scope = self._calibrate(stream) if calibration is None else calibration
        addressed = len(self.scope["projection"])
        networks = Deferral(self.host.width, addressed, self.config)
        self.networks = networks.to(self.host.device).requires_grad_(False)

    def _calibrate(self, stream: EditStream) -> dict[str, Tensor]:
        """The projection, and where it puts the prompts of the split."""
        if not stream.calibration:
            raise ValueError(
                "DEFER trains its scope on facts outside the stream, and this stream carries none; "
                "give the stream `calibration`"
            )
        width = min(self.config.scope_width, self.host.width)
        space = scoped_space(self.host, stream.calibration, self.layer, width, self.config.seed)
        scope = {"centre": space.centre, "projection": space.projection}
        return scope | {"outside": addresses(space.data.features.flatten(0, 1), scope)}

    # Answering

    def _decide(self, queries: Tensor) -> Replacement | None:
        if not self.steps:
            return None
        gate = self.networks.gate_logits(addresses(queries, self.scope)).sigmoid()
        return Replacement(self.networks.side(queries), gate >= self.config.threshold)

    # Learning

    def _learn(
        self, batch: EditBatch, sequences: Sequence[TokenSequence], on_step: OnStep | None
    ) -> TrainingReport:
        with self.disabled():
            states = self.host.states(sequences, self.layer)
        networks = copy.deepcopy(self.networks).requires_grad_(True)
        losses = self._train(networks, states, on_step)
        self.networks = networks.requires_grad_(False)
        return TrainingReport(losses)

    def _train(
        self, networks: Deferral, states: LayerStates, on_step: OnStep | None
    ) -> list[float]:
        config, host = self.config, self.host
        ids = host.target_ids(states.sequences)
        inputs, outside = states.prompt_state, self.scope["outside"]
        inside = addresses(inputs, self.scope)
        generator = torch.Generator().manual_seed(config.seed * 100_003 + self.steps)

        def loss_of() -> Tensor:
            logits = networks.gate_logits(inside)
            with self._replacing(Replacement(networks.side(inputs), logits.sigmoid())):
                hidden = host.finish(states, self.layer)
            loss = F.cross_entropy(host.target_logits(hidden, states.sequences), ids)
            drawn = torch.randint(len(outside), (config.outside_sample,), generator=generator)
            out_of_scope = networks.gate_logits(outside[drawn.to(outside.device)])
            scope_loss = F.softplus(-logits).mean() + F.softplus(out_of_scope).mean()
            return loss + config.contrast * scope_loss

        groups = [(list(networks.parameters()), config.learning_rate)]
        return train(groups, loss_of, config.steps, config.loss_threshold, on_step)

    # State

    def _snapshot(self) -> Deferral:
        return self.networks

    def _restore(self, snapshot: Deferral) -> None:
        self.networks = snapshot

    def step_state(self, step: int) -> dict[str, Tensor]:
        if step == 0:
            return self.scope
        return named("networks", self._after(step).state_dict())

    def _load(self, state: dict[str, Tensor]) -> None:
        self.networks = copy.deepcopy(self.networks)
        self.networks.load_state_dict(tensors_of(state, "networks", self.host.device))

    def footprint(self, work: Workload) -> Footprint:
        config, width = self.config, self.host.width
        side = 2 * width * config.side_hidden if config.side_hidden else width**2
        numbers = side + config.scope_width * (config.gate_hidden or 1)
        return Footprint(
            held=work.batches * numbers * FLOAT32,
            training=TRAINED * numbers * FLOAT32,
            holds=f"{work.batches} gates and side networks",
        )


def addresses(inputs: Tensor, scope: dict[str, Tensor]) -> Tensor:
    """Where the scope puts FFN inputs (N, d): (N, scope_width), of mean square one in every row."""
    projected = F.normalize((inputs - scope["centre"]) @ scope["projection"].T, dim=-1)
    return projected * projected.shape[1] ** 0.5


def _network(width: int, hidden: int | None, outputs: int) -> nn.Module:
    if hidden is None:
        return nn.Linear(width, outputs)
    return nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, outputs))
