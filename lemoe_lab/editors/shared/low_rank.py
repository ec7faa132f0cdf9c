"""Experts that are the host's own FFN with low-rank changes: for hosts whose FFNs are large."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ...adaptor.experts import device_of, forget_hooks, wide
from ...host.feed_forward import is_mixture, linears, sizes, standalone
from ...host.hooks import hung


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
        device = device_of(ffn)
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
        return wide(changed) - wide(ffn(x))


class Shared:
    """The host's FFN without hooks, its parameters shared; no part of the expert that holds it."""

    def __init__(self, ffn: nn.Module) -> None:
        parameters = {id(parameter): parameter for parameter in ffn.parameters()}
        self.ffn = copy.deepcopy(standalone(ffn), parameters)
        forget_hooks(self.ffn)
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
            return (wide(output) + args[0].to(a.dtype) @ a.T @ b.T).to(output.dtype)

        return add

    parts = zip(linears, down, up, strict=True)
    with hung(*(linear.register_forward_hook(change(a, b)) for linear, a, b in parts)):
        yield
