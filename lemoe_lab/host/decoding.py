"""Greedy decoding: what a host says after prompts, whatever its checkpoint says of generation.

    decode(host, rows, limit=256, watches=[Sentence()] * len(rows))     # [Continuation, ...]

Every row has room of its own, and what is asked with it changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList

from ..answers import Expected, sentence_end

if TYPE_CHECKING:
    from transformers import PreTrainedModel  # takes a second

    from .model import Host

LIMIT = 256  # tokens of an answer, if nobody says how many
MOST = 64  # tokens in which nearly every answer ends; longer ones are decoded again
LOOK_AHEAD = 24  # tokens after the first sentence in which the stop token may still come


@dataclass(frozen=True)
class Continuation:
    """What was decoded after a prompt.

    ``ended`` if the model ended it by its stop token, ``cut`` if for want of room.
    """

    text: str
    ended: bool
    cut: bool


class Watch(Protocol):
    """Says of the beginning of an answer whether enough was heard."""

    def __call__(self, text: str, tokens: int) -> bool: ...


class Sentence:
    """Enough is the first sentence, and a look at whether the model means to say more."""

    def __init__(self) -> None:
        self._found: int | None = None

    def __call__(self, text: str, tokens: int) -> bool:
        if self._found is None and sentence_end(text, ended=False) is not None:
            self._found = tokens
        return self._found is not None and tokens >= self._found + LOOK_AHEAD


class Verdict:
    """Enough is what shows whether the answer is an expected one."""

    def __init__(self, expected: Expected) -> None:
        self._expected = expected

    def __call__(self, text: str, tokens: int) -> bool:
        return self._expected.judge(text, ended=False) is not None


def everything(_text: str, _tokens: int) -> bool:
    """Never enough: on to the stop token, or as long as there is room."""
    return False


class EndedRows(StoppingCriteria):
    """Ends rows one by one, at their stop token or when their watch has heard enough.

    ``lengths`` are the tokens of every row that ended, the stop token among them.
    """

    def __init__(self, host: Host, start: int, watches: Sequence[Watch]) -> None:
        self.host, self.start, self.watches = host, start, watches
        self.lengths: dict[int, int] = {}

    def __call__(self, input_ids: Tensor, scores: Tensor, **_: object) -> Tensor:
        count = input_ids.shape[1] - self.start
        for index, row in enumerate(input_ids[:, self.start :].tolist()):
            if index in self.lengths:
                continue
            stopped = row[-1] == self.host.stop_token
            if stopped or self.watches[index](self.host.encoding.text(row), count):
                self.lengths[index] = count
        ended = [index in self.lengths for index in range(len(input_ids))]
        return torch.tensor(ended, device=input_ids.device)


def decode(
    host: Host, rows: Sequence[Sequence[int]], limit: int, watches: Sequence[Watch]
) -> list[Continuation]:
    """Greedy continuations of prompts that are token ids, each of at most ``limit`` tokens.

    Rows with less room than that before the context ends are decoded with their equals.
    """
    rooms = [min(limit, host.context - len(row)) for row in rows]
    found: dict[int, Continuation] = {}
    waiting = list(range(len(rows)))
    for most in dict.fromkeys((min(MOST, limit), limit)):
        for lot in _lots(waiting, rooms, most):
            room = min(most, rooms[lot[0]])
            texts = _decode_together(host, [rows[i] for i in lot], room, [watches[i] for i in lot])
            found |= zip(lot, texts, strict=True)
        waiting = [i for i in waiting if found[i].cut and rooms[i] > most]
    return [found[i] for i in range(len(rows))]


def _lots(waiting: Sequence[int], rooms: Sequence[int], most: int) -> list[list[int]]:
    """Rows that are decoded together: those with room enough, then those with equally little."""
    lots: dict[int, list[int]] = {}
    for index in waiting:
        lots.setdefault(min(most, rooms[index]), []).append(index)
    return list(lots.values())


def _decode_together(
    host: Host, rows: Sequence[Sequence[int]], room: int, watches: Sequence[Watch]
) -> list[Continuation]:
    length, pad = max(map(len, rows)), host.pad_token
    tokens = [[pad] * (length - len(row)) + list(row) for row in rows]
    mask = [[0] * (length - len(row)) + [1] * len(row) for row in rows]
    ends = EndedRows(host, length, watches)
    with greedy(host.model):
        output = host.model.generate(
            input_ids=torch.tensor(tokens, device=host.device),
            attention_mask=torch.tensor(mask, device=host.device),
            generation_config=GenerationConfig(
                max_new_tokens=room,
                do_sample=False,
                use_cache=True,
                pad_token_id=pad,
                eos_token_id=host.stop_token,
            ),
            stopping_criteria=StoppingCriteriaList([ends]),
        )
    answers = []
    for index, row in enumerate(output[:, length:].tolist()):
        said = row[: ends.lengths.get(index, len(row))]
        text, ended = host.encoding.text(said), host.stop_token in said
        answers.append(Continuation(text, ended, cut=index not in ends.lengths))
    return answers


@contextmanager
def greedy(model: PreTrainedModel) -> Iterator[None]:
    """Nothing of the checkpoint's generation settings counts until the block ends.

    Penalties, lengths, sampling, beams, suppressed tokens and kinds of cache would otherwise fill
    what a call leaves open.
    """
    own = model.generation_config
    model.generation_config = GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = own
