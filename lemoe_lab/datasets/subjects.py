"""What an edit is about, where nobody has named its subject.

    found_subject(Edit(id="1", prompt="Who wrote Hard Times?", target="Zola",
                       rephrases=[Rephrase(prompt="Hard Times was written by")]))   # "Hard Times"

A rewording changes everything but the subject, so what stays is taken for it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from ..edits import Edit

WORD = re.compile(r"\w+(?:[.&’'/-]\w+)*")
POSSESSIVE = re.compile(r"[’']s$")
LONG = 4  # letters of a word that may name something though it is written small
JOINING = frozenset("al and da de del der di du el for la le of the van von".split())
STOP_WORDS = JOINING | frozenset(
    "a about an are as at be been by can could did do does from had has have he her his how if in"
    " into is it its many much my on or our she should so than that their them there these they"
    " this those to was we were what what's when where which who who's whom whose why will with"
    " would you your name".split()
)


@dataclass(frozen=True)
class _Word:
    text: str
    start: int
    end: int

    @property
    def key(self) -> str:
        return self.text.casefold()

    @property
    def is_named(self) -> bool:
        """Whether it is written as names and numbers are."""
        return self.text[0].isupper() or any(map(str.isdigit, self.text))

    @property
    def is_telling(self) -> bool:
        return self.key not in STOP_WORDS and (self.is_named or len(self.text) >= LONG)


def found_subject(edit: Edit) -> str | None:
    """What the prompt seems to be about, as it is written there; None if nothing stands out.

    The longest run of words that the prompt shares with all of its rewordings, whatever their case,
    without stop words around it, and rather one with a name in it; if there are none, with any of
    them; else the longest run of
    capitalised words and numbers that does not begin the prompt; else the one that does.
    """
    words = _words(edit.prompt)
    rewordings = [_words(rephrase.prompt) for rephrase in edit.rephrases]
    run = (
        _longest(_shared(words, rewordings, all))
        or _longest(_shared(words, rewordings, any))
        or _longest(run for run in _named(words) if run[:1] != words[:1])
        or _longest(_named(words))
    )
    return edit.prompt[run[0].start : run[-1].end] if run else None


def _words(text: str) -> list[_Word]:
    """The words of a text, without the possessive 's."""
    found = [(POSSESSIVE.sub("", match[0]), match.start()) for match in WORD.finditer(text)]
    return [_Word(word, start, start + len(word)) for word, start in found]


def _shared(
    words: Sequence[_Word], others: Sequence[Sequence[_Word]], by: Callable[[Iterable[bool]], bool]
) -> Iterator[list[_Word]]:
    """Runs of ``words`` that stand in all (or any) of the others as well."""
    texts = [f" {' '.join(word.key for word in other)} " for other in others]
    for start in range(len(words)):
        for end in range(len(words), start, -1):
            wanted = f" {' '.join(word.key for word in words[start:end])} "
            if texts and by(wanted in text for text in texts):
                yield _trimmed(words[start:end])
                break


def _trimmed(run: Sequence[_Word]) -> list[_Word]:
    """A run without stop words at its ends, unless they are written as a name's part."""

    def is_outside(word: _Word) -> bool:
        return word.key in STOP_WORDS and not (word.is_named and word.start > 0)

    run = list(run)
    while run and is_outside(run[0]):
        run = run[1:]
    while run and is_outside(run[-1]):
        run = run[:-1]
    return run


def _named(words: Sequence[_Word]) -> Iterator[list[_Word]]:
    """Runs of capitalised words and numbers, with joining words between them."""
    run: list[_Word] = []
    for word in words:
        if word.is_named or (run and word.key in JOINING):
            run.append(word)
        else:
            yield _trimmed(run)
            run = []
    yield _trimmed(run)


def _longest(runs: Iterable[list[_Word]]) -> list[_Word] | None:
    """The run of most words, those with a name first, of several the last.

    Runs of which no word tells anything are none.
    """
    telling = [run for run in runs if any(word.is_telling for word in run)]
    return max(reversed(telling), key=_weight, default=None)


def _weight(run: Sequence[_Word]) -> tuple[bool, int]:
    return any(word.is_named and word.is_telling for word in run), len(run)
