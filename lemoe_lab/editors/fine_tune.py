"""Constrained fine-tuning, FT-L: one weight, kept near what it was (arXiv 2012.00363, 2202.05262).

    editor = FineTune(epsilon=0.05)
    editor = FineTune(epsilon=None)           # no constraint

What all editors share that fine-tune one weight of the host stands here too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from ..edits import EditBatch
from ..host.encoding import TokenSequence
from .base import EditorConfig, OnStep, TrainingReport, finite, two_thirds_up
from .shared.gradients import edit_losses, full_precision
from .shared.preset import Preset
from .shared.weights import WeightEditor


class FineTunedLayerConfig(EditorConfig):
    """Settings of every editor that fine-tunes one weight.

    Parameters
    ----------
    layer
        The decoder layer whose last FFN matrix is tuned, from 0; None: two thirds up.
    learning_rate
        Of Adam, without weight decay, its state new at every batch.
    loss_threshold
        Tuning stops, or passes over a mini-batch, once its loss is below this; the paper's 0.01.
    """

    layer: int | None = Field(None, ge=0)
    learning_rate: float = Field(5e-3, gt=0)
    loss_threshold: float = Field(1e-2, ge=0)


class FineTuneConfig(FineTunedLayerConfig):
    """Settings of FT-L, beside those of every fine-tuned layer.

    Parameters
    ----------
    steps
        Adam takes at most this many steps at each batch, each on the whole batch.
    epsilon
        How far any entry of the weight may ever be from the unedited one; None: as far as it likes.
    """

    steps: int = Field(25, ge=1)
    epsilon: float | None = Field(0.05, gt=0)


class FineTunedLayer(WeightEditor):
    """An editor that tunes the matrix with which one FFN writes to the residual stream."""

    config: FineTunedLayerConfig

    @property
    def layer(self) -> int:
        return two_thirds_up(self.host, self.config.layer)

    def _edited_weights(self) -> Sequence[nn.Parameter]:
        return [self.host.ffn_output(self.layer).weight]


class FineTune(FineTunedLayer):
    """Fine-tuning in a norm ball around the unedited weight W_0 (FT-L).

        minimise (1/n) sum_i -(1/|y_i|) log p_W(y_i | x_i)  subject to  max |W - W_0| <= epsilon

    by Adam, every step followed by the projection W <- W_0 + clip(W - W_0, -epsilon, epsilon).
    ROME's and MEMIT's baseline (arXiv 2202.05262, 2210.07229) reads all of y_i off the last prompt
    token; here each token of y_i, EOS included, is predicted at its own place. In a lifelong run
    the ball stays where it was: around the unedited weight, not around the last batch's.
    """

    Config = FineTuneConfig
    config: FineTuneConfig
    presets: ClassVar = {
        "FineTune": Preset("one matrix, inside a norm ball (FT-L)", colour="#000000")
    }

    def _overwrite(
        self, batch: EditBatch, sequences: Sequence[TokenSequence], on_step: OnStep | None
    ) -> TrainingReport:
        config, host = self.config, self.host
        states = host.states(sequences, self.layer)
        losses: list[float] = []
        with self.trainable() as parameters:
            descent = Descent(parameters, config.learning_rate, self._project)
            for step in range(1, config.steps + 1):
                loss = edit_losses(host, states, self.layer).mean()
                losses.append(finite(loss.item(), step))
                if on_step:
                    on_step(step, config.steps, losses[-1])
                if losses[-1] < config.loss_threshold:
                    break
                descent.step(loss + self._penalty(descent.exact))
        return TrainingReport(losses)

    def _penalty(self, weights: Sequence[Tensor]) -> Tensor | float:
        """What is added to the loss of the edits, a function of the weights being tuned."""
        return 0.0

    def _project(self, weights: Sequence[Tensor]) -> None:
        """Move the weights, in place, to the nearest ones that the constraint allows."""
        radius = self.config.epsilon
        if radius is None:
            return
        for weight, original in zip(weights, self._originals.values(), strict=True):
            centre = original.to(weight.dtype)
            weight.clamp_(centre - radius, centre + radius)


class Descent:
    """Adam on copies of parameters in float32 or better, which the parameters follow.

    Parameters
    ----------
    parameters
        Parameters of the host that collect gradients, in any precision.
    learning_rate
        Of Adam without weight decay.
    project
        Called after every step with the copies, to change them in place.

    Attributes
    ----------
    exact
        The copies: what is tuned, where a step smaller than the host's precision is not lost.
    """

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        learning_rate: float,
        project: Callable[[Sequence[Tensor]], None] | None = None,
    ) -> None:
        self.parameters = parameters
        self.exact = [nn.Parameter(full_precision(p.data)) for p in parameters]
        self._project = project
        self._optimizer = torch.optim.Adam(self.exact, lr=learning_rate)

    def step(self, loss: Tensor) -> None:
        """One step against the gradient of a loss of the parameters, of the copies, or of both."""
        loss.backward()
        for exact, parameter in zip(self.exact, self.parameters, strict=True):
            gradient = full_precision(parameter.grad)
            exact.grad = gradient if exact.grad is None else exact.grad + gradient
            parameter.grad = None
        self._optimizer.step()
        self._optimizer.zero_grad()
        with torch.no_grad():
            if self._project:
                self._project(self.exact)
            for exact, parameter in zip(self.exact, self.parameters, strict=True):
                parameter.copy_(exact)
