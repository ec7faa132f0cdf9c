"""Side memories beside one weight: masks, routing activations, merging, and the hook that routes.

memories = SideMemories(host, layer, "last")
detach = memories.attach()
memories.held = (SideMemory(change, threshold),)
detach()

A side memory is a copy of the FFN's output projection, kept as its difference to the main memory.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from ...host import Host
from ...host.hooks import Hung, PromptGate
from ...host.prompts import Prompt, last_tokens

Activation = Literal["mean", "last"]

MAIN = -1  # the route of inputs that take the host's own weight


def random_mask(count: int, ratio: float, seed: int) -> Tensor:
    """Indices, ascending, of a random share ``ratio`` of ``count`` entries; at least one."""
    chosen = max(1, round(ratio * count))
    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(count, generator=generator)[:chosen].sort().values


def activations(hidden: Tensor, change: Tensor, weights: Tensor) -> Tensor:
    """Routing activations (B,): ``|A(x) (W' - W)|``, averaged over the tokens of each prompt.

    ``hidden`` (B, L, h) is what enters the output projection, ``change`` (d, h) is W' - W,
    ``weights`` (B, L) is what each token counts, as :func:`token_weights` makes it.
    """
    norms = torch.zeros(hidden.shape[:2], device=hidden.device)
    counted = weights > 0  # elsewhere a norm could be zero, where it has no gradient
    norms[counted] = F.linear(hidden[counted].float(), change).norm(dim=-1)
    return (norms * weights).sum(1)


def token_weights(tokens: Tensor, activation: Activation) -> Tensor:
    """What each token counts, (B, L), for prompts whose tokens (B, L) are True."""
    if activation == "mean":
        return tokens / tokens.sum(1, keepdim=True)
    return F.one_hot(last_tokens(tokens), tokens.shape[1]).float()


def margin_loss(
    edited: Tensor, irrelevant: Tensor, alpha: float, beta: float, gamma: float
) -> Tensor:
    """How far the activations of edits (n,) and of irrelevant prompts (m,) violate the margins.

    Every term is the mean over the prompts, or pairs of prompts, that violate it.
    """
    gap = edited[:, None] - irrelevant  # (n, m)
    terms = (irrelevant - alpha, beta - edited, gamma - gap)
    return sum((_mean_of_positive(term) for term in terms), torch.zeros((), device=edited.device))


def _mean_of_positive(violation: Tensor) -> Tensor:
    violated = violation.clamp(min=0)
    return violated.sum() / (violated > 0).sum().clamp(min=1)


def ties_merge(changes: Sequence[Tensor], density: float) -> Tensor:
    """Trim, elect signs, and average those that agree (TIES, arXiv 2306.01708).

    ``changes`` are task vectors of one shape; each keeps its share ``density`` of largest entries.
    """
    trimmed = torch.stack([_largest(change, density) for change in changes])  # (k, ...)
    elected = torch.where(trimmed.sum(0) >= 0, 1.0, -1.0)
    agreeing = trimmed.sign() == elected
    return (trimmed * agreeing).sum(0) / agreeing.sum(0).clamp(min=1)


def _largest(change: Tensor, density: float) -> Tensor:
    kept = torch.zeros_like(change).flatten()
    places = change.abs().flatten().topk(max(1, round(density * change.numel()))).indices
    kept[places] = change.flatten()[places]
    return kept.view_as(change)


@dataclass(frozen=True)
class SideMemory:
    """``change`` (d, h) is W' - W in float32; ``threshold`` the least activation that takes it."""

    change: Tensor
    threshold: float


class SideMemories:
    """The hooks that send every input to the main memory or to one side memory.

    The route is decided once, from the prompt's tokens: of the side memories whose activation
    exceeds their threshold the one with the highest. It is kept for the whole answer.

    Attributes
    ----------
    held
        The side memories that inputs may take.
    routes
        The side memory (B,) of every row of the latest pass, :data:`MAIN` for the host's weight.
    """

    def __init__(
        self,
        host: Host,
        layer: int,
        activation: Activation,
        version: Callable[[], Hashable] | None = None,
    ) -> None:
        self.host = host
        self._version = version or (lambda: len(self.held) or None)
        self.activation = activation
        self.projection = host.ffn_output(layer)
        self.held: tuple[SideMemory, ...] = ()
        self.routes: Tensor | None = None
        self._gate = PromptGate(self._decide, self._answer, self._version)

    def attach(self) -> Hung:
        """Hang on the host; calling the result takes everything off without trace."""
        return self._gate.attach(self.host.model, self.host.decoder, self.projection)

    def _decide(self, hidden: Tensor, prompt: Prompt) -> Tensor | None:
        if not self.held:
            return None
        self.routes = self.route(hidden, prompt.mask.to(hidden.device))
        return self.routes

    def _answer(
        self, hidden: Tensor, output: Tensor, decision: Tensor, _prompt: Prompt | None
    ) -> Tensor:
        """The projection's output (B, L, d); rows on the main memory keep every bit of it."""
        if decision.is_floating_point():  # a change that all rows take
            return _changed(output, hidden, decision)
        for index in decision.unique().tolist():
            if index == MAIN:
                continue
            rows = (decision == index).nonzero()[:, 0]
            side = _changed(output[rows], hidden[rows], self.held[index].change)
            output = output.index_copy(0, rows, side)
        return output

    def route(self, hidden: Tensor, tokens: Tensor) -> Tensor:
        """The side memory (B,) of every row, :data:`MAIN` where no threshold is exceeded."""
        weights = token_weights(tokens, self.activation)
        changes = [memory.change for memory in self.held]
        measured = torch.stack([activations(hidden, c, weights) for c in changes])  # (M, B)
        thresholds = torch.tensor([m.threshold for m in self.held], device=hidden.device)
        eligible = measured.masked_fill(measured <= thresholds[:, None], -torch.inf)
        best, index = eligible.max(0)
        return index.masked_fill(best == -torch.inf, MAIN)

    @contextmanager
    def fixed(self, change: Tensor) -> Iterator[None]:
        """All rows take this change until the block ends, whatever their route."""
        with self._gate.overridden(change):
            yield

    @contextmanager
    def switched_off(self) -> Iterator[None]:
        """All rows take the main memory until the block ends."""
        with self._gate.muted():
            yield


def _changed(output: Tensor, hidden: Tensor, change: Tensor) -> Tensor:
    return (output.float() + F.linear(hidden.float(), change)).to(output.dtype)
