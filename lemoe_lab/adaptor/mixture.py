"""The adaptor: a mixture of experts beside one feed-forward network of the host.

    adaptor = BypassMoE(router)
    with adaptor.attach(host, layer=4):
        host.generate("The prime minister of Gemland is")   # edited
    host.generate("The prime minister of Gemland is")       # plain again

    h = FFN(x) + scale * sum_i g(i|e) f_i(x)                 (LEMoE, arXiv 2406.20030, eq. 2)

It adds nothing to the host's module tree. The route of a whole input is decided once, from its
prompt, and kept while it is answered.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from itertools import chain

import torch
from torch import Tensor, nn

from ..host import Host
from ..host.hooks import Hung, PromptGate
from ..host.names import Asked
from ..host.prompts import Prompt, last_of, mean_embedding, texts_of
from .dispatch import Dispatcher
from .experts import wide
from .routing import Router, Routes


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
        self._dispatcher = Dispatcher()

    def decide(
        self,
        x: Tensor,
        prompt: Prompt,
        embedding: nn.Module,
        texts: Callable[[Prompt], list[str]],
    ) -> Routes | None:
        """Routes (B) of prompts, from the FFN's input x (B, L, d) or from what the decoder read."""
        if not len(self.experts):
            return None
        if self.router.feature == "embedding":
            features = mean_embedding(prompt, embedding)
        else:
            features = last_of(x, prompt)
        features = self._beside_router(features)
        if self.router.feature == "state and words":
            features = Asked.of(features, texts(prompt))
        self.routes = self.router.route(features)
        return self.routes

    def combine(self, x: Tensor, output: Tensor, routes: Routes) -> Tensor:
        """Add the routed experts to the FFN's output; rows without a route stay bit for bit.

        x and output have shape (N, ..., d), the routes N rows. The sum is made in float32 (or
        better) and rounded to the output's precision once.
        """
        total = wide(output)
        for expert, rows, gate in self._dispatcher.answers(self.experts, routes, x):
            inputs = x if rows is None else x[rows]  # (n, ..., d)
            gate = gate.view(-1, *[1] * (x.dim() - 1))  # (n, ..., 1)
            change = (self.scale * gate * expert(inputs)).to(total.dtype)
            total = total + change if rows is None else total.index_add(0, rows, change)
        return total.to(output.dtype)

    def _with_experts(
        self, x: Tensor, output: Tensor, routes: Routes, prompt: Prompt | None
    ) -> Tensor:
        """The FFN's output (B, L, d) with whatever the routes of its input x (B, L, d) add."""
        if not len(self.experts):
            return output
        if self.router.recalls and prompt is not None:
            return self._from_last(x, output, routes, prompt.last.to(x.device))
        if not self.router.per_token:
            return self.combine(x, output, routes)
        routes = self.router.route(self._beside_router(x.flatten(0, 1)))  # B * L rows
        return self.combine(x.flatten(0, 1), output.flatten(0, 1), routes).unflatten(0, x.shape[:2])

    def _from_last(self, x: Tensor, output: Tensor, routes: Routes, last: Tensor) -> Tensor:
        """The same from the prompts' last tokens (B,) on, where anchors give their own input."""
        place, last = torch.arange(x.shape[1], device=x.device)[:, None], last[:, None, None]
        recalled = self.router.memory.inputs[routes.anchor].to(x)[:, None]  # (B, 1, d)
        changed = self.combine(torch.where(place == last, recalled, x), output, routes)
        return torch.where(place < last, output, changed)

    def _beside_router(self, features: Tensor) -> Tensor:
        """Features in float32, where the router is: a device map may put the layer elsewhere."""
        known = next(chain(self.router.parameters(), self.router.buffers()), features)
        return features.float().to(known.device)

    # On a host

    def attach(self, host: Host, layer: int, version: Callable[[], Hashable] | None = None) -> Hung:
        """Hang the adaptor on the host until the block ends, or the result is called.

        ``version`` names the present state of experts and router; None: their number does.
        """
        embedding = host.model.get_input_embeddings()  # no part of this module
        self._gate = PromptGate(
            None
            if self.router.per_token
            else partial(self.decide, embedding=embedding, texts=partial(texts_of, host)),
            self._with_experts,
            version or (lambda: len(self.experts) or None),
        )
        return self._gate.attach(host.model, host.decoder, host.ffn(layer))

    @contextmanager
    def pinned(self, routes: Routes) -> Iterator[None]:
        """Use these routes for the rows of every forward pass until the block ends."""
        try:
            with self._gate.overridden(routes):
                yield
        finally:
            self._dispatcher.forget()

    def muted(self) -> AbstractContextManager[None]:
        """Leave the host as it is until the block ends."""
        return self._gate.muted()
