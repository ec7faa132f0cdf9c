"""UltraEdit: one step in closed form from hidden states and gradients (arXiv 2505.14679).

editor = UltraEdit()
editor = UltraEdit(layers=(3, 4), part="in", tokens="all", step_size=1e-3)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from ..edits import EditBatch
from ..host.encoding import TokenSequence
from ..host.states import LayerStates
from .base import EditorConfig, OnStep, TrainingReport, named, tensors_of
from .shared.footprint import Footprint, Workload
from .shared.gradients import edit_losses, keys_and_gradients
from .shared.preset import Preset
from .shared.weights import WeightEditor, matrix


class UltraEditConfig(EditorConfig):
    """Settings of UltraEdit.

    Parameters
    ----------
    layers
        The decoder layers that are edited, from 0; None: the last third.
    part
        Which linear modules of their FFNs: ``"out"``, the one that writes to the residual stream,
        ``"in"``, those that read the FFN's input (gate and up projection, as the published
        settings for Gemma have it), or ``"both"``.
    tokens
        Where hidden states and gradients are taken: where a token of the ``"target"`` is
        predicted, or at ``"all"`` tokens of prompt and target. The published code knows both.
        On the embedded host ``"all"`` with a step size of 3e-3 learns more of single edits, and
        keeps less of long runs.
    step_size
        eta. It multiplies squared norms of normalised hidden states, which grow with the host's
        width: the published 1e-6 is for widths of thousands, the default for the embedded host.
    """

    layers: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)] | None = None
    part: Literal["out", "in", "both"] = "out"
    tokens: Literal["target", "all"] = "target"
    step_size: float = Field(5e-3, gt=0)


class UltraEdit(WeightEditor):
    """UltraEdit: neither training, nor subjects, nor a memory of edits.

    For every edited matrix W, from one forward and one backward pass over the batch's tokens i:
    h_i, what enters W, and v_i, the gradient of the loss at W h_i.

        (h~_i, v~_i) = ((h_i, v_i) - mu) / sigma            lifelong normalisation, by feature
        u_i          = -eta |h~_i|^2 v~_i
        W           <- W + D^T,  D = argmin |H D - U|^2 + |D|^2 = (H^T H + I)^-1 H^T U

    H has the rows h_i, U the rows u_i. mu and sigma are mean and standard deviation over the tokens
    of all batches so far, this one included; they are all that is remembered. The loss is the sum
    over edits of -(1/|y|) log p(y|x), so that its scale does not hang on the size of a batch.
    """

    Config = UltraEditConfig
    config: UltraEditConfig
    presets: ClassVar = {
        "UltraEdit": Preset("closed-form steps, tuned for long runs", colour="#004166"),
        "UltraEdit, single edits": Preset(
            "closed-form steps, tuned for one edit on the unedited host",
            {"tokens": "all", "step_size": 3e-3},
            "#2A7A8C",
            compared=False,
        ),
    }

    @property
    def layers(self) -> tuple[int, ...]:
        """The decoder layers that are edited."""
        if self.config.layers is not None:
            return self.config.layers
        count = len(self.host.layers)
        return tuple(range(count * 2 // 3, count))

    @property
    def layer(self) -> int:
        return min(self.layers)

    def _modules(self) -> dict[str, nn.Module]:
        """The edited linear modules, by their names in the host."""
        chosen: set[int] = set()
        for layer in self.layers:
            linears = self.host.ffn_linears(layer)
            parts = {"out": linears[-1:], "in": linears[:-1], "both": linears}
            chosen |= set(map(id, parts[self.config.part]))
        return {name: m for name, m in self.host.model.named_modules() if id(m) in chosen}

    def _edited_weights(self) -> Sequence[nn.Parameter]:
        return [module.weight for module in self._modules().values()]

    def footprint(self, work: Workload) -> Footprint:
        return super().footprint(work).with_solving(self._edited_weights())

    def _overwrite(
        self, batch: EditBatch, sequences: Sequence[TokenSequence], on_step: OnStep | None
    ) -> TrainingReport:
        host, layer = self.host, self.layer
        losses: list[float] = []

        def loss_of(states: LayerStates) -> Tensor:
            each = edit_losses(host, states, layer)
            losses.append(each.mean().item())
            return each.sum()

        modules = self._modules()
        states = host.states(sequences, layer)
        traces = keys_and_gradients(states, list(modules.values()), loss_of)
        places = self._places(states)
        memory = {}
        for (name, module), trace in zip(modules.items(), traces, strict=True):
            keys, gradients = (tensor[places].double() for tensor in trace)  # (n, in), (n, out)
            moments = Moments.of(torch.cat([keys, gradients], dim=1))
            if self.memory:
                moments = Moments(**tensors_of(self.memory, name, host.device)).merged(moments)
            memory |= named(name, vars(moments))
            change = weight_shift(keys, gradients, moments, self.config.step_size)
            weight = matrix(module)
            weight.copy_(weight + change)
        self.memory = memory
        if on_step:
            on_step(1, 1, losses[0])
        return TrainingReport(losses)

    def _places(self, states: LayerStates) -> Tensor:
        """Which tokens (B, L) the hidden states and gradients are taken at."""
        places = torch.zeros(states.hidden.shape[:2], dtype=torch.bool, device=self.host.device)
        for row, sequence in zip(places, states.sequences, strict=True):
            first = len(sequence.prompt) - 1 if self.config.tokens == "target" else 0
            row[first : len(sequence) - 1] = True  # nothing is predicted from the last token
        return places


@dataclass(frozen=True)
class Moments:
    """How many rows were seen, their mean (k,) and sum of squared deviations from it (k,)."""

    count: Tensor
    mean: Tensor
    deviation: Tensor

    @classmethod
    def of(cls, rows: Tensor) -> Moments:
        """The moments of rows (n, k)."""
        mean = rows.mean(0)
        count = torch.tensor(len(rows), dtype=rows.dtype, device=rows.device)
        return cls(count, mean, ((rows - mean) ** 2).sum(0))

    def merged(self, other: Moments) -> Moments:
        """The moments of the rows of both, exactly as if they had been seen at once."""
        count = self.count + other.count
        step = other.mean - self.mean
        return Moments(
            count,
            self.mean + step * other.count / count,
            self.deviation + other.deviation + step**2 * self.count * other.count / count,
        )

    def normalise(self, rows: Tensor) -> Tensor:
        """Rows (n, k) with the mean taken off, in units of the standard deviation."""
        spread = (self.deviation / (self.count - 1).clamp_min(1)).sqrt()
        return (rows - self.mean) / (spread + torch.finfo(rows.dtype).eps)


def weight_shift(keys: Tensor, gradients: Tensor, moments: Moments, step_size: float) -> Tensor:
    """What a weight changes by, (out, in), for keys (n, in) and gradients (n, out).

    ``moments`` are those of both beside each other.
    """
    joint = moments.normalise(torch.cat([keys, gradients], dim=1))
    normal_keys, normal_gradients = joint.split([keys.shape[1], gradients.shape[1]], dim=1)
    wanted = -step_size * (normal_keys**2).sum(1, keepdim=True) * normal_gradients  # (n, out)
    gram = keys.T @ keys + torch.eye(keys.shape[1], dtype=keys.dtype, device=keys.device)
    return torch.linalg.solve(gram, keys.T @ wanted).T
