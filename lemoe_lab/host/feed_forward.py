"""Feed-forward networks (FFNs) as decoder-only models have them: plain, gated, or of experts.

    linears(ffn)                             # its linear modules, the output projection last
    standalone(ffn)                          # a module of its kind: one expert, if it has experts

All map hidden states (..., d) to (..., d).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from .hooks import Hung, hung


class PlainFFN(nn.Module):
    """W_last act(W_first x), from (..., d) to (..., d)."""

    def __init__(
        self, first: nn.Module, activation: Callable[[Tensor], Tensor], last: nn.Module
    ) -> None:
        super().__init__()
        self.first, self.activation, self.last = first, activation, last

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.activation(self.first(x)))


class GatedFFN(nn.Module):
    """W_down (act(W_gate x) * W_up x), from (..., d) to (..., d) (arXiv 2002.05202)."""

    def __init__(self, width: int, hidden: int, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(width, hidden, bias=False)
        self.up_proj = nn.Linear(width, hidden, bias=False)
        self.down_proj = nn.Linear(hidden, width, bias=False)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(self.activation(self.gate_proj(x)) * self.up_proj(x))


class FFNView(PlainFFN):
    """The FFN of a layer in which no module computes it alone.

    Hooks on the view see its input and output (B, L, d) whenever the layer runs; a forward hook may
    replace the output, a pre-hook only looks. The view is no part of the host's module tree.
    """

    def __init__(
        self,
        layer: nn.Module,
        first: nn.Module,
        activation: Callable[[Tensor], Tensor],
        last: nn.Module,
    ) -> None:
        super().__init__(first, activation, last)
        self._layer = (layer,)  # in a tuple: a layer is no part of its FFN

    def register_forward_pre_hook(
        self, hook: Callable, *, with_kwargs: bool = False, **_: object
    ) -> Hung:
        def look(x: Tensor) -> None:
            hook(self, (x,), {}) if with_kwargs else hook(self, (x,))

        return self._follow(look, lambda _x, _output: None)

    def register_forward_hook(
        self, hook: Callable, *, with_kwargs: bool = False, **_: object
    ) -> Hung:
        def replace(x: Tensor, output: Tensor) -> Tensor | None:
            return hook(self, (x,), {}, output) if with_kwargs else hook(self, (x,), output)

        return self._follow(lambda _x: None, replace)

    def _follow(
        self, enter: Callable[[Tensor], None], leave: Callable[[Tensor, Tensor], Tensor | None]
    ) -> Hung:
        """Call ``enter(x)`` and ``leave(x, output)`` at the two ends of the FFN."""
        rows: list[torch.Size] = []  # (B, L) while the layer runs; OPT flattens them for its FFN
        inputs: list[Tensor] = []

        def layer_starts(layer: nn.Module, args: tuple, kwargs: dict) -> None:
            rows[:] = [named_arguments(layer, args, kwargs)[0].shape[:-1]]

        def layer_ends(*_: object) -> None:
            rows.clear()

        def starts(_module: nn.Module, args: tuple) -> None:
            x = args[0]
            inputs[:] = [x.view(*rows[0], -1) if rows else x]
            enter(inputs[0])

        def ends(_module: nn.Module, _args: tuple, output: Tensor) -> Tensor | None:
            x = inputs.pop()
            changed = leave(x, output.view(*x.shape[:-1], -1))
            return None if changed is None else changed.reshape(output.shape)

        (layer,) = self._layer
        return hung(
            layer.register_forward_pre_hook(layer_starts, with_kwargs=True),
            layer.register_forward_hook(layer_ends, always_call=True),
            self.first.register_forward_pre_hook(starts),
            self.last.register_forward_hook(ends),
        )


def is_mixture(ffn: nn.Module) -> bool:
    """Whether an FFN is itself a mixture of experts."""
    return hasattr(ffn, "experts")


def standalone(ffn: nn.Module) -> nn.Module:
    """A module that computes an FFN's kind of function from (..., d) to (..., d).

    The FFN itself where that is a module of the host; one expert where it is a mixture of them.

    Raises
    ------
    ValueError
        If it is a mixture whose experts are stored in a way that is not known.
    """
    if isinstance(ffn, FFNView):
        return PlainFFN(ffn.first, ffn.activation, ffn.last)
    if not is_mixture(ffn):
        return ffn
    experts = ffn.experts
    if isinstance(experts, nn.ModuleList):
        return experts[0]
    down = getattr(experts, "down_proj", None)
    if not isinstance(down, Tensor) or not hasattr(experts, "gate_up_proj"):
        raise ValueError(
            f"the experts in {type(experts).__name__} are of no kind that is known; edit a layer "
            "whose FFN is no mixture of experts"
        )
    # All experts in one tensor: (n, d, h), or (n, h, d) where it is stored transposed.
    width, hidden = down.shape[1:][:: -1 if getattr(experts, "is_transposed", False) else 1]
    return GatedFFN(width, hidden, getattr(experts, "act_fn", nn.SiLU())).to(down.device)


def linears(ffn: nn.Module) -> list[nn.Module]:
    """The linear modules of a dense FFN, the one that writes to the residual stream last.

    Raises ValueError if there are not at least two.
    """
    found = [m for m in ffn.modules() if isinstance(m, (nn.Linear, Conv1D))]
    if len(found) < 2:
        raise ValueError(f"{type(ffn).__name__} is no FFN of linear modules that is known")
    width = sizes(found[0])[1]
    output = [m for m in found if sizes(m)[0] == width][-1]
    return [*(m for m in found if m is not output), output]


def sizes(linear: nn.Module) -> tuple[int, int]:
    """(out, in) of a linear module; GPT-2 stores its weights transposed."""
    rows, columns = linear.weight.shape
    return (rows, columns) if isinstance(linear, nn.Linear) else (columns, rows)


def named_arguments(module: nn.Module, args: tuple, kwargs: dict) -> tuple[Tensor, dict]:
    """The first argument of a call, and all others by name."""
    names = list(inspect.signature(module.forward).parameters)
    arguments = dict(zip(names, args, strict=False)) | kwargs
    return arguments.pop(names[0]), arguments
