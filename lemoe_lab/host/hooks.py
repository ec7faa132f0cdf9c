"""What hangs on a host: hooks that come off together, and the gate that decides once a prompt.

    with hung(ffn.register_forward_hook(add)):
        host.generate("The prime minister of Gemland is")

    gate = PromptGate(decide, apply, version)
    with gate.attach(model, decoder, ffn):
        model.generate(**prompts)

A method says what answers a prompt (``decide``) and what that does to a module's output
(``apply``). Where the prompt ends, that its decision holds for the whole answer in whichever way it
is decoded, that it can be overridden or muted: all of this is the gate's.
"""

from __future__ import annotations

import inspect
import itertools
import threading
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from .prompts import UNDECIDED, Generation, Kept, Pass, Prompt, ends, read, seat_of


class Hung(ExitStack):
    """Hooks that hang until the block ends, or until this is called, once or more often."""

    __call__ = remove = ExitStack.close


def hung(*handles: RemovableHandle | Hung) -> Hung:
    """Hooks that are removed together."""
    together = Hung()
    for handle in handles:
        together.callback(handle.remove)
    return together


def on_output(
    module: nn.Module, change: Callable[[Tensor | None, Tensor], Tensor | None]
) -> RemovableHandle:
    """Let ``change`` put another output in the place of a module's, from its input and output.

    Of several inputs and outputs it gets the first, and no input of a call by keywords; None leaves
    the output alone.
    """

    def hook(_module: nn.Module, args: tuple, output: Tensor | tuple) -> Tensor | tuple | None:
        several = isinstance(output, tuple)
        changed = change(args[0] if args else None, output[0] if several else output)
        return (changed, *output[1:]) if several and changed is not None else changed

    return module.register_forward_hook(hook)


class _Now(threading.local):
    """What holds in this thread."""

    given: Any = UNDECIDED  # the decision that all passes take
    muted: bool = False
    current: Pass | None = None
    generation: Generation | None = None
    kept: Kept | None = None  # what was decided in this generation


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
        self._now = _Now()

    def attach(self, model: nn.Module, decoder: nn.Module, module: nn.Module) -> Hung:
        """Hang on ``module`` until the block ends, or the result is called; nothing of it stays."""
        self._decoder, self._seat = decoder, seat_of(decoder)
        hooks = hung(
            decoder.register_forward_pre_hook(self._begins, with_kwargs=True),
            decoder.register_forward_hook(self._ends, always_call=True),
            on_output(module, self._changed),
        )
        hooks.callback(self._seat.hear(model, self))
        return hooks

    # For a while

    @contextmanager
    def overridden(self, decision: Any) -> Iterator[None]:
        """Every pass of this thread takes this decision until the block ends."""
        before, self._now.given = self._now.given, decision
        try:
            yield
        finally:
            self._now.given = before

    @contextmanager
    def muted(self) -> Iterator[None]:
        """This thread changes nothing until the block ends, whatever is decided or overridden."""
        before, self._now.muted = self._now.muted, True
        try:
            yield
        finally:
            self._now.muted = before

    def generating(self, args: Sequence, kwargs: dict) -> AbstractContextManager[None]:
        """What holds during a call of ``model.generate`` with these arguments."""
        return self._during(Generation.of(args, kwargs)) if self._decides else nullcontext()

    @contextmanager
    def _during(self, generation: Generation | None) -> Iterator[None]:
        now = self._now
        before = now.generation, now.kept, now.current
        now.generation, now.kept, now.current = generation, Kept(self.version()), None
        try:
            yield
        finally:
            now.generation, now.kept, now.current = before

    @property
    def _decides(self) -> bool:
        """Whether prompts are decided now."""
        now = self._now
        changes = not now.muted and now.given is UNDECIDED and self.decide is not None
        return changes and self.version() is not None

    # One pass of the decoder

    def _begins(self, _decoder: nn.Module, args: tuple, kwargs: dict) -> None:
        if not self._decides:
            self._now.current = None
            return
        inputs, cache, seen = read(args, kwargs)
        if self._now.generation is not None:
            self._now.current = self._generated_pass(inputs, seen, kwargs)
        elif seen:
            kept = Kept.in_cache(cache, self._name)
            self._now.current = Pass(None, kept.going_on(self.version(), *inputs.shape[:2]))
        else:
            prompt = Prompt.of_pass(inputs, kwargs.get("attention_mask"), self._seat.prompt_lengths)
            self._now.current = Pass(prompt, Kept(self.version(), len(inputs)))

    def _ends(self, _decoder: nn.Module, _args: tuple, output: object) -> None:
        """Keep with the cache what was decided for it."""
        current, self._now.current = self._now.current, None
        if current is not None and current.kept.decision is not UNDECIDED:
            current.kept.stay_with(output, self._name)

    def _generated_pass(self, inputs: Tensor, seen: int, kwargs: dict) -> Pass:
        """A pass inside ``model.generate``: the prompt's places in it, and its decision."""
        generation, kept = self._now.generation, self._now.kept
        assert generation is not None and kept is not None
        rows, length = inputs.shape[:2]
        prompts, mask = generation.rows(rows, kwargs.get("attention_mask"))
        mask = mask.to(inputs.device)
        if kept.decision is UNDECIDED or kept.rows != rows:
            kept = self._now.kept = Kept(kept.version, rows)
            if seen or length < generation.length:  # the prompt comes in parts
                kept.decision = self._decided_alone(prompts, mask)
        if seen >= generation.length:
            return Pass(None, kept)
        here = torch.zeros(rows, length, dtype=torch.bool, device=inputs.device)
        part = mask[:, seen : seen + length]
        here[:, : part.shape[1]] = part
        return Pass(Prompt(here, inputs, seen, mask), kept)

    @torch.no_grad()
    def _decided_alone(self, inputs: Tensor, mask: Tensor) -> Any:
        """The decision for prompts, found by a pass of its own."""
        kept = Kept(self.version(), len(inputs))
        arguments = {"input_ids" if inputs.dim() == 2 else "inputs_embeds": inputs}
        arguments["attention_mask"] = mask.long()
        if "position_ids" in inspect.signature(self._decoder.forward).parameters:
            arguments["position_ids"] = (mask.long().cumsum(1) - 1).clamp(min=0)

        def tell(*_: object) -> None:  # after the gate's own hook, which knows no better
            self._now.current = Pass(Prompt(mask, inputs), kept)

        with self._during(None), hung(self._decoder.register_forward_pre_hook(tell)):
            self._decoder(**arguments, use_cache=False)
        return kept.decision

    # What the module puts out

    def _changed(self, x: Tensor, output: Tensor) -> Tensor:
        """The module's output (B, L, d) with what is decided for its input x (B, L, d)."""
        if self._now.muted or (self._now.given is UNDECIDED and self.version() is None):
            return output
        exact = torch.autocast(x.device.type, enabled=False)
        with exact if torch.is_autocast_enabled(x.device.type) else nullcontext():
            prompt, decision = self._decision(x)
            return output if decision is None else self.apply(x, output, decision, prompt)

    def _decision(self, x: Tensor) -> tuple[Prompt | None, Any]:
        current, given = self._now.current, self._now.given
        if current is None or given is not UNDECIDED:  # rows may run through some layers alone
            prompt = Prompt(ends(x, self._seat.prompt_lengths))
            return prompt, self.decide(x, prompt) if given is UNDECIDED and self.decide else given
        if current.kept.decision is UNDECIDED:
            assert current.prompt is not None and self.decide is not None
            current.kept.decision = self.decide(x, current.prompt)
        return current.prompt, current.kept.decision
