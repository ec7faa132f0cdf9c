"""Many modules of one kind run at once, each on a row of its own.

batched = batch_modules([expert_a, expert_b, expert_a], x, room=2**26)
batched(x)          # (3, ..., d): what each gives for its row of x
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import chain

import torch
from torch import Tensor, nn
from torch.func import functional_call


class BatchedModules:
    """Modules that differ in nothing but their weights, which are copied: row i is module i's."""

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        states = [_state(module) for module in modules]
        self._state = {name: torch.stack([state[name] for state in states]) for name in states[0]}
        self._body = copy.deepcopy(modules[0]).to("meta")

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor:
        return torch.vmap(self._one)(self._state, x)

    def _one(self, state: dict[str, Tensor], row: Tensor) -> Tensor:
        return functional_call(self._body, state, (row,))


def batch_modules(modules: Sequence[nn.Module], x: Tensor, room: int) -> BatchedModules | None:
    """The modules as one, for inputs like x (n, ..., d), or None where that cannot be.

    That is where their copies take more than ``room`` bytes, and where they compute something that
    ``torch.vmap`` cannot run for many at once (an autograd function of their own, as BLOOM's GELU).
    """
    size = sum(tensor.nbytes for module in modules for tensor in _state(module).values())
    if size > room:
        return None
    batched = BatchedModules(modules)
    try:
        batched(x)
    except RuntimeError:
        return None
    return batched


def _state(module: nn.Module) -> dict[str, Tensor]:
    """Parameters, whether they are being trained or not, and buffers."""
    named = chain(module.named_parameters(), module.named_buffers())
    return {name: tensor.detach() for name, tensor in named}
