"""The adaptor: a mixture of experts beside one feed-forward network of the host.

    adaptor = BypassMoE(router)
    with adaptor.attached(host, layer=4):
        host.generate("The prime minister of Gemland is")   # edited
    host.generate("The prime minister of Gemland is")       # plain again

    h = FFN(x) + scale * sum_i g(i|e) f_i(x)                 (LEMoE, arXiv 2406.20030, eq. 2)

It adds nothing to the host's module tree. The route of a whole input is decided once, from its
prompt, and kept while it is answered.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain

import torch
from torch import Tensor, nn

from ..host import Host
from ..host.hooks import Detach, Prompt, PromptGate, last_of
from .batched import batch_modules
from .experts import Expert, wide
from .routing import BYPASS, Router, Routes

SEVERAL = 3  # experts in one step of decoding, from which on they run at once
ROOM = 64 * 2**20  # bytes that their copied weights may take


Answer = tuple[Callable[[Tensor], Tensor], Tensor | None, Tensor]  # who, rows, their gates


@dataclass
class Dispatch:
    """Every expert that answers, with its rows (None: all of them) and their gates.

    Kept as long as the routes are: while decoding they hold for every token.
    """

    routes: Routes
    answers: list[Answer]
    at_once: list[Answer] | None = None  # the same for rows of one token


class BypassMoE(nn.Module):
    """Experts and the router that sends every input to one of them, or to none.

    Parameters
    ----------
    router
        Decides routes from features of prompts.
    scale
        lambda, the weight of the experts beside the FFN.
    """

    def __init__(self, router: Router, scale: float = 1.0) -> None:
        super().__init__()
        self.router = router
        self.experts = nn.ModuleList()
        self.scale = scale
        self.routes: Routes | None = None  # of the prompts that were decided last
        self._dispatched: Dispatch | None = None
        self._gate: PromptGate | None = None

    def _decide(self, x: Tensor, prompt: Prompt, embedding: nn.Module) -> Routes | None:
        """Routes (B) of prompts, from the FFN's input x (B, L, d) or from what the decoder read."""
        if not len(self.experts):
            return None
        if self.router.feature == "embedding":
            features = _mean_embedding(prompt, embedding)
        else:
            features = last_of(x, prompt)
        self.routes = self.router.route(self._beside_router(features))
        return self.routes

    def _with_experts(
        self, x: Tensor, output: Tensor, routes: Routes, _prompt: Prompt | None
    ) -> Tensor:
        """The FFN's output (B, L, d) with whatever the routes of its input x (B, L, d) add."""
        if not len(self.experts):
            return output
        if not self.router.per_token:
            return self.combine(x, output, routes)
        routes = self.router.route(self._beside_router(x.flatten(0, 1)))  # B * L rows
        return self.combine(x.flatten(0, 1), output.flatten(0, 1), routes).unflatten(0, x.shape[:2])

    def _beside_router(self, features: Tensor) -> Tensor:
        """Features in float32, where the router is: a device map may put the layer elsewhere."""
        known = next(chain(self.router.parameters(), self.router.buffers()), features)
        return features.float().to(known.device)

    def combine(self, x: Tensor, output: Tensor, routes: Routes) -> Tensor:
        """Add the routed experts to the FFN's output; rows without a route stay bit for bit.

        x and output have shape (N, ..., d), the routes N rows. The sum is made in float32 (or
        better) and rounded to the output's precision once.
        """
        total = wide(output)
        for answer, rows, gate in self._answers(routes, x):
            inputs = x if rows is None else x[rows]
            gate = gate.view(-1, *[1] * (x.dim() - 1))
            change = (self.scale * gate * answer(inputs)).to(total.dtype)
            total = total + change if rows is None else total.index_add(0, rows, change)
        return total.to(output.dtype)

    def _answers(self, routes: Routes, x: Tensor) -> list[Answer]:
        """Who answers which rows; one by one, or all at once where that is faster."""
        if self._dispatched is None or self._dispatched.routes is not routes:
            self._dispatched = self._dispatch(routes, x.device)
        known = self._dispatched
        decoding = x.dim() == 3 and x.shape[1] == 1 and not torch.is_grad_enabled()
        if not decoding or len(known.answers) < SEVERAL:
            return known.answers
        if known.at_once is None:
            known.at_once = _at_once(known.answers, x)
        return known.at_once

    def _dispatch(self, routes: Routes, device: torch.device) -> Dispatch:
        # With new module insertion switched off all batches share the last expert.
        experts = routes.expert.clamp(max=len(self.experts) - 1).to(device)  # (N, k)
        gates = routes.gate.to(device)
        answers: list[Answer] = []
        for index in experts.unique().tolist():
            if index != BYPASS:
                rows, choice = (experts == index).nonzero(as_tuple=True)  # (n,), (n,)
                alone = experts.shape[1] == 1 and len(rows) == len(experts)
                gate = gates[rows, choice]
                answers.append((self.experts[index], None if alone else rows, gate))
        return Dispatch(routes, answers)

    @contextmanager
    def pinned(self, routes: Routes | None) -> Iterator[None]:
        """Use these routes for the rows of every forward pass (None: the plain host)."""
        assert self._gate is not None
        try:
            with self._gate.overridden(routes):
                yield
        finally:
            self._dispatched = None

    @contextmanager
    def attached(self, host: Host, layer: int) -> Iterator[BypassMoE]:
        """Hang the adaptor beside the FFN of ``layer`` until the block ends."""
        detach = self.attach(host, layer)
        try:
            yield self
        finally:
            detach()

    def attach(
        self, host: Host, layer: int, version: Callable[[], Hashable] | None = None
    ) -> Detach:
        """Hang the adaptor on the host; calling the result takes it off without trace.

        ``version`` names the present state of experts and router; None: their number does.
        """
        embedding = host.model.get_input_embeddings()  # no part of this module
        self._gate = PromptGate(
            None if self.router.per_token else partial(self._decide, embedding=embedding),
            self._with_experts,
            version or (lambda: len(self.experts) or None),
        )
        return self._gate.attach(host.model, host.decoder, host.ffn(layer))


def _mean_embedding(prompt: Prompt, embedding: nn.Module) -> Tensor:
    """The mean of the embedding layer's output over the prompt tokens, (B, d) float32."""
    inputs = prompt.inputs
    assert inputs is not None
    embeds = embedding(inputs) if inputs.dim() == 2 else inputs
    weight = prompt.mask[..., None].float().to(embeds.device)
    return (embeds.float() * weight).sum(1) / weight.sum(1)


def _at_once(answers: list[Answer], x: Tensor) -> list[Answer]:
    """All experts as one where that can be done, or one by one."""
    modules = [expert for expert, rows, _ in answers for _ in rows]
    if not all(isinstance(module, Expert) for module in modules):
        return answers
    rows = torch.cat([rows for _, rows, _ in answers])
    batched = batch_modules(modules, x[rows], ROOM)
    if batched is None:
        return answers
    return [(batched, rows, torch.cat([gate for *_, gate in answers]))]
