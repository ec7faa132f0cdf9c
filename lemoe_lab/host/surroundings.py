"""Whatever surrounds a call in a notebook, the lab computes the same.

    with ordinary(model):
        ...                       # no inference mode, no autocast, no dropout
    class Host:
        @ordinarily
        def score(self, ...): ...

Cells may run under ``torch.no_grad()``, ``torch.inference_mode()`` or ``torch.autocast``, and a
model may have been left in training mode: editors must learn there all the same, and a score must
not depend on it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def ordinary(model: nn.Module, learning: bool = False) -> Iterator[None]:
    """No inference mode, no autocast, and the model in evaluation mode until the block ends.

    With ``learning`` gradients are recorded, also inside ``torch.no_grad()``. The model's mode is
    given back.
    """
    kind = next(model.parameters()).device.type
    kind = "cpu" if kind == "meta" else kind
    training = [module for module in model.modules() if module.training]
    grad = torch.is_grad_enabled() or learning
    with (
        torch.inference_mode(False),
        torch.set_grad_enabled(grad),
        torch.autocast(kind, enabled=False),
    ):
        for module in training:
            module.training = False
        try:
            yield
        finally:
            for module in training:
                module.training = True


def ordinarily(method: Callable) -> Callable:
    """Run a method of something with ``model`` or ``host.model`` as :func:`ordinary` says."""
    return _decorated(method, learning=False)


def learning(method: Callable) -> Callable:
    """The same for a method that records gradients."""
    return _decorated(method, learning=True)


def _decorated(method: Callable, learning: bool) -> Callable:
    @functools.wraps(method)
    def run(self: object, *args: object, **kwargs: object) -> object:
        host = getattr(self, "host", self)
        with ordinary(host.model, learning):
            return method(self, *args, **kwargs)

    return run


def with_normal_tensors(model: nn.Module) -> nn.Module:
    """The model, of whose tensors none was made under inference mode: such cannot be trained."""
    made: dict[int, torch.Tensor] = {}
    with torch.inference_mode(False):
        for module in model.modules():
            for name, parameter in module._parameters.items():
                if parameter is not None and parameter.is_inference():
                    if id(parameter) not in made:
                        made[id(parameter)] = nn.Parameter(parameter.clone(), requires_grad=False)
                    module._parameters[name] = made[id(parameter)]
            for name, buffer in module._buffers.items():
                if buffer is not None and buffer.is_inference():
                    module._buffers[name] = made.setdefault(id(buffer), buffer.clone())
    return model
