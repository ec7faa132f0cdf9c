"""When greedy decoding ends, beside the stop token: at a sentence's end, or when it has gone wrong.

StopAtSentenceEnd(sentence_ends(tokenizer, vocabulary))
StopWhenWrong(tokenizer, expected=["Valdoria"], start=8)
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase, StoppingCriteria

from .edits import normalise

STOPS = (".", "\n")
UNSETTLED = 3  # characters at the end of a text that later tokens may still change


def sentence_ends(tokenizer: PreTrainedTokenizerBase, vocabulary: int) -> Tensor:
    """Which tokens (``vocabulary``,) contain a full stop or a newline.

    A model may have more tokens than its tokenizer knows; these contain nothing.
    """
    known = range(min(len(tokenizer), vocabulary))
    pieces = [tokenizer.decode([i]) for i in known] + [""] * (vocabulary - len(known))
    return torch.tensor([any(stop in piece for stop in STOPS) for piece in pieces])


def first_sentence(text: str) -> str:
    """A text up to its first full stop or newline, without it."""
    for stop in STOPS:
        text = text.strip().split(stop)[0]
    return text.strip()


def can_become(text: str, expected: str) -> bool:
    """Whether more tokens may turn the beginning of an answer into the expected one.

    Answers are compared after ``normalise``. Never False of a text that could.
    """
    return normalise(expected).startswith(normalise(text)[:-UNSETTLED])


def shows_it_wrong(text: str, expected: str) -> bool:
    """Whether the beginning of an answer shows already that it is not the expected one.

    Never True of a text with a full stop or a newline, at which the answer may have ended.
    """
    return not any(stop in text for stop in STOPS) and not can_become(text, expected)


class StopAtSentenceEnd(StoppingCriteria):
    """Ends a row at the first token that contains a full stop or a newline."""

    def __init__(self, ends: Tensor) -> None:
        self.ends = ends  # (V,) bool

    def __call__(self, input_ids: Tensor, scores: Tensor, **_: object) -> Tensor:
        return self.ends[input_ids[:, -1]]


class StopWhenWrong(StoppingCriteria):
    """Ends a row as soon as its answer, from token ``start`` on, cannot become the expected one."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, expected: Sequence[str], start: int
    ) -> None:
        self.tokenizer, self.expected, self.start = tokenizer, expected, start

    def __call__(self, input_ids: Tensor, scores: Tensor, **_: object) -> Tensor:
        texts = self.tokenizer.batch_decode(input_ids[:, self.start :], skip_special_tokens=True)
        wrong = [
            not can_become(text, answer) for text, answer in zip(texts, self.expected, strict=True)
        ]
        return torch.tensor(wrong, device=input_ids.device)
