"""ROME: one fact, one rank-one update of one FFN."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from ..edits import EditBatch, EditStream
from ..host.encoding import TokenSequence
from ..host.statistics import openings, recorded, second_moments
from .base import OnStep, TrainingReport
from .shared.footprint import Footprint, Workload
from .shared.preset import Preset
from .shared.target_values import (
    TargetValueConfig,
    look_up,
    require_subjects,
    target_values,
    value_sizes,
)
from .shared.weights import WeightEditor, matrix


class ROMEConfig(TargetValueConfig):
    """Settings of :class:`ROME`, beside those of all editors with value vectors.

    Parameters
    ----------
    layer
        None: a sixth of the way up.
    ridge
        Part of the mean eigenvalue that is added to C before it is inverted, so that a short text
        is enough.
    together
        Find the values of a batch's edits at once, with none of them inserted yet. False: each
        after the one before it is in, which takes three times as long and breaks down sooner.
    """

    learning_rate: float = Field(0.5, gt=0)
    weight_decay: float = Field(0.01, ge=0)
    clamp: float = Field(4.0, gt=0)
    ridge: float = Field(1e-3, ge=0)
    together: bool = True


class ROME(WeightEditor):
    """Rank-One Model Editing (Meng et al., NeurIPS 2022, arXiv 2202.05262).

    The output projection W of one FFN is read as a memory of keys and values. An edit's key k* is
    the mean of what enters W at the token where its fact is looked up, over contexts (equation 3).
    Its value v* changes that token's FFN output so that the host says the target, and what it says
    of the subject's essence stays (equation 4):

        L(z) = mean_j -log P[o* | x_j + p; m := z] + weight * KL(P[x | p'; m := z] || P[x | p']).

    Among all W' with W' k* = v*, the one that changes the memory of other keys least is
    (equation 2, with C = E[k k^T] over text):

        W' = W + (v* - W k*) (C^-1 k*)^T / ((C^-1 k*)^T k*).

    The edits of a batch are inserted one after another. v* is what W makes of k* plus the optimised
    change, so the constraint holds exactly for the mean key.
    """

    Config = ROMEConfig
    config: ROMEConfig
    presets: ClassVar = {"ROME": Preset("a rank-one update for every edit", colour="#009E73")}

    @property
    def layer(self) -> int:
        return len(self.host.layers) // 6 if self.config.layer is None else self.config.layer

    def _edited_weights(self) -> Sequence[nn.Parameter]:
        return [self.host.ffn_output(self.layer).weight]

    def footprint(self, work: Workload) -> Footprint:
        weights = self._edited_weights()
        return super().footprint(work).with_solving(weights).with_second_moments(weights)

    def _calibrate(self, stream: EditStream) -> dict[str, Tensor]:
        config = self.config
        require_subjects(self.host, stream.edits)
        return {
            "moment": second_moments(self.host, [self.layer], config.sample)[self.layer],
            "openings": openings(self.host, config.openings, config.opening_tokens, config.seed),
        }

    def _overwrite(
        self, batch: EditBatch, sequences: Sequence[TokenSequence], on_step: OnStep | None
    ) -> TrainingReport:
        host, config = self.host, self.config
        lookups = look_up(host, batch, sequences, self.calibrated["openings"], config)
        projection = host.ffn_output(self.layer)
        with torch.no_grad(), recorded([projection]) as calls:
            host.states(lookups.sequences, self.layer)
        keys = lookups.average(lookups.at_token(calls[projection][0]).double())  # (n, m)
        directions = inverse_times(self.calibrated["moment"], keys, config.ridge)
        with self.disabled():
            sizes = value_sizes(host, lookups, self.layer, projection)
        one_by_one = [(lookups.only(i), sizes[i : i + 1]) for i in range(len(batch))]
        groups = [(lookups, sizes)] if config.together else one_by_one
        losses: list[float] = []
        done = 0
        for group, size in groups:
            values = target_values(host, group, self.layer, projection, size, config, on_step)
            losses += values.losses
            for shift in values.shift.double():
                insert(matrix(projection), keys[done], shift, directions[done])
                done += 1
        return TrainingReport(losses)


def inverse_times(moment: Tensor, keys: Tensor, ridge: float) -> Tensor:
    """C^-1 k for every key (n, m), in float64; ``ridge`` is relative to the mean eigenvalue."""
    moment = moment.double()
    strength = ridge * moment.diagonal().mean()
    eye = torch.eye(len(moment), dtype=moment.dtype, device=moment.device)
    return torch.linalg.solve(moment + strength * eye, keys.T).T


def insert(weight: Tensor, key: Tensor, shift: Tensor, direction: Tensor) -> None:
    """Change a weight (d, m) in place so that it maps the key (m,) to what it did plus ``shift``.

    ``direction`` (m,) is C^-1 k*.
    """
    update = torch.outer(shift, direction) / (direction @ key)
    weight.copy_(weight.double() + update)
