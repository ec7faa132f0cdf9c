"""How texts become tokens: prompts, the targets after them, and what ends and pads them.

    encoding = Encoding(tokenizer, vocabulary=32_000)
    encoding.prompt("The capital of Gemland is")           # token ids, start token included
    encoding.pair("The capital of Gemland is", "Grolwick") # TokenSequence, stop token included

The tokenizer is the user's and stays as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from textwrap import shorten

from transformers import PreTrainedTokenizerBase

from ..edits import EditError, require_whole
from ..joining import joint, without_last_blanks
from .chat import Chat
from .token_places import decoded_places

ANCHORS = ("\n", ":", "a")  # texts whose last token rarely grows into what follows
MARGIN = 4  # tokens beyond a text's bytes: the stop token, a blank that a tokenizer puts before it


@dataclass(frozen=True)
class TokenSequence:
    """Token ids of a prompt and of the target that is fed in after it (stop token included)."""

    prompt: tuple[int, ...]
    target: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.prompt) + len(self.target)


@dataclass(frozen=True)
class Written:
    """A prompt as the model reads it, and whether a chat template made it."""

    text: str
    templated: bool


class Encoding:
    """A tokenizer, and how one host uses it.

    Parameters
    ----------
    tokenizer
        Fast or slow, with or without start, stop and pad token.
    vocabulary
        How many tokens the model has embeddings for.
    chat
        Wrap every prompt as a user's message: True with the tokenizer's chat template, a text with
        this template. A prompt that begins with a special token is taken to be wrapped already.
    joint
        What stands between every prompt and its target; None decides it for each by
        :func:`~lemoe_lab.joining.joint`, or as the chat template has it.
    stop_token
        What ends an answer, as text or id; None: what the chat template writes after an answer,
        else the tokenizer's EOS token, else ``model_stop``.
    model_stop
        The EOS token of the model's own configuration, if it has one; it counts if the tokenizer
        calls it special.

    Attributes
    ----------
    stop_token, pad_token
        Token ids. Padding is masked and on the right of causal scores: any token would do.

    Raises
    ------
    ValueError
        Without a usable stop token or chat template; the message says what to pass.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        vocabulary: int,
        *,
        chat: bool | str = False,
        joint: str | None = None,
        stop_token: str | int | None = None,
        model_stop: int | None = None,
    ) -> None:
        self.tokenizer, self.vocabulary, self.joint = tokenizer, vocabulary, joint
        self.chat = Chat.of(tokenizer, chat) if chat is not False else None
        self.stop_token = self._find_stop(stop_token, model_stop)
        pad = tokenizer.pad_token_id
        self.pad_token = pad if self._has(pad) else self.stop_token
        self._given_stop = None if stop_token is None else self.stop_token

    @property
    def options(self) -> dict[str, str | int]:
        """What differs from the defaults, as arguments of ``load_host``; plain data."""
        chat = self.chat and self.chat.template
        options = {"chat": chat, "joint": self.joint, "stop_token": self._given_stop}
        return {name: value for name, value in options.items() if value is not None}

    def difference(self, options: dict[str, str | int]) -> str:
        """What these ``options`` of what was made with some host have other than this one's.

        The end of a sentence; empty if they are the same.
        """
        if options == self.options:
            return ""
        return f"was made with {_described(options)}, and this host has {_described(self.options)}"

    @property
    def start_token(self) -> int:
        """What opens a text from nothing: the start token, or what ends the text before."""
        known = (self.tokenizer.bos_token_id, self.tokenizer.eos_token_id)
        return next(filter(self._has, known), self.stop_token)

    # Texts

    def written(self, prompt: str) -> Written:
        """The text that the model reads for a prompt.

        Plain prompts lose the blanks at their end: ``joint`` puts them before the target.

        Raises
        ------
        EditError
            If the prompt is empty, or the chat template fails on it.
        """
        if not prompt.strip():
            raise EditError("the prompt is empty; write the beginning of a sentence")
        if prompt.startswith(self._special_texts):
            return Written(prompt, True)
        if self.chat:
            return Written(self.chat.wrap(prompt), True)
        return Written(prompt if self.joint == "" else without_last_blanks(prompt), False)

    def after(self, opening: str, prompt: str) -> str:
        """A prompt with other text before it; one that is wrapped already takes none."""
        return prompt if prompt.startswith(self._special_texts) else opening + prompt

    def joint_of(self, written: Written, target: str) -> str:
        """What stands between a prompt, as it was written, and its target."""
        if self.joint is not None:
            return self.joint
        if written.templated and self.chat and self.chat.joint is not None:
            return self.chat.joint
        if written.templated and written.text.endswith(self._special_texts):
            return ""
        return joint(written.text, target)

    # Tokens

    def prompt(self, prompt: str) -> tuple[int, ...]:
        """Token ids of a prompt; raises :class:`EditError` if there are none."""
        written = self.written(prompt)
        return (*self._opening(written), *self._prompt_tokens(written))

    def plain(self, text: str) -> tuple[int, ...]:
        """Token ids of a text that nobody asks, as the model reads running text."""
        templated = text.startswith(self._special_texts)
        return (*self._opening(Written(text, templated)), *self._bare(text))

    def pair(self, prompt: str, target: str) -> TokenSequence:
        """A prompt and the target after it, ended by the stop token.

        Raises
        ------
        EditError
            If the tokenizer makes nothing of the target, or the model has no embedding for a token.
        """
        written = self.written(prompt)
        start = self._prompt_tokens(written)
        continuation = self._continuation(
            written.text, start, self.joint_of(written, target) + target
        )
        if target.strip() and not continuation:
            raise EditError(f"the tokenizer makes no token of the target {target[:60]!r}")
        return TokenSequence((*self._opening(written), *start), (*continuation, self.stop_token))

    def most_tokens(self, prompt: str, target: str) -> int:
        """At most so long is a pair, quickly: no tokenizer makes more tokens than bytes."""
        text = f"{self.written(prompt).text}{self.joint or ' '}{target}"
        return len(text.encode()) + len(self._added) + MARGIN

    def places(self, prompt: str) -> tuple[str, list[tuple[int, int]]]:
        """A text of the prompt, and for every token of it the characters [start, end) it covers.

        A tokenizer that keeps no offsets (a slow one) has the text that its tokens stand for.
        """
        written = self.written(prompt)
        opening = [(0, 0)] * len(self._opening(written))
        if getattr(self.tokenizer, "is_fast", False):
            encoded = self.tokenizer(
                written.text, add_special_tokens=False, return_offsets_mapping=True
            )
            return written.text, opening + encoded["offset_mapping"]
        text, places = decoded_places(self.tokenizer, self._bare(written.text))
        return text, opening + places

    def text(self, ids: Sequence[int]) -> str:
        """What generated tokens say, up to the stop token."""
        ids = list(ids)
        if self.stop_token in ids:
            ids = ids[: ids.index(self.stop_token)]
        return self.tokenizer.decode(ids, skip_special_tokens=True)

    def _prompt_tokens(self, written: Written) -> tuple[int, ...]:
        ids = self._bare(written.text)
        if not ids:
            raise EditError(f"the tokenizer makes no token of the prompt {written.text[:60]!r}")
        return ids

    def _continuation(self, text: str, start: tuple[int, ...], rest: str) -> tuple[int, ...]:
        """Token ids of ``rest`` after a prompt whose tokens are ``start``.

        Where the last token of the prompt would grow into the target, the target is read on its
        own, but not as the beginning of a text, before which many tokenizers put a blank.
        """
        for anchor in (text, *ANCHORS):
            before = start if anchor is text else self._bare(anchor)
            together = self._bare(anchor + rest)
            if before and together[: len(before)] == before:
                return together[len(before) :]
        return self._bare(rest)

    def _opening(self, written: Written) -> tuple[int, ...]:
        return () if written.templated else self._added

    @cached_property
    def _added(self) -> tuple[int, ...]:
        """What the tokenizer puts before a text; what it puts after one would end the prompt."""
        pieces = ("a", *self.tokenizer.get_vocab())
        ordinary = (text for text in pieces if text not in self._special_texts)
        probe = next(filter(self._bare, ordinary), "a")
        full, bare = tuple(self.tokenizer(probe)["input_ids"]), self._bare(probe)
        for start in range(len(full) - len(bare) + 1):
            if full[start : start + len(bare)] == bare:
                return full[:start]
        return ()

    def _bare(self, text: str) -> tuple[int, ...]:
        """Token ids of a text without anything put around it."""
        try:
            ids = tuple(self.tokenizer(require_whole(text), add_special_tokens=False)["input_ids"])
        except EditError as error:
            raise EditError(f"the prompt or target {text[:60]!r} {error}") from None
        if ids and max(ids) >= self.vocabulary:
            token = self.tokenizer.convert_ids_to_tokens(max(ids))
            raise EditError(
                f"the prompt or target {text[:60]!r} has the token {token!r} (id {max(ids)}), and "
                f"the model has embeddings for {self.vocabulary} tokens only; use the model's own "
                "tokenizer, or call model.resize_token_embeddings(len(tokenizer)) and train it"
            )
        return ids

    # Special tokens

    @cached_property
    def _special_texts(self) -> tuple[str, ...]:
        added = self.tokenizer.added_tokens_decoder.values()
        special = {str(token) for token in added if token.special}
        return tuple(filter(None, {*special, *self.tokenizer.all_special_tokens}))

    @property
    def _special_ids(self) -> set[int]:
        added = self.tokenizer.added_tokens_decoder.items()
        return {number for number, token in added if token.special}

    def _has(self, token: int | None) -> bool:
        """Whether the model has an embedding for a token."""
        return token is not None and 0 <= token < self.vocabulary

    def _find_stop(self, given: str | int | None, model_stop: int | None) -> int:
        if given is not None:
            token = self._token_id(given) if isinstance(given, str) else given
            if not self._has(token):
                raise ValueError(
                    f"stop_token={given!r} is not one token of this model; pass the text of a "
                    f"single token, or an id below {self.vocabulary}"
                )
            return token
        # A configuration that was never set names any token; one that ends texts is special.
        if model_stop not in self._special_ids:
            model_stop = None
        known = (self._end_of_turn(), self.tokenizer.eos_token_id, model_stop)
        for token in filter(self._has, known):
            return token
        raise ValueError(
            "the tokenizer has no EOS token that this model knows, so nothing could end an answer; "
            'say which token does: load_host(..., stop_token="<|endoftext|>"), a line break '
            '("\\n") or a full stop in a model without any'
        )

    def _end_of_turn(self) -> int | None:
        """The special token that the chat template writes after an answer."""
        if not self.chat:
            return None
        marks = {*self.tokenizer.get_added_vocab(), *self._special_texts}
        written = [mark for mark in marks if self.chat.end.startswith(mark)]
        return self._token_id(max(written, key=len)) if written else None

    def _token_id(self, text: str) -> int | None:
        """The id of a text that is one token, else None."""
        if text in self.tokenizer.get_vocab():
            return self.tokenizer.convert_tokens_to_ids(text)
        ids = self._continuation("a", self._bare("a"), text)
        return ids[0] if len(ids) == 1 else None


def _described(options: dict[str, str | int]) -> str:
    parts = [f"{name}={shorten(repr(value), 80)}" for name, value in options.items()]
    return " and ".join(parts) or "no chat template (chat=False)"
