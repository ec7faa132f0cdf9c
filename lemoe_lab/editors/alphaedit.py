"""AlphaEdit: MEMIT's values, written only where the host's own text has no keys."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor

from ..edits import EditBatch
from ..host import TokenSequence
from .base import OnStep, TrainingReport
from .memit import MEMIT, SpreadConfig, normal_update


class AlphaEditConfig(SpreadConfig):
    """Settings of :class:`AlphaEdit`.

    Parameters
    ----------
    null_threshold
        Directions of the keys' second moment whose eigenvalue is below this are free to write to.
    relative
        The threshold is a multiple of the mean eigenvalue instead of a value of its own.
    ridge
        Weight of the size of the change; 1 in the paper.
    """

    null_threshold: float = Field(0.5, gt=0)
    relative: bool = True
    ridge: float = Field(1.0, gt=0)


class AlphaEdit(MEMIT):
    """Null-space constrained editing (Fang et al., ICLR 2025, arXiv 2410.02355).

    Values and their spread over layers are :class:`MEMIT`'s. The keys K_0 of the host's own text
    are protected: with the eigenvectors U of K_0 K_0^T of small eigenvalues, P = U U^T projects on
    their null space (P K_0 = 0, section 3.1), and a layer's change is confined to it. The keys K_p of
    earlier batches are remembered, and the change leaves their values alone too (equation 14):

        Delta = R K_1^T P (K_p K_p^T P + K_1 K_1^T P + ridge * I)^-1.

    The code works in the coordinates of U, where this is
    R K^T (K'_p K'_p^T + K K^T + ridge * I)^-1 U^T with K = U^T K_1 and K'_p = U^T K_p.
    """

    Config = AlphaEditConfig
    config: AlphaEditConfig

    def _knowledge(self, moment: Tensor) -> Tensor:
        config = self.config
        return null_space(moment, config.null_threshold, config.relative).to(moment.dtype)

    def _overwrite(
        self, batch: EditBatch, sequences: Sequence[TokenSequence], on_step: OnStep | None
    ) -> TrainingReport:
        report = super()._overwrite(batch, sequences, on_step)
        return report

    def _update(self, layer: int, keys: Tensor, residual: Tensor) -> Tensor:
        basis = self.calibrated[f"knowledge.{layer}"].double()  # (m, r)
        inside = keys @ basis  # (n, r)
        kept = self.config.ridge * torch.eye(basis.shape[1], dtype=basis.dtype).to(basis.device)
        name = f"earlier.{layer}"
        if name in self.memory:
            kept = kept + self.memory[name].double()
        update = normal_update(inside, residual, kept) @ basis.T
        earlier = self.memory.get(name, 0)
        self.memory[name] = (inside.T @ inside + earlier).to(
            self.calibrated[f"knowledge.{layer}"].dtype
        )
        return update


def null_space(moment: Tensor, threshold: float, relative: bool) -> Tensor:
    """Orthonormal eigenvectors (m, r) of a second moment (m, m) with small eigenvalues, float64.

    Raises
    ------
    ValueError
        If there is none.
    """
    values, vectors = torch.linalg.eigh(moment.double())
    limit = threshold * values.mean() if relative else threshold
    small = values < limit
    if not small.any():
        raise ValueError(
            f"no direction of the keys is free: the smallest eigenvalue is {values[0]:.3g}, "
            f"null_threshold asks for less than {limit:.3g}; raise it"
        )
    return vectors[:, small]
