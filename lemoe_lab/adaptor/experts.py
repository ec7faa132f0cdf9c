"""Experts: what an adaptor adds beside an FFN. They are silent at birth."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..host.feed_forward import is_mixture, linears, sizes, standalone
from ..host.hooks import hung


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
        return wide(changed) - wide(ffn(x))


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
            return (wide(output) + args[0].to(a.dtype) @ a.T @ b.T).to(output.dtype)

        return add

    parts = zip(linears, down, up, strict=True)
    with hung(*(linear.register_forward_hook(change(a, b)) for linear, a, b in parts)):
        yield


def wide(x: Tensor) -> Tensor:
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
