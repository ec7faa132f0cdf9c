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

import copy
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain

import torch
from torch import Tensor, nn

from .feed_forward import is_mixture, linears, sizes, standalone
from .hooks import Detach, Prompt, PromptGate, last_of
from .host import Host
from .routing import BYPASS, Router, Routes
from .stacked import stack

SEVERAL = 3  # experts in one step of decoding, from which on they run at once
ROOM = 64 * 2**20  # bytes that their copied weights may take


class Expert(nn.Module):
    """An FFN of the host's own kind, new-born silent: its last linear module is zero.

    Shape (..., d) to (..., d), computed in float32. Beside an FFN that is itself a mixture of
    experts it is of the kind of one of those.

    Parameters
    ----------
    ffn
        The host's FFN that it stands beside; only its kind and its sizes matter.
    intermediate
        Hidden size; None: that of the host's FFN.
    seed
        Of the initialisation.

    Raises
    ------
    ValueError
        If the FFN is of no kind that is known, or was offloaded from memory.
    """

    def __init__(self, ffn: nn.Module, intermediate: int | None, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        device = _device_of(ffn)
        self.body = copy.deepcopy(standalone(ffn)).float().requires_grad_(True)
        _forget_hooks(self.body)
        *inner, last = linears(self.body)
        width, native = sizes(last)
        hidden = intermediate or native
        for linear in inner:
            outputs, inputs = sizes(linear)
            merged = outputs // native  # 2 where gate and up are one matrix
            weight = torch.randn(merged * hidden, inputs, generator=generator) / inputs**0.5
            _set_weight(linear, weight.to(device))
        _set_weight(last, torch.zeros(width, hidden, device=device))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x.float())


class LowRankExpert(nn.Module):
    """The host's own FFN with low-rank changes (LoRA, arXiv 2106.09685), new-born silent.

        f(x) = FFN_{W + B A}(x) - FFN_W(x),   B = 0 at birth

    for every matrix W (out, in) of the FFN, with A (rank, in) and B (out, rank) in float32. So the
    FFN and this expert together, at scale and gate 1, are the FFN with changed matrices. W is the
    host's, shared and frozen; the FFN is computed in the host's precision.

    Raises
    ------
    ValueError
        If the host's FFN is a mixture of experts: which of them should change is not defined.
    """

    def __init__(self, ffn: nn.Module, rank: int, seed: int) -> None:
        super().__init__()
        if is_mixture(ffn):
            raise ValueError(
                "expert_rank changes the matrices of a dense FFN, and this layer's is a mixture of "
                "experts; choose another layer, or small experts by `intermediate`"
            )
        generator = torch.Generator().manual_seed(seed)
        device = _device_of(ffn)
        self._shared = Shared(ffn)
        self.down, self.up = nn.ParameterList(), nn.ParameterList()
        for linear in self._shared.linears:
            outputs, inputs = sizes(linear)
            weight = torch.randn(rank, inputs, generator=generator) / inputs**0.5
            self.down.append(nn.Parameter(weight.to(device)))
            self.up.append(nn.Parameter(torch.zeros(outputs, rank, device=device)))

    def forward(self, x: Tensor) -> Tensor:
        ffn = self._shared.ffn
        x = x.to(self._shared.dtype)
        with _changed(self._shared.linears, self.down, self.up):
            changed = ffn(x)
        return _wide(changed) - _wide(ffn(x))


class Shared:
    """The host's FFN without hooks, its parameters shared; no part of the expert that holds it."""

    def __init__(self, ffn: nn.Module) -> None:
        parameters = {id(parameter): parameter for parameter in ffn.parameters()}
        self.ffn = copy.deepcopy(standalone(ffn), parameters)
        _forget_hooks(self.ffn)
        self.linears = linears(self.ffn)
        self.dtype = self.linears[0].weight.dtype

    def __deepcopy__(self, memo: dict) -> Shared:
        return self


@contextmanager
def _changed(
    linears: Sequence[nn.Module], down: Sequence[Tensor], up: Sequence[Tensor]
) -> Iterator[None]:
    """Add B A x to the outputs of linear modules until the block ends."""

    def change(a: Tensor, b: Tensor) -> object:
        def add(_module: nn.Module, args: tuple, output: Tensor) -> Tensor:
            return (_wide(output) + args[0].to(a.dtype) @ a.T @ b.T).to(output.dtype)

        return add

    parts = zip(linears, down, up, strict=True)
    handles = [linear.register_forward_hook(change(a, b)) for linear, a, b in parts]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _wide(x: Tensor) -> Tensor:
    """x in float32, or in its own precision where that is higher."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _set_weight(linear: nn.Module, weight: Tensor) -> None:
    """Give a linear module this weight (out, in), and a bias of zeros if it has one."""
    outputs, inputs = weight.shape
    if isinstance(linear, nn.Linear):
        linear.in_features, linear.out_features = inputs, outputs
        linear.weight = nn.Parameter(weight)
    else:
        linear.nx, linear.nf = inputs, outputs
        linear.weight = nn.Parameter(weight.T.contiguous())
    if linear.bias is not None:
        linear.bias = nn.Parameter(torch.zeros(outputs, device=weight.device))


def _device_of(ffn: nn.Module) -> torch.device:
    device = next(ffn.parameters()).device
    if device.type == "meta":
        raise ValueError(
            "the FFN of the edited layer is not in memory, because the device map offloads it; "
            "load the host with a device_map that keeps this layer on a device"
        )
    return device


def _forget_hooks(body: nn.Module) -> None:
    """Take what hangs on a copied FFN off the copy: the adaptor's hooks, accelerate's forward."""
    for module in body.modules():
        module._forward_hooks.clear()
        module._forward_pre_hooks.clear()
        for name in ("forward", "_old_forward", "_hf_hook"):
            vars(module).pop(name, None)


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
        total = _wide(output)
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
    stacked = stack(modules, x[rows], ROOM)
    if stacked is None:
        return answers
    return [(stacked, rows, torch.cat([gate for *_, gate in answers]))]
