"""What hangs on a host: hooks that come off together, and the gate that decides once a prompt.

    gate = PromptGate(decide, apply, version)
    handles = gate.attach(model, decoder, ffn)
    handles.remove()

A method says what answers a prompt (``decide``) and what that does to a module's output
(``apply``). Where the prompt ends, that its decision holds for the whole answer in whichever way it
is decoded, that it can be overridden or muted: all of this is the gate's.
"""

from __future__ import annotations

import functools
import inspect
import itertools
import threading
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

PACKED = ("cu_seq_lens_q", "block_table", "read_index", "write_index")  # several texts in one row
SEVERAL_TEXTS = (
    "several texts in one row (continuous batching, paged attention) cannot be told apart by an "
    "editor; call model.generate with padded rows instead, or close the session first"
)
UNDECIDED = object()


class Handles:
    """Several hooks, or whatever else has ``remove``, that are removed together."""

    def __init__(self, *handles: RemovableHandle | Handles | Undo) -> None:
        self.handles = handles

    def remove(self) -> None:
        for handle in self.handles:
            handle.remove()


class Detach(Handles):
    """Removes hooks when called; calling it again does nothing."""

    def __call__(self) -> None:
        self.remove()


@dataclass
class Undo:
    """Something to be done once."""

    action: Callable[[], None] | None

    def remove(self) -> None:
        action, self.action = self.action, None
        if action:
            action()


# What all Host objects of one model share


@dataclass(eq=False)
class Seat:
    """Who edits a model now, where the prompts of rows that are being scored end, and its gates."""

    editor: object | None = None
    prompt_lengths: Tensor | None = None  # (B,)
    gates: list[PromptGate] = field(default_factory=list)
    undo: Undo | None = None  # what brings the model's own ways of generating back


_seats: WeakKeyDictionary[nn.Module, Seat] = WeakKeyDictionary()


def seat_of(decoder: nn.Module) -> Seat:
    """The seat of a model with this decoder, whichever objects it is reached through."""
    return _seats.setdefault(decoder, Seat())


# Prompts


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

    @property
    def last(self) -> Tensor:
        """The place in this pass of the last prompt token of every row, (B,).

        Beyond the last place of a pass with only an earlier part of the prompt.
        """
        if self.whole is None:
            return last_tokens(self.mask)
        return last_tokens(self.whole) - self.begins


def last_tokens(mask: Tensor) -> Tensor:
    """The last True place of every row of a mask (B, L), (B,)."""
    return (mask * torch.arange(1, mask.shape[1] + 1, device=mask.device)).argmax(1)


def last_of(x: Tensor, prompt: Prompt) -> Tensor:
    """What enters a module at the last prompt token: of x (B, L, d) the rows (B, d), in float32."""
    return x[torch.arange(len(x), device=x.device), prompt.last.to(x.device)].float()


@dataclass
class Kept:
    """What was decided for the rows of one prompt, and in which state of the editor."""

    version: Hashable = None
    rows: int = 0
    decision: Any = UNDECIDED


@dataclass
class Generation:
    """One call of ``model.generate``, from whose arguments the prompt is known."""

    inputs: Tensor  # (B, P) ids or (B, P, d) embeddings
    mask: Tensor | None  # (B, P), as it was given
    kept: Kept

    @property
    def length(self) -> int:
        return self.inputs.shape[1]

    def expanded(self, tensor: Tensor, rows: int) -> Tensor:
        """A row for every beam and every sequence that is to be returned."""
        return tensor.repeat_interleave(rows // len(tensor), dim=0)


@dataclass
class Pass:
    """One forward pass of the decoder: its prompt (None if it only goes on), what holds in it."""

    prompt: Prompt | None
    kept: Kept


class _Running(threading.local):
    current: Pass | None = None
    generation: Generation | None = None


class PromptGate:
    """Decides once a prompt what answers it, and keeps that for the whole answer.

    Parameters
    ----------
    decide
        From the module's input x (B, L, d) and its :class:`Prompt` to whatever answers these rows;
        None for nothing. None in place of the function: each token is on its own.
    apply
        From x, the module's output (B, L, d), a decision, and the prompt (None while it only goes
        on) to the output as it is to be.
    version
        What the editor's present state is called: None while nothing is applied. An answer that
        was begun in one state cannot go on in another.

    How an answer is decoded does not matter: with ``model.generate`` in any way that transformers
    has but packed rows (continuous batching), or pass by pass with a cache that the model filled.
    A pass without a cache outside ``generate`` is a prompt of its own, with all its tokens. What
    cannot be decided rightly raises RuntimeError. Decisions and changes are computed with autocast
    off.
    """

    _numbers = itertools.count()

    def __init__(
        self,
        decide: Callable[[Tensor, Prompt], Any] | None,
        apply: Callable[[Tensor, Tensor, Any, Prompt | None], Tensor],
        version: Callable[[], Hashable],
    ) -> None:
        self.decide, self.apply, self.version = decide, apply, version
        self._name = f"_lemoe_lab_decision_{next(self._numbers)}"  # on caches, which may be copied
        self._running = _Running()
        self._muted = False
        self._given: Any = UNDECIDED

    # For a while

    @contextmanager
    def overridden(self, decision: Any) -> Iterator[None]:
        """Every pass takes this decision until the block ends; None leaves the output alone."""
        before, self._given = self._given, decision
        try:
            yield
        finally:
            self._given = before

    @contextmanager
    def muted(self) -> Iterator[None]:
        """Nothing is changed until the block ends, whatever is decided or overridden."""
        before, self._muted = self._muted, True
        try:
            yield
        finally:
            self._muted = before

    @property
    def _idle(self) -> bool:
        return self._muted or self.version() is None

    # On a model

    def attach(self, model: nn.Module, decoder: nn.Module, module: nn.Module) -> Detach:
        """Hang on ``module`` until the result is called; nothing of it stays."""
        self._decoder, self._seat = decoder, seat_of(decoder)

        def passes(_module: nn.Module, args: tuple, output: Tensor | tuple) -> object:
            if isinstance(output, tuple):
                return (self._changed(args[0], output[0]), *output[1:])
            return self._changed(args[0], output)

        return Detach(
            decoder.register_forward_pre_hook(self._begins, with_kwargs=True),
            decoder.register_forward_hook(self._ends, always_call=True),
            module.register_forward_hook(passes),
            self._wrapped(model),
        )

    def _wrapped(self, model: nn.Module) -> Undo:
        """Let ``model.generate`` tell this gate where prompts end."""
        seat = self._seat
        seat.gates.append(self)
        if seat.undo is None:
            seat.undo = _telling(model, seat)

        def leave() -> None:
            seat.gates.remove(self)
            if not seat.gates and seat.undo:
                seat.undo.remove()
                seat.undo = None

        return Undo(leave)

    def _told(self, args: tuple, kwargs: dict) -> AbstractContextManager[None]:
        """What holds during a call of ``model.generate`` with these arguments."""
        if self._idle or self._given is not UNDECIDED or self.decide is None:
            return nullcontext()
        return self._generating(_generation(args, kwargs, self.version()))

    @contextmanager
    def _generating(self, generation: Generation | None) -> Iterator[None]:
        running = self._running
        before = running.generation, running.current
        running.generation, running.current = generation, None
        try:
            yield
        finally:
            running.generation, running.current = before

    # One pass

    def _begins(self, _decoder: nn.Module, args: tuple, kwargs: dict) -> None:
        if self._idle or self._given is not UNDECIDED or self.decide is None:
            self._running.current = None
            return
        ids = args[0] if args else kwargs.get("input_ids")
        inputs = kwargs["inputs_embeds"] if ids is None else ids
        if any(kwargs.get(name) is not None for name in PACKED) and kwargs.get("cache") is not None:
            raise RuntimeError(SEVERAL_TEXTS)
        cache = kwargs.get("past_key_values")
        seen = int(cache.get_seq_length()) if cache is not None else 0
        if self._running.generation is not None:
            self._running.current = self._generated_pass(inputs, seen, kwargs)
        else:
            self._running.current = self._single_pass(inputs, seen, cache, kwargs)

    def _ends(self, _decoder: nn.Module, _args: tuple, output: object) -> None:
        """Keep with the cache what was decided for it."""
        current, self._running.current = self._running.current, None
        if current is None or current.kept.decision is UNDECIDED:
            return
        cache = getattr(output, "past_key_values", None)
        if cache is None and isinstance(output, tuple) and len(output) > 1:
            cache = output[1]
        if hasattr(cache, "get_seq_length"):
            setattr(cache, self._name, current.kept)

    def _single_pass(self, inputs: Tensor, seen: int, cache: object, kwargs: dict) -> Pass:
        """A pass that nobody but its arguments tells about."""
        rows, length = inputs.shape[:2]
        if seen:
            return Pass(None, self._kept_with(cache, rows, length))
        lengths = self._seat.prompt_lengths
        mask = kwargs.get("attention_mask")
        if lengths is not None:
            prompt = torch.arange(length, device=inputs.device) < lengths[:, None]
        elif isinstance(mask, Tensor) and mask.shape == (rows, length):
            prompt = mask.bool()
        else:
            prompt = torch.ones(rows, length, dtype=torch.bool, device=inputs.device)
        return Pass(Prompt(prompt, inputs), Kept(self.version(), rows))

    def _kept_with(self, cache: object, rows: int, length: int) -> Kept:
        """What was decided when the cache was filled, if the pass only goes on from there."""
        kept = getattr(cache, self._name, None)
        again = "; give the model the whole prompt in one pass, or call model.generate with it"
        if kept is None:
            raise RuntimeError(
                "a cache that was filled before the present edits, or while they were switched "
                f"off, tells nothing of who answers its prompt{again}"
            )
        if kept.version != self.version():
            raise RuntimeError(
                f"this cache was filled before the last batch was learned or undone{again}"
            )
        if length > 1 or kept.rows != rows:
            raise RuntimeError(
                f"{length} tokens of {rows} rows after a cached text of {kept.rows} rows: this "
                f"could be the rest of a prompt, which as a whole decides who answers it{again}"
            )
        return kept

    def _generated_pass(self, inputs: Tensor, seen: int, kwargs: dict) -> Pass:
        """A pass inside ``model.generate``: the prompt's places in it, and its decision."""
        generation = self._running.generation
        assert generation is not None
        rows, length = inputs.shape[:2]
        if generation.mask is None:
            mask = kwargs.get("attention_mask")
            known = isinstance(mask, Tensor) and mask.shape == (rows, generation.length)
            whole = mask if known else inputs.new_ones(rows, generation.length, dtype=torch.bool)
            generation.mask = whole.bool()[:: rows // len(generation.inputs)]
        mask = generation.expanded(generation.mask.bool(), rows).to(inputs.device)
        kept = generation.kept
        if kept.decision is UNDECIDED or kept.rows != rows:
            kept = generation.kept = Kept(kept.version, rows)
            if seen or length < generation.length:  # the prompt comes in parts
                kept.decision = self._decided_alone(
                    generation.expanded(generation.inputs, rows), mask
                )
        if seen >= generation.length:
            return Pass(None, kept)
        here = torch.zeros(rows, length, dtype=torch.bool, device=inputs.device)
        part = mask[:, seen : seen + length]
        here[:, : part.shape[1]] = part
        return Pass(Prompt(here, inputs, seen, mask), kept)

    @torch.no_grad()
    def _decided_alone(self, inputs: Tensor, mask: Tensor) -> Any:
        """The decision for prompts, found by a pass of its own."""
        name = "input_ids" if inputs.dim() == 2 else "inputs_embeds"
        kept = Kept(self.version(), len(inputs))
        with self._generating(None):
            found = self._decoder.register_forward_pre_hook(
                lambda *_: setattr(self._running, "current", Pass(Prompt(mask, inputs), kept)),
                with_kwargs=True,
            )  # after the gate's own, which knows no better
            try:
                self._decoder(**{name: inputs}, **_placed(self._decoder, mask), use_cache=False)
            finally:
                found.remove()
        return kept.decision

    def _changed(self, x: Tensor, output: Tensor) -> Tensor:
        """The module's output (B, L, d) with what is decided for its input x (B, L, d)."""
        if self._muted or self._given is None:
            return output
        if self._given is UNDECIDED and self.version() is None:
            return output
        exact = torch.autocast(x.device.type, enabled=False)
        with exact if torch.is_autocast_enabled(x.device.type) else nullcontext():
            prompt, decision = self._decision(x)
            return output if decision is None else self.apply(x, output, decision, prompt)

    def _decision(self, x: Tensor) -> tuple[Prompt | None, Any]:
        current = self._running.current
        if self._given is not UNDECIDED or current is None:
            prompt = self._prompt_of(x)
            if self._given is not UNDECIDED:
                return prompt, self._given
            return prompt, self.decide(x, prompt) if self.decide else UNDECIDED
        if current.kept.decision is UNDECIDED:
            assert current.prompt is not None and self.decide is not None
            current.kept.decision = self.decide(x, current.prompt)
        return current.prompt, current.kept.decision

    def _prompt_of(self, x: Tensor) -> Prompt:
        """Where prompts end in rows that run through the layers alone."""
        lengths = self._seat.prompt_lengths
        places = torch.arange(x.shape[1], device=x.device).expand(len(x), -1)
        if lengths is None or len(lengths) != len(x):
            return Prompt(places >= 0)
        return Prompt(places < lengths.to(x.device)[:, None])


def _telling(model: nn.Module, seat: Seat) -> Undo:
    """Let a model's gates know when it generates; the result brings its own methods back."""
    original = getattr(model, "generate", None)
    if original is None:
        return Undo(None)
    names = ("generate", "init_continuous_batching")
    own = {name: vars(model)[name] for name in names if name in vars(model)}

    @functools.wraps(original)
    def generate(*args: Any, **kwargs: Any) -> Any:
        with ExitStack() as stack:
            for gate in seat.gates:
                stack.enter_context(gate._told(args, kwargs))
            return original(*args, **kwargs)

    def refuse(*_args: Any, **_kwargs: Any) -> None:
        raise RuntimeError(SEVERAL_TEXTS)

    def undo() -> None:
        for name in names:
            vars(model).pop(name, None)
        vars(model).update(own)

    vars(model)["generate"] = generate
    if hasattr(model, "init_continuous_batching"):
        vars(model)["init_continuous_batching"] = refuse
    return Undo(undo)


def _placed(decoder: nn.Module, mask: Tensor) -> dict[str, Tensor]:
    """The arguments with which ``model.generate`` reads rows that are padded on the left."""
    arguments = {"attention_mask": mask.long()}
    if "position_ids" in inspect.signature(decoder.forward).parameters:
        arguments["position_ids"] = (mask.long().cumsum(1) - 1).clamp(min=0)
    return arguments


def _generation(args: Sequence, kwargs: dict, version: Hashable) -> Generation | None:
    """What the arguments of ``model.generate`` say of its prompts; None if there are none.

    A cache that holds the beginning of the text already is emptied: it was filled under the
    decision for that beginning, and the whole prompt may be answered by another.
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
                "whole prompt decides who answers it; pass the token ids of the whole text along "
                "with the cache"
            )
        cache.reset()
    matching = isinstance(mask, Tensor) and mask.shape == inputs.shape[:2]
    return Generation(inputs, mask.bool() if matching else None, Kept(version))
