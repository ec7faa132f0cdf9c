"""Who answers which rows, one by one or all at once; no part of the method, only its speed.

    for expert, rows, gate in Dispatcher().answers(experts, routes, x):
        change = gate * expert(x[rows])

A top-1 dispatch runs every expert once, on its own rows. While decoding every row is a single
token: calling experts one after the other then costs more than what they compute.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from ..host.batched import batch_modules
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
