"""Where a decoder-only Hugging Face model keeps its parts, found by structure.

    parts = find_parts(model)
    parts = find_parts(model, layers="model.layers", ffn="mlp", final_norm="model.norm")

Names are needed only where structure does not tell: what decoder layers call their FFN, and what
decoders call their final norm. A model that has other names says so in the three arguments.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .feed_forward import FFNView, named_arguments
from .hooks import hung

if TYPE_CHECKING:
    from transformers import PreTrainedModel  # takes a second

FFN_NAMES = ("mlp", "feed_forward", "ffn", "block_sparse_moe")
FINAL_NORM_NAMES = ("norm", "ln_f", "final_layer_norm", "final_layernorm", "norm_f", "final_norm")
ATTENTION_NAMES = ("self_attn", "attn", "attention", "self_attention")
AFTER_FINAL_NORM = "project_out"  # OPT, where embeddings are narrower than the residual stream

# FFNs that no module computes alone, by their first linear module, activation and last linear
# module: OPT's layers hold these themselves, BLOOM's FFN adds the residual stream on its own.
OPEN_FFNS = (("fc1", "activation_fn", "fc2"), ("dense_h_to_4h", "gelu_impl", "dense_4h_to_h"))


@dataclass(frozen=True)
class Parts:
    """The parts of a causal language model.

    ``decoder`` computes the hidden states after the final norm from token ids: embeddings, then
    ``layers``, then ``final_norm``. ``ffns`` has one feed-forward network for each layer, None
    where a layer has none.
    """

    decoder: nn.Module
    layers: nn.ModuleList
    ffns: tuple[nn.Module | None, ...]
    final_norm: nn.Module


def find_parts(
    model: PreTrainedModel,
    layers: str | None = None,
    ffn: str | None = None,
    final_norm: str | None = None,
) -> Parts:
    """Find the parts of a model, or take them from where the arguments say.

    Parameters
    ----------
    layers
        Path of the module list of decoder layers, such as ``"model.layers"``.
    ffn
        Path of the feed-forward network inside a decoder layer, such as ``"mlp"``.
    final_norm
        Path of the norm after the last layer, such as ``"model.norm"``.

    Raises
    ------
    ValueError
        If a part is not where it is expected; the message names the argument that helps.
    """
    path = _layers_path(model, ffn) if layers is None else layers
    found = _submodule(model, path, "layers")
    if not isinstance(found, nn.ModuleList) or not len(found):
        raise ValueError(
            f"layers={path!r} is a {type(found).__name__} in {type(model).__name__}; "
            f"expected a list of decoder layers. {_lists(model)}"
        )
    ffns = tuple(_ffn(layer, ffn) for layer in found)
    if all(found_ffn is None for found_ffn in ffns):
        names = ", ".join(FFN_NAMES) if ffn is None else ffn
        raise ValueError(f"the layers in {path!r} have no FFN named {names}. {_lists(model)}")
    decoder = _decoder(model, path)
    return Parts(decoder, found, ffns, _final_norm(model, path, decoder, final_norm))


def head(model: PreTrainedModel, hidden: Tensor) -> Tensor:
    """Logits (..., V) of hidden states (..., d) after the final norm, as the model computes them.

    Cohere and Granite scale their logits, Gemma 2 caps them.
    """
    logits = model.get_output_embeddings()(hidden)
    config = model.config.get_text_config()
    if (factor := getattr(model, "logit_scale", None)) is not None:
        logits = logits * factor
    if (divisor := getattr(config, "logits_scaling", None)) is not None:
        logits = logits / divisor
    if (cap := getattr(config, "final_logit_softcapping", None)) is not None:
        logits = torch.tanh(logits / cap) * cap
    return logits


def find_attention(layer: nn.Module) -> nn.Module | None:
    """The attention of a decoder layer; None if no child has a name that is known for one."""
    children = dict(layer.named_children())
    return next((children[name] for name in ATTENTION_NAMES if name in children), None)


# Calls of modules


@contextmanager
def captured_inputs(modules: Sequence[nn.Module]) -> Iterator[list[tuple[Tensor, dict]]]:
    """Collect the first argument of every module's call, and the others by name, in order."""
    captured: list[tuple[Tensor, dict]] = []

    def remember(module: nn.Module, args: tuple, kwargs: dict) -> None:
        captured.append(named_arguments(module, args, kwargs))

    with hung(*(m.register_forward_pre_hook(remember, with_kwargs=True) for m in modules)):
        yield captured


def run_layer(
    layer: nn.Module, hidden: Tensor, arguments: dict, checkpointing: bool = False
) -> Tensor:
    """The output (B, L, d) of a decoder layer, from its input and the arguments for one row.

    With ``checkpointing`` what the layer computes is not kept for the backward pass but computed
    again there, unless something hangs on the layer: a hook may do something else the second time.
    """
    arguments = _of_rows(arguments, len(hidden))
    if checkpointing and hidden.requires_grad and not _has_hooks(layer):
        output = checkpoint(
            layer, hidden, use_reentrant=False, preserve_rng_state=False, **arguments
        )
    else:
        output = layer(hidden, **arguments)
    return output[0] if isinstance(output, tuple) else output


def of_one_row(arguments: dict, rows: int) -> dict:
    """Arguments of a layer's call for one row, from those for ``rows`` rows that are all alike."""
    return {name: _first_row(name, value, rows) for name, value in arguments.items()}


def _of_rows(arguments: dict, rows: int) -> dict:
    alibi = arguments.get("alibi")
    if alibi is None or alibi.dim() != 3:
        return arguments
    return arguments | {"alibi": alibi.repeat(rows, 1, 1)}


def _first_row(name: str, value: object, rows: int) -> object:
    if isinstance(value, tuple):
        return tuple(_first_row(name, part, rows) for part in value)
    if not isinstance(value, Tensor) or value.dim() < 2:
        return value
    if name == "alibi" and value.dim() == 3:  # BLOOM: (rows * heads, 1, L)
        return value[: len(value) // rows]
    alike = len(value) == rows and torch.equal(value, value[:1].expand_as(value))
    return value[:1] if alike else value


def _has_hooks(module: nn.Module) -> bool:
    return any(m._forward_hooks or m._forward_pre_hooks for m in module.modules())


# Searching


def _layers_path(model: PreTrainedModel, ffn: str | None) -> str:
    """The longest module list of layers with an FFN, beside the embeddings if there is one."""
    embedding = model.get_input_embeddings()
    candidates = [
        (_contains(model.get_submodule(path.rpartition(".")[0]), embedding), len(module), path)
        for path, module in model.named_modules()
        if isinstance(module, nn.ModuleList)
        and any(_ffn(layer, ffn) is not None for layer in module)
    ]
    if not candidates:
        raise ValueError(
            f"no decoder layers found in {type(model).__name__}: no module list whose members have "
            f"{', '.join(FFN_NAMES) if ffn is None else ffn}. {_lists(model)}"
        )
    return max(candidates, key=lambda candidate: candidate[:2])[2]


def _ffn(layer: nn.Module, name: str | None) -> nn.Module | None:
    places = [layer.get_submodule(name)] if name and _has(layer, name) else []
    if name is None:
        places = [getattr(layer, known) for known in FFN_NAMES if hasattr(layer, known)] or [layer]
    for place in places:
        if place is not layer and _takes_only_hidden_states(place):
            return place
        for names in OPEN_FFNS:
            if all(hasattr(place, part) for part in names):
                return FFNView(layer, *(getattr(place, part) for part in names))
    return None


def _takes_only_hidden_states(module: nn.Module) -> bool:
    parameters = inspect.signature(module.forward).parameters.values()
    return sum(p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD for p in parameters) == 1


def _decoder(model: PreTrainedModel, layers: str) -> nn.Module:
    """The smallest module that holds the embeddings and the layers."""
    embedding = model.get_input_embeddings()
    while layers:
        layers = layers.rpartition(".")[0]
        if layers and _contains(model.get_submodule(layers), embedding):
            return model.get_submodule(layers)
    raise ValueError(
        f"{type(model).__name__} has no module of its own for embeddings and decoder layers, so "
        "there is none that computes hidden states; such a model cannot be edited"
    )


def _final_norm(
    model: PreTrainedModel, layers: str, decoder: nn.Module, path: str | None
) -> nn.Module:
    """What the decoder does after its last layer."""
    holder = model.get_submodule(layers.rpartition(".")[0])
    known = [getattr(holder, name) for name in FINAL_NORM_NAMES if hasattr(holder, name)]
    if path is not None:
        known = [_submodule(model, path, "final_norm")]
    if not known:
        children = ", ".join(name for name, _ in holder.named_children())
        raise ValueError(
            f"no final norm found in {type(holder).__name__}: expected one of "
            f"{', '.join(FINAL_NORM_NAMES)}, it has {children}; say where the norm after the last "
            'layer is: load_host(..., final_norm="<path of the norm>")'
        )
    steps = [known[0], getattr(decoder, AFTER_FINAL_NORM, None)]
    present = [step for step in steps if step is not None]  # some OPT models have no final norm
    return present[0] if len(present) == 1 else nn.Sequential(*present)


def _contains(module: nn.Module, part: nn.Module) -> bool:
    return any(child is part for child in module.modules())


def _has(module: nn.Module, path: str) -> bool:
    return path in dict(module.named_modules())


def _submodule(model: nn.Module, path: str, argument: str) -> nn.Module:
    if not _has(model, path):
        raise ValueError(
            f"{argument}={path!r} is no module of {type(model).__name__}. {_lists(model)}"
        )
    return model.get_submodule(path)


def _lists(model: nn.Module) -> str:
    """What a user can choose from."""
    found = [
        f"{path!r} ({len(module)} {type(module[0]).__name__} with "
        f"{', '.join(name for name, _ in module[0].named_children())})"
        for path, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module)
    ]
    return (
        'Say where they are: load_host(..., layers="<list of decoder layers>", ffn="<feed-forward '
        f'network in a layer>"). Module lists of this model: {"; ".join(found[:8]) or "none"}'
    )
