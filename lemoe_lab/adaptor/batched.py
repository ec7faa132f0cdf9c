"""Who answers which rows, and many experts at once; no part of the method, only its speed.

    for expert, rows, gate in Dispatcher().answers(experts, routes, x):
        change = gate * expert(x[rows])

A top-1 dispatch runs every expert once, on its own rows. While decoding every row is a single
token: calling experts one after the other then costs more than what they compute.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from itertools import chain

import torch
from torch import Tensor, nn
from torch.func import functional_call

from .experts import Expert
from .routing import BYPASS, Routes

SEVERAL = 3  # experts in one step of decoding, from which on they run at once
ROOM = 64 * 2**20  # bytes that their copied weights may take

Answer = tuple[Callable[[Tensor], Tensor], Tensor | None, Tensor]  # who, rows, their gates


class Dispatcher:
    """Keeps who answers which rows as long as routes hold: while decoding, for every token."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Experts may have changed under the same routes."""
        self._routes: Routes | None = None
        self._answers: list[Answer] = []
        self._at_once: list[Answer] | None = None  # the same for rows of one token

    def answers(self, experts: nn.ModuleList, routes: Routes, x: Tensor) -> list[Answer]:
        """Who answers which rows of x (N, ..., d); one by one, or all at once if that is faster."""
        if self._routes is not routes:
            self.forget()
            self._routes, self._answers = routes, list(dispatched(experts, routes, x.device))
        decoding = x.dim() == 3 and x.shape[1] == 1 and not torch.is_grad_enabled()
        if not decoding or len(self._answers) < SEVERAL:
            return self._answers
        if self._at_once is None:
            self._at_once = all_at_once(self._answers, x)
        return self._at_once


def dispatched(experts: nn.ModuleList, routes: Routes, device: torch.device) -> Iterator[Answer]:
    """Every expert that is routed to, with its rows (n,) and their gates (n,)."""
    chosen, gates = routes.expert.to(device), routes.gate.to(device)  # (N, k)
    for index in chosen.unique().tolist():
        if index != BYPASS:
            rows, choice = (chosen == index).nonzero(as_tuple=True)  # (n,), (n,)
            alone = chosen.shape[1] == 1 and len(rows) == len(chosen)
            yield experts[index], None if alone else rows, gates[rows, choice]


def all_at_once(answers: list[Answer], x: Tensor) -> list[Answer]:
    """All experts as one where that can be done, or one by one."""
    modules = [expert for expert, rows, _ in answers for _ in rows]
    if not all(isinstance(module, Expert) for module in modules):
        return answers
    rows = torch.cat([rows for _, rows, _ in answers])
    batched = batch_modules(modules, x[rows], ROOM)
    if batched is None:
        return answers
    return [(batched, rows, torch.cat([gate for *_, gate in answers]))]


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
