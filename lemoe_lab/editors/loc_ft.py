"""LocFT: fine-tuning of one weight in reshuffled passes over the edits (arXiv 2509.22072).

editor = LocFT()                          # goes over all edits learned so far at every batch
editor = LocFT(replay=False)              # a true stream: over the new batch only
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ..edits import EditBatch, EditStream
from ..host.encoding import TokenSequence
from ..host.states import LayerStates
from .base import OnStep, TrainingReport, finite
from .fine_tune import Descent, FineTunedLayer, FineTunedLayerConfig
from .shared.gradients import edit_losses
from .shared.preset import Preset


class LocFTConfig(FineTunedLayerConfig):
    """Settings of LocFT, beside those of every fine-tuned layer.

    Parameters
    ----------
    replay
        Go over all edits learned so far at every batch, a newer edit replacing an older one of the
        same prompt; False: over the new batch only.
    passes
        At most this many passes at each batch; the paper's 25.
    mini_batch
        Edits per step of Adam; the paper's 100. With ``replay`` a batch takes at most
        ``passes`` times the number of edits so far / ``mini_batch`` steps.
    learning_rate
        Lower than FT-L's: it has more steps to take.
    """

    replay: bool = True
    passes: int = Field(25, ge=1)
    mini_batch: int = Field(100, ge=1)
    learning_rate: float = Field(2e-3, gt=0)


class LocFT(FineTunedLayer):
    """Localised fine-tuning, breadth first (LocFT-BF, "Fine-tuning Done Right in Model Editing").

        minimise (1/n) sum_i -(1/|y_i|) log p_W(y_i | x_i),   y_i ending in EOS,

    over one matrix W by Adam: every pass goes once through all edits in a new random order, a
    mini-batch at a time, and a mini-batch whose loss is below ``loss_threshold`` takes no step.
    Passes end once the mean loss of a whole one is below it. The paper has all edits from the
    start; here they arrive in batches, and each batch tunes on from where the last one ended.
    """

    Config = LocFTConfig
    config: LocFTConfig
    presets: ClassVar = {
        "LocFT replay": Preset("one matrix, in passes over all edits so far", colour="#8A9BB0"),
        "LocFT stream": Preset(
            "one matrix, in passes over the new edits", {"replay": False}, "#B0B0B0"
        ),
    }

    def _hang_on(self, stream: EditStream, calibration: dict[str, Tensor] | None) -> None:
        self._entering: dict[TokenSequence, Tensor] = {}  # (L, d), what enters the edited layer
        super()._hang_on(stream, calibration)

    def _overwrite(
        self, batch: EditBatch, sequences: Sequence[TokenSequence], on_step: OnStep | None
    ) -> TrainingReport:
        edits = list(sequences)
        if self.config.replay:
            earlier = map(recall, self._earlier_memories())
            self.memory = stored(edits, self.host.device)
            edits = remember([edit for batch in earlier for edit in batch], edits)
        return TrainingReport(self._tune(self._states(edits), on_step))

    def _tune(self, states: LayerStates, on_step: OnStep | None) -> list[float]:
        config, host = self.config, self.host
        generator = torch.Generator().manual_seed(config.seed * 100_003 + self.steps)
        count = len(states.sequences)
        losses: list[float] = []
        with self.trainable() as parameters:
            descent = Descent(parameters, config.learning_rate)
            for number in range(1, config.passes + 1):
                total = 0.0
                for rows in reshuffled(count, config.mini_batch, generator):
                    loss = edit_losses(host, states, self.layer, rows).mean()
                    losses.append(finite(loss.item(), len(losses) + 1))
                    total += losses[-1] * len(rows)
                    if losses[-1] >= config.loss_threshold:
                        descent.step(loss)
                if on_step:
                    on_step(number, config.passes, total / count)
                if total / count < config.loss_threshold:
                    break
        return losses

    def _states(self, edits: Sequence[TokenSequence]) -> LayerStates:
        """What enters the edited layer for all edits, padded to the longest.

        Every edit ran through the lower layers once, on its own: so its hidden states have the
        same bits whichever edits it is tuned with, also after a resume.
        """
        host, layer = self.host, self.layer
        for edit in edits:
            if edit not in self._entering:
                self._entering[edit] = host.states([edit], layer).hidden[0]
        longest = host.states([max(edits, key=len)], layer)
        hidden = pad_sequence([self._entering[edit] for edit in edits], batch_first=True)
        return replace(longest, sequences=list(edits), hidden=hidden)


def reshuffled(count: int, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """One pass: the numbers below ``count`` in random order, ``size`` at a time."""
    yield from torch.randperm(count, generator=generator).split(size)


def remember(older: list[TokenSequence], newer: list[TokenSequence]) -> list[TokenSequence]:
    """All edits in order, without those whose prompt a later one has."""
    last: dict[tuple[int, ...], TokenSequence] = {}
    for edit in (*older, *newer):
        last.pop(edit.prompt, None)
        last[edit.prompt] = edit
    return list(last.values())


def stored(edits: Sequence[TokenSequence], device: torch.device) -> dict[str, Tensor]:
    """Edits as tensors: token ids one after another, lengths (n, 2) of prompts and targets."""
    tokens = [token for edit in edits for token in (*edit.prompt, *edit.target)]
    lengths = [[len(edit.prompt), len(edit.target)] for edit in edits]
    return {
        "tokens": torch.tensor(tokens, dtype=torch.int32, device=device),
        "lengths": torch.tensor(lengths, dtype=torch.int32, device=device),
    }


def recall(memory: dict[str, Tensor]) -> list[TokenSequence]:
    """The edits that :func:`stored` made tensors of; none from an empty memory."""
    if not memory:
        return []
    tokens = iter(memory["tokens"].tolist())
    return [
        TokenSequence(
            tuple(next(tokens) for _ in range(prompt)), tuple(next(tokens) for _ in range(target))
        )
        for prompt, target in memory["lengths"].tolist()
    ]
