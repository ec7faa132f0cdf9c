"""MEND: networks that turn the gradient of an edit into a better update (arXiv 2110.11309).

editor = MEND()
editor = MEND(training_steps=20)      # networks half trained, sooner
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn

from ..edits import EditBatch, EditStream
from ..host.encoding import TokenSequence
from .base import EditorConfig, OnStep, TrainingReport
from .shared.gradients import target_losses
from .shared.mend_training import (
    TrainingSettings,
    factors,
    linears_above,
    new_networks,
    trained_networks,
)
from .shared.preset import Preset
from .shared.weights import WeightEditor, matrix


class MENDConfig(EditorConfig):
    """Settings of MEND.

    Parameters
    ----------
    layer
        The lowest decoder layer whose FFN is edited, from 0; all above it are edited too. None:
        the last three, as in the paper.
    rank
        Rank of the networks' linear layers.
    initial_rate
        alpha, the learned rate of every weight's update, before training.
    training_steps
        How often the networks' own training draws edits. No step touches the stream.
    training_edits
        How many edits one training step draws.
    batch_sizes
        How many edits are applied together in training, in turn; the paper trains on the size
        that is used later.
    learning_rate
        Adam's in training, falling to zero along a cosine.
    edit_weight
        c_e, the weight of the edit loss beside the locality loss. (The paper: 0.1, over tens of
        thousands of training steps.)
    """

    layer: int | None = Field(None, ge=0)
    rank: int = Field(128, ge=1)
    initial_rate: float = Field(3e-4, gt=0)
    training_steps: int = Field(120, ge=1)
    training_edits: int = Field(20, ge=1)
    batch_sizes: tuple[int, ...] = Field((1, 10), min_length=1)
    learning_rate: float = Field(2e-3, gt=0)
    edit_weight: float = Field(1.0, gt=0)

    @field_validator("batch_sizes")
    @classmethod
    def _positive(cls, sizes: tuple[int, ...]) -> tuple[int, ...]:
        if min(sizes) < 1:
            raise ValueError(f"every batch size must be at least 1, not {min(sizes)}")
        return sizes


class MEND(WeightEditor):
    """Model editor networks with gradient decomposition.

        gradient of W = sum_t d_t u_t^T                       (u_t: W's input, d_t: its error)
        (u'_t, d'_t) = g(z_t),  z_t = normalised (u_t, d_t)
        h = z + relu(s1 * (U1 V1 z + b1) + o1),  g(z) = h + s2 * (U2 V2 h + b2) + o2   (eq. 3)
        W <- W - alpha * sum_t d'_t u'_t^T
        L = c_e * -log p(y' | x', W') + KL(p(. | x_kept, W) || p(. | x_kept, W'))      (eq. 4)

    t runs over the tokens of all edits of a batch. Weights of one shape share U, V and b; s, o and
    alpha are each weight's own. The outer layer has no relu, as in the authors' code. The networks
    are trained once on calibration facts: x' is any phrasing of the edited fact, x_kept are other
    facts, half of them of the same relation.
    """

    Config = MENDConfig
    config: MENDConfig
    presets: ClassVar = {"MEND": Preset("trained editing networks", colour="#7A3F62")}

    @property
    def layer(self) -> int:
        given = self.config.layer
        return max(0, len(self.host.layers) - 3) if given is None else given

    def _edited_weights(self) -> Sequence[nn.Parameter]:
        self.host.ffn(self.layer)
        return [module.weight for module in linears_above(self.host, self.layer).values()]

    def _training_settings(self) -> TrainingSettings:
        config = self.config
        return TrainingSettings(
            layer=self.layer,
            rank=config.rank,
            initial_rate=config.initial_rate,
            steps=config.training_steps,
            edits=config.training_edits,
            batch_sizes=config.batch_sizes,
            learning_rate=config.learning_rate,
            edit_weight=config.edit_weight,
            seed=config.seed,
        )

    def _calibrate(self, stream: EditStream) -> dict[str, Tensor]:
        if not stream.calibration:
            raise ValueError(
                "MEND trains its networks on facts outside the stream, and this stream carries "
                "none; give the stream `calibration`"
            )
        return trained_networks(self.host, stream.calibration, self._training_settings())

    def _hang_on(self, stream: EditStream, calibration: dict[str, Tensor] | None) -> None:
        super()._hang_on(stream, calibration)
        self.networks = new_networks(self.host, self._training_settings())
        self.networks.load_state_dict(self.calibrated)

    def _overwrite(
        self, batch: EditBatch, sequences: Sequence[TokenSequence], on_step: OnStep | None
    ) -> TrainingReport:
        host, layer = self.host, self.layer
        linears = linears_above(host, layer)
        states = host.states(sequences, layer)
        given = factors(host, states, layer, linears)
        with torch.no_grad():
            loss = target_losses(host, states.final, sequences).mean().item()
            for name, change in self.networks.changes(given, groups=1).items():
                weight = matrix(linears[name])
                weight.copy_(weight.float() + change[0])
        if on_step:
            on_step(1, 1, loss)
        return TrainingReport([loss])
