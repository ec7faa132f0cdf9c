"""MEMIT: many facts at once, spread over the FFNs of several layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from ..edits import EditBatch, EditStream
from ..host.encoding import TokenSequence
from ..host.states import LayerStates
from ..host.statistics import openings, recorded, second_moments
from .base import OnStep, TrainingReport
from .shared.footprint import Footprint, Workload
from .shared.preset import Preset
from .shared.target_values import (
    Lookups,
    TargetValueConfig,
    look_up,
    require_subjects,
    target_values,
    value_sizes,
)
from .shared.weights import WeightEditor, matrix


class SpreadConfig(TargetValueConfig):
    """Settings of every editor that spreads its values over several layers.

    Parameters
    ----------
    layer
        The last of the edited layers, L. None: a third of the way up.
    spread
        How many layers are edited, L and those right below it.
    steps, clamp
        As in :class:`~.target_values.TargetValueConfig`. The papers take 20 to 25 steps; one vector
        that stands for an invented name of many tokens takes longer to find.
    """

    spread: int = Field(2, ge=1)
    steps: int = Field(100, ge=1)
    clamp: float = Field(1.5, gt=0)


class MEMITConfig(SpreadConfig):
    """Settings of :class:`MEMIT`.

    Parameters
    ----------
    statistics_weight
        lambda: how much the keys of the host's own text count beside those of the edits; 15,000 in
        the paper, whose keys are longer.
    """

    statistics_weight: float = Field(100.0, gt=0)


class MEMIT(WeightEditor):
    """Mass-Editing Memory in a Transformer (Meng et al., ICLR 2023, arXiv 2210.07229).

    For every edit i a vector z_i is optimised that, as the output of layer L at the token where the
    fact is looked up, makes the host say the target (equation 16). Then layer after layer, the
    lowest first, the output projection W of its FFN takes its share of what is still missing:

        r_i = (z_i - h_i^L) / (L - l + 1)                       (algorithm 1)
        Delta = R K^T (lambda C + K K^T)^-1                     (equation 14)

    with the keys K = [k_1 .. k_n] of the edits at that layer, R = [r_1 .. r_n], and
    C = E[k k^T] over text (equation 15). Keys and h_i^L are found anew after every layer.
    """

    Config = MEMITConfig
    config: SpreadConfig
    presets: ClassVar = {"MEMIT": Preset("least squares over several layers", colour="#00563F")}

    # Where

    @property
    def last_layer(self) -> int:
        """The layer whose output the value vectors change, L."""
        return len(self.host.layers) // 3 if self.config.layer is None else self.config.layer

    @property
    def layer(self) -> int:
        return max(0, self.last_layer - self.config.spread + 1)

    @property
    def layers(self) -> range:
        """All edited layers."""
        return range(self.layer, self.last_layer + 1)

    def _edited_weights(self) -> Sequence[nn.Parameter]:
        return [self.host.ffn_output(layer).weight for layer in reversed(self.layers)]

    def footprint(self, work: Workload) -> Footprint:
        weights = self._edited_weights()
        return super().footprint(work).with_solving(weights).with_second_moments(weights)

    # What a method decides

    def _knowledge(self, moment: Tensor) -> Tensor:
        """What is kept of the second moment (m, m) of a layer's keys."""
        return moment

    def _update(self, batch: EditBatch, layer: int, keys: Tensor, residual: Tensor) -> Tensor:
        """The change (d, m) of a layer's weight for a batch's keys (n, m) and residuals (n, d)."""
        moment = self.calibrated[f"knowledge.{layer}"].double()
        return normal_update(keys, residual, self.config.statistics_weight * moment)

    # Editing

    def _calibrate(self, stream: EditStream) -> dict[str, Tensor]:
        config = self.config
        require_subjects(self.host, stream.edits)
        moments = second_moments(self.host, self.layers, config.sample)
        found = openings(self.host, config.openings, config.opening_tokens, config.seed)
        knowledge = {f"knowledge.{n}": self._knowledge(moment) for n, moment in moments.items()}
        return {"openings": found} | knowledge

    def _overwrite(
        self, batch: EditBatch, sequences: Sequence[TokenSequence], on_step: OnStep | None
    ) -> TrainingReport:
        host, config = self.host, self.config
        lookups = look_up(host, batch, sequences, self.calibrated["openings"], config)
        block = host.layers[self.last_layer]
        with self.disabled():
            size = value_sizes(host, lookups, self.last_layer, block)
        values = target_values(host, lookups, self.last_layer, block, size, config, on_step)
        target = (values.value + values.shift).double()
        states = host.states(lookups.sequences, self.layer)
        for layer in self.layers:
            keys, value = self._found(states, lookups, layer)
            residual = (target - value) / (self.last_layer - layer + 1)
            weight = matrix(host.ffn_output(layer))
            weight.copy_(weight.double() + self._update(batch, layer, keys, residual))
        return TrainingReport(values.losses)

    @torch.no_grad()
    def _found(self, states: LayerStates, lookups: Lookups, layer: int) -> tuple[Tensor, Tensor]:
        """Keys (n, m) of a layer, and outputs (n, d) of the last one after the plain prompts."""
        projection = self.host.ffn_output(layer)
        block = self.host.layers[self.last_layer]
        with recorded([projection, block]) as calls:
            self.host.finish(states, self.layer)
        keys = lookups.average(lookups.at_token(calls[projection][0]).double())
        outputs = lookups.at_token(calls[block][1]).double()
        return keys, outputs[: lookups.edits]


def normal_update(keys: Tensor, residual: Tensor, kept: Tensor) -> Tensor:
    """R K^T (kept + K K^T)^-1, (d, m), for keys (n, m), residuals (n, d) and ``kept`` (m, m)."""
    return torch.linalg.solve(kept + keys.T @ keys, keys.T @ residual).T
