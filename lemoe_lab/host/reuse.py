"""What a training step can reuse of an earlier one, because nothing in it changes.

    kept = {}
    for _ in range(steps):
        with reused(host, states, layer, kept):
            hidden = host.finish(states, layer)

Right are the hidden states where a token of a target is predicted; what stands elsewhere is not.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from torch import Tensor, nn

from .architectures import find_attention
from .feed_forward import FFNView
from .hooks import hung, on_output
from .model import Host
from .states import LayerStates, target_places

Kept = dict[nn.Module, Tensor | tuple]  # what modules put out that always read the same


@contextmanager
def reused(host: Host, states: LayerStates, layer: int, kept: Kept) -> Iterator[None]:
    """Leave out of a forward pass from ``layer`` up what experts beside its FFN do not change.

    What enters the layer is the same at every step, and so is what its attention and its FFN make
    of it: ``kept``, empty at first, holds that. Of what leaves the top FFN only the places that
    predict a target count. With gradient checkpointing the top layer is left as it is: one with
    hooks would keep everything.
    """
    top = len(host.layers) - 1
    with ExitStack() as stack:
        for module in (host.ffn(layer), find_attention(host.layers[layer])):
            if module is not None:
                stack.enter_context(computed_once(module, kept))
        if top != layer and not host.gradient_checkpointing:
            places = target_places(states.sequences, states.hidden.shape[1])
            stack.enter_context(only_at(host.ffn(top), places))
        yield


@contextmanager
def computed_once(module: nn.Module, kept: Kept) -> Iterator[None]:
    """Answer every call with the module's first output until the block ends, and in later blocks.

    For a module whose input stays what it is. An FFN that is no module of the host computes each
    time.
    """
    forward, own = module.forward, "forward" in vars(module)

    def once(*args: object, **kwargs: object) -> Tensor | tuple:
        if module not in kept:
            kept[module] = forward(*args, **kwargs)
        output = kept[module]  # a copy is given out, for some layers add to it in place
        if isinstance(output, tuple):
            return (output[0].clone(), *output[1:])
        return output.clone()

    module.forward = once
    try:
        yield
    finally:
        if own:
            module.forward = forward
        else:
            del module.forward


@contextmanager
def only_at(ffn: nn.Module, places: Tensor) -> Iterator[None]:
    """Compute an FFN at some places (B, L) only until the block ends; zeros come out elsewhere.

    One that is no module of the host computes everywhere.
    """
    if isinstance(ffn, FFNView):
        yield
        return

    def pick(_module: nn.Module, args: tuple) -> tuple:
        return (args[0][places.to(args[0].device)][None], *args[1:])

    def put_back(_x: Tensor, some: Tensor) -> Tensor:
        everywhere = some.new_zeros(*places.shape, some.shape[-1])
        everywhere[places.to(some.device)] = some.flatten(0, -2)
        return everywhere

    with hung(ffn.register_forward_pre_hook(pick), on_output(ffn, put_back)):
        yield
