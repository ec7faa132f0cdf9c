"""Which characters tokens stand for, from decoding alone: for tokenizers that keep no offsets.

text, places = decoded_places(tokenizer, ids)
text[slice(*places[3])]                          # what the fourth token stands for
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from transformers import PreTrainedTokenizerBase

BROKEN = "\ufffd"  # what half a character is decoded to


def decoded_places(
    tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]
) -> tuple[str, list[tuple[int, int]]]:
    """The text of tokens and the characters [start, end) of each, from how the text grows."""

    def decoded(count: int) -> str:
        return tokenizer.decode(list(ids[:count]), clean_up_tokenization_spaces=False)

    text, ends = decoded(len(ids)), [0]
    for count in range(1, len(ids) + 1):
        ends.append(max(ends[-1], _common_start(decoded(count), text)))
    # Each of several tokens that make one character covers it.
    return text, [(start, max(end, start + 1)) for start, end in pairwise(ends)]


def _common_start(beginning: str, text: str) -> int:
    """How many characters of ``text`` its decoded beginning already shows."""
    beginning = beginning.rstrip(BROKEN)
    pairs = zip(beginning, text, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(beginning), len(text)))
