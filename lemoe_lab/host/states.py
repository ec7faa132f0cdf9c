"""Batches on their way through a host: what enters a layer, and how targets score at the end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .encoding import TokenSequence


@dataclass(frozen=True)
class Score:
    """Teacher-forced scores of one target: per token log-probability and whether it is the argmax.

    The last token is the stop token; ``accuracy`` leaves it out, as the papers do.
    """

    log_probabilities: Tensor  # (n,)
    predicted: Tensor  # (n,) token ids, the argmax at each place
    target: Tensor  # (n,) token ids

    @property
    def correct(self) -> Tensor:
        """Where the target's token is the argmax, (n,) bool."""
        return self.predicted == self.target

    @property
    def accuracy(self) -> float:
        """Share of the target's tokens that the model would have chosen."""
        return self.correct[:-1].float().mean().item()

    @property
    def reproduced(self) -> bool:
        """Whether greedy decoding gives exactly the target and then stops."""
        return bool(self.correct.all())


@dataclass
class LayerStates:
    """What enters one decoder layer for a right-padded batch, enough to run the layers above it."""

    sequences: list[TokenSequence]
    hidden: Tensor  # (B, L, d)
    arguments: list[dict]  # keyword arguments of every layer from this one up, for one row
    final: Tensor  # (B, L, d) after the final norm, with nothing attached
    prompt_state: Tensor  # (B, d) FFN input of the layer at the last prompt token


def target_places(sequences: Sequence[TokenSequence], length: int) -> Tensor:
    """Where the tokens of targets are predicted, True in (B, length) padded rows."""
    first = torch.tensor([[len(s.prompt) - 1] for s in sequences])
    count = torch.tensor([[len(s.target)] for s in sequences])
    place = torch.arange(length)
    return (place >= first) & (place < first + count)


def length_buckets(sequences: Sequence[TokenSequence], batch_size: int) -> list[list[int]]:
    """Indices of sequences in batches of similar length, the shortest first."""
    order = sorted(range(len(sequences)), key=lambda i: len(sequences[i]))
    return [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
