"""Losses of edits, and what their gradients are made of.

losses = edit_losses(host, states, layer)                     # (B,)
((keys, gradients),) = keys_and_gradients(states, [module], lambda s: edit_losses(host, s, 4).sum())
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...host import Host
from ...host.encoding import TokenSequence
from ...host.states import LayerStates
from ...host.statistics import recorded


def full_precision(tensor: Tensor) -> Tensor:
    """A copy in float32, or in the tensor's own precision where that is higher."""
    return tensor.detach().to(torch.promote_types(tensor.dtype, torch.float32), copy=True)


def target_losses(host: Host, hidden: Tensor, sequences: Sequence[TokenSequence]) -> Tensor:
    """-(1/|y|) log p(y | x) of every target (B,), from hidden states after the final norm."""
    logits, ids = host.target_logits(hidden, sequences), host.target_ids(sequences)
    losses = F.cross_entropy(logits, ids, reduction="none")  # (n,)
    lengths = [len(sequence.target) for sequence in sequences]
    return torch.stack([loss.mean() for loss in losses.split(lengths)])


def edit_losses(host: Host, states: LayerStates, layer: int, rows: Tensor | None = None) -> Tensor:
    """The same for edits, the layers from ``layer`` up being run.

    ``rows`` chooses edits of ``states``, all of them by default.
    """
    sequences = states.sequences
    if rows is not None:
        sequences = [sequences[i] for i in rows.tolist()]
    return target_losses(host, host.finish(states, layer, rows), sequences)


def keys_and_gradients(
    states: LayerStates, modules: Sequence[nn.Module], loss_of: Callable[[LayerStates], Tensor]
) -> list[tuple[Tensor, Tensor]]:
    """What enters linear modules, and how a loss changes with what leaves them.

    ``loss_of`` runs the layers that hold the modules. One pair for every module: its input
    (B, L, in) and the gradient at its output (B, L, out), zero at padding.
    """
    with torch.enable_grad(), recorded(modules) as calls:
        loss = loss_of(replace(states, hidden=states.hidden.detach().requires_grad_(True)))
    keys, outputs = zip(*(calls[module] for module in modules), strict=True)
    gradients = torch.autograd.grad(loss, outputs)
    return [
        (full_precision(key), full_precision(gradient))
        for key, gradient in zip(keys, gradients, strict=True)
    ]
