"""AlphaEdit: MEMIT's values, written only where the host's own text has no keys."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from ..edits import EditBatch
from ..host.encoding import TokenSequence
from ..host.identity import prompt_numbers
from .base import OnStep, TrainingReport
from .memit import MEMIT, SpreadConfig, normal_update
from .shared.footprint import FLOAT32, Footprint, Workload
from .shared.preset import Preset


class AlphaEditConfig(SpreadConfig):
    """Settings of :class:`AlphaEdit`.

    Parameters
    ----------
    null_threshold
        Directions of the keys' second moment whose eigenvalue is below this are free to write to.
    relative
        The threshold is a multiple of the mean eigenvalue; False: an eigenvalue, 0.01 in the paper.
        A small host has hardly any empty direction, and its threshold is high.
    ridge
        Weight of the squared size of the change; 1 in the paper's equation.
    clamp
        Smaller than MEMIT's: as many single edits succeed, and more of a long run is kept.
    """

    clamp: float = Field(1.0, gt=0)
    null_threshold: float = Field(1.0, gt=0)
    relative: bool = True
    ridge: float = Field(20.0, gt=0)


class AlphaEdit(MEMIT):
    """Null-space constrained editing (Fang et al., ICLR 2025, arXiv 2410.02355).

    Values and their spread over layers are :class:`MEMIT`'s. The keys K_0 of the host's own text
    are protected: with the eigenvectors U of K_0 K_0^T of small eigenvalues, P = U U^T projects on
    their null space (P K_0 = 0), and a layer's change is confined to it. The keys K_p of earlier
    batches are remembered, and the change is to leave their values alone too (section 3):

        Delta = R K_1^T P (K_p K_p^T P + K_1 K_1^T P + ridge * I)^-1.

    The code works in the coordinates of U, where this is
    R K^T (K'_p K'_p^T + K K^T + ridge * I)^-1 U^T with K = U^T K_1 and K'_p = U^T K_p.

    One thing the paper leaves open: a newer edit of a prompt that was edited before takes the older
    edit's place in K_p. With both in it, the older value would be half protected.
    """

    Config = AlphaEditConfig
    config: AlphaEditConfig
    presets: ClassVar = {
        "AlphaEdit": Preset("least squares in a null space, tuned for long runs", colour="#7FD1B9"),
        "AlphaEdit, single edits": Preset(
            "least squares in a null space, tuned for one edit on the unedited host",
            {"clamp": 1.5, "ridge": 10.0},
            "#B5E3D3",
            compared=False,
        ),
    }

    def footprint(self, work: Workload) -> Footprint:
        keys = work.edits * sum(max(weight.shape) for weight in self._edited_weights())
        return super().footprint(work).with_more(" and the keys of all edits", held=keys * FLOAT32)

    def _knowledge(self, moment: Tensor) -> Tensor:
        config = self.config
        return null_space(moment, config.null_threshold, config.relative).to(moment.dtype)

    def _overwrite(
        self, batch: EditBatch, sequences: Sequence[TokenSequence], on_step: OnStep | None
    ) -> TrainingReport:
        self.memory = {f"prompts.{self.steps}": prompt_numbers(self.host, batch)}
        return super()._overwrite(batch, sequences, on_step)

    def _update(self, batch: EditBatch, layer: int, keys: Tensor, residual: Tensor) -> Tensor:
        basis = self.calibrated[f"knowledge.{layer}"]  # (m, r)
        inside = keys @ basis.double()  # (n, r)
        earlier = self._earlier_keys(layer, inside)
        self.memory[f"keys.{layer}.{self.steps}"] = inside.to(basis.dtype)
        ridge = self.config.ridge * torch.eye(basis.shape[1]).to(inside)
        return normal_update(inside, residual, earlier.T @ earlier + ridge) @ basis.double().T

    def _earlier_keys(self, layer: int, like: Tensor) -> Tensor:
        """K'_p (N, r): for every prompt that the batch leaves alone, the key of its last edit."""
        last: dict[int, Tensor] = {}
        for step, memory in enumerate(self._earlier_memories(), start=1):
            prompts = memory[f"prompts.{step}"].tolist()
            last |= zip(prompts, memory[f"keys.{layer}.{step}"], strict=True)
        for prompt in self.memory[f"prompts.{self.steps}"].tolist():
            last.pop(prompt, None)
        return torch.stack([*last.values()]).to(like) if last else like[:0]


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
