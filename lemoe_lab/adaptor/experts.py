"""Experts: what an adaptor adds beside an FFN. They are silent at birth."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from ..host.feed_forward import linears, sizes, standalone


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
        device = device_of(ffn)
        self.body = copy.deepcopy(standalone(ffn)).float().requires_grad_(True)
        forget_hooks(self.body)
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


def device_of(ffn: nn.Module) -> torch.device:
    device = next(ffn.parameters()).device
    if device.type == "meta":
        raise ValueError(
            "the FFN of the edited layer is not in memory, because the device map offloads it; "
            "load the host with a device_map that keeps this layer on a device"
        )
    return device


def forget_hooks(body: nn.Module) -> None:
    """Take what hangs on a copied FFN off the copy: the adaptor's hooks, accelerate's forward."""
    for module in body.modules():
        module._forward_hooks.clear()
        module._forward_pre_hooks.clear()
        for name in ("forward", "_old_forward", "_hf_hook"):
            vars(module).pop(name, None)
