"""Fine-tuning that holds on to what earlier batches needed: elastic weight consolidation.

editor = FineTuneEWC(strength=10.0)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from ..edits import EditBatch
from ..host.encoding import TokenSequence
from .base import OnStep, TrainingReport
from .fine_tune import FineTune, FineTuneConfig
from .shared.footprint import FLOAT32, Footprint, Workload
from .shared.gradients import edit_losses, full_precision, keys_and_gradients
from .shared.preset import Preset
from .shared.weights import matrix


class FineTuneEWCConfig(FineTuneConfig):
    """Settings of EWC, beside those of FT-L.

    Parameters
    ----------
    strength
        lambda, the weight of the penalty. Much higher, and later batches are not learned; much
        lower, and the earlier ones are lost. It goes with the host and the learning rate.
    steps, learning_rate
        More and smaller ones than FT-L's: the penalty is steep where it matters.
    epsilon
        As in FT-L; None here: EWC has its penalty instead of a norm constraint.
    """

    strength: float = Field(10.0, ge=0)
    steps: int = Field(50, ge=1)
    learning_rate: float = Field(2e-3, gt=0)
    epsilon: float | None = Field(None, gt=0)


class FineTuneEWC(FineTune):
    """Elastic weight consolidation (arXiv 1612.00796, eq. 3), in its online form.

        L_t(W) = L(W; batch t) + lambda/2 sum_j F_j (W_j - W*_j)^2
        F      = sum over all edits i of batches 1..t-1 of (d log p_W*(y_i | x_i) / dW)^2

    W* is the weight after batch t-1; F is the diagonal of the empirical Fisher information, every
    batch's taken right after it was learned and added to those before (one anchor with the summed
    Fisher, arXiv 1712.03847, instead of one penalty for every batch). Nothing protects what the
    host knew before the first batch.
    """

    Config = FineTuneEWCConfig
    config: FineTuneEWCConfig
    presets: ClassVar = {
        "FineTuneEWC": Preset("one matrix, held by elastic weight consolidation", colour="#6E6E6E")
    }

    def _overwrite(
        self, batch: EditBatch, sequences: Sequence[TokenSequence], on_step: OnStep | None
    ) -> TrainingReport:
        self._anchors = [full_precision(p.data) for p in self.parameters.values()]
        report = super()._overwrite(batch, sequences, on_step)
        information = self._information(sequences)
        if "fisher" in self.memory:
            information = self.memory["fisher"] + information
        self.memory = {"fisher": information}
        return report

    def _penalty(self, weights: Sequence[Tensor]) -> Tensor | float:
        if "fisher" not in self.memory:
            return 0.0
        (weight,), (anchor,) = weights, self._anchors
        return self.config.strength / 2 * (self.memory["fisher"] * (weight - anchor) ** 2).sum()

    def _information(self, sequences: Sequence[TokenSequence]) -> Tensor:
        """What the edits add to the Fisher diagonal, in the shape of the weight."""
        module = self.host.ffn_output(self.layer)
        lengths = torch.tensor([len(s.target) for s in sequences], device=self.host.device)
        states = self.host.states(sequences, self.layer)
        traces = keys_and_gradients(
            states, [module], lambda s: (edit_losses(self.host, s, self.layer) * lengths).sum()
        )
        keys, gradients = traces[0]  # (B, L, in), (B, L, out)
        total = torch.zeros_like(matrix(module), dtype=keys.dtype)  # (out, in)
        for key, gradient in zip(keys, gradients, strict=True):
            total += (gradient.T @ key) ** 2
        return total if module.weight.shape == total.shape else total.T.contiguous()

    def footprint(self, work: Workload) -> Footprint:
        information = sum(weight.numel() for weight in self._edited_weights()) * FLOAT32
        return (
            super()
            .footprint(work)
            .with_more(
                " and of what says how much each of their numbers matters",
                held=work.batches * information,
            )
        )
