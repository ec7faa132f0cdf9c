"""The adaptor: a mixture of experts beside one feed-forward network of the host.

    adaptor = BypassMoE(router)
    with adaptor.attached(host, layer=4):
        host.generate("The prime minister of Gemland is")   # edited
    host.generate("The prime minister of Gemland is")       # plain again

    h = FFN(x) + scale * sum_i g(i|e) f_i(x)                 (LEMoE, arXiv 2406.20030, eq. 2)

It hangs on two hooks and adds nothing to the host's module tree. The route of a whole input is
decided once, from its prompt; while decoding with a cache the route of the prompt is kept.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from .host import Host
from .prompts import last_tokens, prompt_mask
from .routing import Router, Routes


class Expert(nn.Module):
    """An FFN of the host's own kind, new-born silent: its last linear layer is zero.

    Shape (..., d) to (..., d), computed in float32.
    """

    def __init__(self, ffn: nn.Module, intermediate: int | None, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.body = copy.deepcopy(ffn).float().requires_grad_(True)
        for module in self.body.modules():  # a copy of the FFN must not carry the adaptor's hooks
            module._forward_hooks.clear()
            module._forward_pre_hooks.clear()
        linears = [m for m in self.body.modules() if isinstance(m, nn.Linear)]
        width = linears[-1].out_features
        hidden = intermediate or linears[-1].in_features
        for linear in linears[:-1]:
            fan_in = linear.in_features
            weight = torch.randn(hidden, fan_in, generator=generator) / fan_in**0.5
            linear.weight = nn.Parameter(weight.to(linear.weight.device))
            linear.out_features = hidden
            if linear.bias is not None:
                linear.bias = nn.Parameter(torch.zeros(hidden, device=weight.device))
        last = linears[-1]
        last.in_features = hidden
        last.weight = nn.Parameter(torch.zeros(width, hidden, device=last.weight.device))
        if last.bias is not None:
            last.bias = nn.Parameter(torch.zeros(width, device=last.weight.device))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x.float())


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
        self.routes: Routes | None = None  # of the rows of the current forward pass
        self._pinned = False
        self._last_prompt_token: Tensor | None = None

    def _edited(self, x: Tensor, output: Tensor) -> Tensor:
        """The FFN's output (B, L, d) with whatever the routes of its input x (B, L, d) add."""
        if not len(self.experts) or (self._pinned and self.routes is None):
            return output
        if self.router.per_token:
            routes = self.router.route(x.flatten(0, 1).float())  # B * L rows
            flat = self.combine(x.flatten(0, 1), output.flatten(0, 1), routes)
            return flat.unflatten(0, x.shape[:2])
        if self.routes is None:
            rows = torch.arange(x.shape[0], device=x.device)
            self.routes = self.router.route(x[rows, self._last_prompt_token].float())
        return self.combine(x, output, self.routes)

    def combine(self, x: Tensor, output: Tensor, routes: Routes) -> Tensor:
        """Add the routed experts to the FFN's output; rows without a route stay bit for bit.

        x and output have shape (N, ..., d), the routes N rows.
        """
        # With new module insertion switched off all batches share the last expert.
        experts = routes.expert.clamp(max=len(self.experts) - 1)  # (N, k)
        for index in experts.unique().tolist():
            if index < 0:
                continue
            rows, choice = (experts == index).nonzero(as_tuple=True)  # (n,), (n,)
            gate = routes.gate[rows, choice].view(-1, *[1] * (x.dim() - 1))
            change = self.scale * gate * self.experts[index](x[rows])  # (n, ..., d)
            output = output.index_add(0, rows, change.to(output.dtype))
        return output

    @contextmanager
    def pinned(self, routes: Routes | None) -> Iterator[None]:
        """Use these routes for the rows of every forward pass (None: the plain host)."""
        before = self.routes, self._pinned
        self.routes, self._pinned = routes, True
        try:
            yield
        finally:
            self.routes, self._pinned = before

    @contextmanager
    def attached(self, host: Host, layer: int) -> Iterator[BypassMoE]:
        """Hang the adaptor beside the FFN of ``layer`` until the block ends."""
        detach = self.attach(host, layer)
        try:
            yield self
        finally:
            detach()

    def attach(self, host: Host, layer: int) -> Detach:
        """Hang the adaptor on the host; calling the result takes it off without trace."""
        ffn = host.ffn(layer)
        embedding = host.model.get_input_embeddings()

        def see_prompt(_module: nn.Module, args: tuple, kwargs: dict) -> None:
            mask = None if self._pinned else prompt_mask(host, args, kwargs)
            if mask is None:
                return  # decoding: the route chosen at prefill is kept
            self._last_prompt_token = last_tokens(mask)
            self.routes = None
            if self.router.feature == "embedding":
                ids = args[0] if args else kwargs.get("input_ids")
                embeds = kwargs.get("inputs_embeds") if ids is None else embedding(ids)
                weight = mask[..., None].float()
                mean = (embeds.float() * weight).sum(1) / weight.sum(1)  # (B, d)
                self.routes = self.router.route(mean)

        def add_experts(_module: nn.Module, args: tuple, output: Tensor | tuple) -> object:
            x = args[0]
            if isinstance(output, tuple):
                return (self._edited(x, output[0]), *output[1:])
            return self._edited(x, output)

        return Detach(
            host.model.base_model.register_forward_pre_hook(see_prompt, with_kwargs=True),
            ffn.register_forward_hook(add_experts),
        )


class Detach:
    """Removes hooks when called; calling it again does nothing."""

    def __init__(self, *handles: torch.utils.hooks.RemovableHandle) -> None:
        self.handles = handles

    def __call__(self) -> None:
        for handle in self.handles:
            handle.remove()
