"""Names in prompts: a subject is found in a prompt word for word, however many there are.

    key_of("Gem Land") in runs_of("What is the capital of Gem Land?")     # True

A prompt is known by all runs of its words, each as a number; so is a name, which is one run. So
finding names costs the length of the prompt, whatever their number. Upper and lower case,
punctuation and the width of blanks make no difference; in scripts without blanks every character
is a word.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..joining import is_unspaced

NOBODY = 0  # the key of no name
LONGEST = 12  # words of a name
WORD = re.compile(r"\w+")


def words_of(text: str) -> list[str]:
    """The words of a text, as they are compared."""
    plain = unicodedata.normalize("NFKC", text).casefold()
    return [
        part for word in WORD.findall(plain) for part in (word if is_unspaced(word[0]) else [word])
    ]


def key_of(name: str) -> int:
    """The number of a name; :data:`NOBODY` if it has no words, or too many."""
    words = words_of(name)
    return _key(words) if 0 < len(words) <= LONGEST else NOBODY


def runs_of(text: str) -> tuple[int, ...]:
    """The numbers of all runs of words of a text."""
    words = words_of(text)
    ends = range(1, LONGEST + 1)
    runs = {_key(words[i : i + n]) for i in range(len(words)) for n in ends if i + n <= len(words)}
    return tuple(sorted(runs))


def _key(words: Sequence[str]) -> int:
    digest = hashlib.blake2b("\x1f".join(words).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True) or 1


@dataclass(frozen=True)
class Asked:
    """What routing by words and meaning looks at.

    ``state`` (N, d) are hidden states of prompts, ``runs`` (N, G) the numbers of their runs of
    words, filled up with :data:`NOBODY`.
    """

    state: Tensor
    runs: Tensor

    @classmethod
    def of(cls, state: Tensor, texts: Sequence[str]) -> Asked:
        """States (N, d) of prompts with these texts."""
        rows = [torch.tensor(runs_of(text), dtype=torch.long) for text in texts]
        runs = nn.utils.rnn.pad_sequence([*rows, torch.zeros(1).long()], batch_first=True)
        return cls(state, runs[: len(rows)].to(state.device))

    @property
    def device(self) -> torch.device:
        return self.state.device

    def __len__(self) -> int:
        return len(self.state)

    def __getitem__(self, rows: Tensor | slice | list[int]) -> Asked:
        return Asked(self.state[rows], self.runs[rows])


Features = Tensor | Asked


def together(parts: Sequence[Features]) -> Features:
    """The rows of several features, one after another."""
    if not isinstance(parts[0], Asked):
        return torch.cat(list(parts))
    longest = max(part.runs.shape[1] for part in parts)
    runs = [nn.functional.pad(part.runs, (0, longest - part.runs.shape[1])) for part in parts]
    return Asked(torch.cat([part.state for part in parts]), torch.cat(runs))


def named_in(names: Tensor, runs: Tensor) -> Tensor:
    """Which of the names (A,) stand in prompts with these runs (N, G), (N, A) bool.

    What has no name stands everywhere.
    """
    known, which = names.unique(return_inverse=True)
    place = torch.searchsorted(known, runs).clamp(max=len(known) - 1)
    hits = (known[place] == runs) & (runs != NOBODY)
    found = torch.zeros(len(runs), len(known), dtype=torch.bool, device=runs.device)
    rows, columns = hits.nonzero(as_tuple=True)
    found[rows, place[rows, columns]] = True
    return found[:, which] | (names == NOBODY)
