"""Prompts: where they end in whatever way a model is called, and what was decided for them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from .model import Host

SEVERAL_TEXTS = (
    "several texts in one row (continuous batching, paged attention) cannot be told apart by an "
    "editor; call model.generate with padded rows instead, or close the session first"
)
AGAIN = "; give the model the whole prompt in one pass, or call model.generate with it"
PACKED = ("cu_seq_lens_q", "block_table", "read_index", "write_index")  # several texts in one row
WRAPPED = ("generate", "init_continuous_batching")


@dataclass(frozen=True)
class Prompt:
    """The part of a forward pass that is prompt.

    ``mask`` (B, L) tells the tokens of it; targets that are fed in and tokens that were generated
    are none. ``inputs`` are what the decoder read: token ids (B, L) or embeddings (B, L, d); None
    where only the layers from some layer up run.
    """

    mask: Tensor
    inputs: Tensor | None = None
    begins: int = 0  # how many tokens of the prompt came before
    whole: Tensor | None = None  # (B, P), the mask of the whole prompt, if this is a part

    @classmethod
    def of_pass(cls, inputs: Tensor, mask: object, lengths: Tensor | None) -> Prompt:
        """What is prompt in a pass that nobody but its arguments tells about.

        ``lengths`` are those of the prompts that are being scored; else all that ``mask`` (B, L)
        shows is prompt.
        """
        shown = isinstance(mask, Tensor) and mask.shape == inputs.shape[:2]
        if lengths is None and shown:
            return cls(mask.bool(), inputs)
        return cls(ends(inputs, lengths), inputs)

    @property
    def last(self) -> Tensor:
        """The place in this pass of the last prompt token of every row, (B,).

        Beyond the last place of a pass with only an earlier part of the prompt.
        """
        if self.whole is None:
            return last_tokens(self.mask)
        return last_tokens(self.whole) - self.begins


def read(args: Sequence, kwargs: dict) -> tuple[Tensor, object, int]:
    """What a decoder is called with: ids or embeddings, its cache, and how much that has seen."""
    ids = args[0] if args else kwargs.get("input_ids")
    if any(kwargs.get(name) is not None for name in PACKED) and kwargs.get("cache") is not None:
        raise RuntimeError(SEVERAL_TEXTS)
    cache = kwargs.get("past_key_values")
    seen = int(cache.get_seq_length()) if cache is not None else 0
    return kwargs["inputs_embeds"] if ids is None else ids, cache, seen


def ends(rows: Tensor, lengths: Tensor | None) -> Tensor:
    """The mask (B, L) of prompts of these lengths (B,) in rows (B, L, ...); None: all is prompt."""
    places = torch.arange(rows.shape[1], device=rows.device).expand(len(rows), -1)
    if lengths is None or len(lengths) != len(rows):
        return places >= 0
    return places < lengths.to(rows.device)[:, None]


def last_tokens(mask: Tensor) -> Tensor:
    """The last True place of every row of a mask (B, L), (B,)."""
    return (mask * torch.arange(1, mask.shape[1] + 1, device=mask.device)).argmax(1)


def last_of(x: Tensor, prompt: Prompt) -> Tensor:
    """What enters a module at the last prompt token: of x (B, L, d) the rows (B, d), in float32."""
    return x[torch.arange(len(x), device=x.device), prompt.last.to(x.device)].float()


def mean_embedding(prompt: Prompt, embedding: nn.Module) -> Tensor:
    """The mean of the embedding layer's output over the prompt tokens, (B, d) float32."""
    inputs = prompt.inputs
    assert inputs is not None
    embeds = embedding(inputs) if inputs.dim() == 2 else inputs
    weight = prompt.mask[..., None].float().to(embeds.device)
    return (embeds.float() * weight).sum(1) / weight.sum(1)


def texts_of(host: Host, prompt: Prompt) -> list[str]:
    """The texts of prompts, as their tokens have them.

    Raises
    ------
    RuntimeError
        If the decoder was given embeddings that are not those of tokens.
    """
    inputs = prompt.inputs
    assert inputs is not None
    if inputs.dim() == 3:
        inputs = tokens_of(inputs, host.model.get_input_embeddings().weight)
    rows = zip(inputs, prompt.mask.to(inputs.device), strict=True)
    return [host.encoding.text(row[inside].tolist()) for row, inside in rows]


def tokens_of(embeds: Tensor, table: Tensor) -> Tensor:
    """The token ids (B, L) whose embeddings (V, d) these (B, L, d) are."""
    ids = torch.cdist(embeds.float().flatten(0, 1), table.float()).argmin(1)
    if not torch.equal(table[ids].to(embeds), embeds.flatten(0, 1)):
        raise RuntimeError(
            "these embeddings are not those of tokens, so the names in them cannot be read; pass "
            "token ids, or take an editor with words=False"
        )
    return ids.view(embeds.shape[:2])


UNDECIDED = object()


@dataclass
class Kept:
    """What was decided for the rows of one prompt, and in which state of the editor."""

    version: Hashable
    rows: int = 0
    decision: Any = UNDECIDED

    def stay_with(self, output: object, name: str) -> None:
        """Stay with the cache, if there is one, that a decoder put out."""
        cache = getattr(output, "past_key_values", None)
        if cache is None and isinstance(output, tuple) and len(output) > 1:
            cache = output[1]
        if hasattr(cache, "get_seq_length"):
            setattr(cache, name, self)

    @classmethod
    def in_cache(cls, cache: object, name: str) -> Kept:
        """What was decided when a cache was filled."""
        kept = getattr(cache, name, None)
        if kept is None:
            raise RuntimeError(
                "a cache that was filled before the present edits, or while they were switched "
                f"off, tells nothing of who answers its prompt{AGAIN}"
            )
        return kept

    def going_on(self, version: Hashable, rows: int, length: int) -> Kept:
        """The same, if a pass of so many rows and tokens only goes on with the answer."""
        if self.version != version:
            raise RuntimeError(
                f"this cache was filled before the last batch was learned or undone{AGAIN}"
            )
        if length > 1 or self.rows != rows:
            raise RuntimeError(
                f"{length} tokens of {rows} rows after a cached text of {self.rows} rows: this "
                f"could be the rest of a prompt, which as a whole decides who answers it{AGAIN}"
            )
        return self


@dataclass
class Pass:
    """One forward pass of the decoder: its prompt (None if it only goes on), what holds in it."""

    prompt: Prompt | None
    kept: Kept


class Gate(Protocol):
    """Whoever wants to know where prompts end."""

    def generating(self, args: Sequence, kwargs: dict) -> AbstractContextManager[None]:
        """What holds during a call of ``model.generate`` with these arguments."""


@dataclass(eq=False)
class Seat:
    """What all Host objects of one model share.

    Attributes
    ----------
    editor
        Who edits the model now.
    prompt_lengths
        Where the prompts end of the rows (B,) that are being scored.
    gates
        Who hears of the model's generations.
    """

    editor: object | None = None
    prompt_lengths: Tensor | None = None
    gates: list[Gate] = field(default_factory=list)
    unwrap: Callable[[], None] | None = None

    def hear(self, model: nn.Module, gate: Gate) -> Callable[[], None]:
        """Let a gate hear of every generation of the model, until the result is called."""
        self.gates.append(gate)
        if self.unwrap is None:
            self.unwrap = _wrap(model, self.gates)

        def leave() -> None:
            self.gates.remove(gate)
            if not self.gates and self.unwrap:
                self.unwrap()
                self.unwrap = None

        return leave


_seats: WeakKeyDictionary[nn.Module, Seat] = WeakKeyDictionary()  # so that models stay untouched


def seat_of(decoder: nn.Module) -> Seat:
    """The seat of a model with this decoder, whichever objects it is reached through."""
    return _seats.setdefault(decoder, Seat())


def _wrap(model: nn.Module, gates: Sequence[Gate]) -> Callable[[], None]:
    """Tell gates of a model's generations; calling the result brings its own methods back."""
    original = getattr(model, "generate", None)
    if original is None:
        return lambda: None
    own = {name: vars(model)[name] for name in WRAPPED if name in vars(model)}

    @functools.wraps(original)
    def generate(*args: Any, **kwargs: Any) -> Any:
        with ExitStack() as stack:
            for gate in gates:
                stack.enter_context(gate.generating(args, kwargs))
            return original(*args, **kwargs)

    def refuse(*_args: Any, **_kwargs: Any) -> None:
        raise RuntimeError(SEVERAL_TEXTS)

    def unwrap() -> None:
        for name in WRAPPED:
            vars(model).pop(name, None)
        vars(model).update(own)

    vars(model)["generate"] = generate
    if hasattr(model, "init_continuous_batching"):
        vars(model)["init_continuous_batching"] = refuse
    return unwrap


@dataclass
class Generation:
    """One call of ``model.generate``, from whose arguments the prompts are known.

    ``inputs`` are token ids (B, P) or embeddings (B, P, d), ``mask`` (B, P) is None until a forward
    pass shows it, if it was not given.
    """

    inputs: Tensor
    mask: Tensor | None

    @classmethod
    def of(cls, args: Sequence, kwargs: dict) -> Generation | None:
        """What the arguments say; None if there is no prompt in them.

        A cache that holds the beginning of the text already is emptied: it was filled under the
        decision for that beginning, and the whole prompt may be answered by another.

        Raises
        ------
        RuntimeError
            If such a cache comes without the tokens that it holds.
        """
        ids = args[0] if args else kwargs.get("inputs", kwargs.get("input_ids"))
        embeds, mask = kwargs.get("inputs_embeds"), kwargs.get("attention_mask")
        inputs = ids if embeds is None else embeds
        if not isinstance(inputs, Tensor):
            return None
        cache = kwargs.get("past_key_values")
        if cache is not None and cache.get_seq_length() > 0:
            given = int(cache.get_seq_length())
            whole = mask is None or mask.shape[1] == inputs.shape[1]
            if not whole or inputs.shape[1] <= given:
                raise RuntimeError(
                    f"the cache holds {given} tokens that `input_ids` does not begin with, and the "
                    "whole prompt decides who answers it; pass the token ids of the whole text "
                    "along with the cache"
                )
            cache.reset()
        matching = isinstance(mask, Tensor) and mask.shape == inputs.shape[:2]
        return cls(inputs, mask.bool() if matching else None)

    @property
    def length(self) -> int:
        """Tokens of the longest prompt, P."""
        return self.inputs.shape[1]

    def rows(self, count: int, mask: object) -> tuple[Tensor, Tensor]:
        """Inputs and mask with a row for every beam and every sequence that is to be returned.

        ``mask`` is that of the pass that runs; it counts where the call gave none.
        """
        each = count // len(self.inputs)
        if self.mask is None:
            known = isinstance(mask, Tensor) and mask.shape == (count, self.length)
            whole = mask if known else self.inputs.new_ones(count, self.length)
            self.mask = whole.bool()[::each]
        return self.inputs.repeat_interleave(each, 0), self.mask.repeat_interleave(each, 0)
