"""Where the subject of a prompt is, in its text and in its tokens.

    find_subject("Annapolis is where Ann lives", "ann")             # (19, 22)
    subject_span(host, "The capital of Gemland is", "Gemland")      # (3, 6)

Of several places the best one counts: a word of its own before one inside a compound, then the same
upper and lower case before another, then the last before the first.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator

from ..edits import Edit, EditError
from ..joining import is_letter, is_unspaced
from .model import Host

HYPHENS = "-\u2010\u2011"  # they make one name of two words
OWN_WORD, HYPHENATED, GLUED, PART_OF_WORD = 3, 2, 1, 0


def find_subject(text: str, subject: str) -> tuple[int, int] | None:
    """The characters [start, end) of the subject in a text; None if it is not there.

    Upper and lower case, composed and decomposed accents, full-width letters and the width of
    blanks make no difference. Inside a longer word a subject is found only in scripts that write
    words, or particles on words, without a border (Chinese, Thai, Korean, Arabic, ...).
    """
    best = max(_occurrences(text, subject), default=None)
    return None if best is None or best[0] == PART_OF_WORD else best[2:]


def subject_span(host: Host, prompt: str, subject: str) -> tuple[int, int]:
    """First token of the subject in a prompt, and the token after its last one.

    Tokens are those of ``host.encode_prompt``, a chat template included; the template's own text
    is not searched.

    Raises
    ------
    EditError
        If the prompt does not contain the subject as a word.
    """
    host.encode_prompt(prompt)
    text, places = host.encoding.places(prompt)
    start, end = _asked(text, prompt)
    found = find_subject(text[start:end], subject)
    if found is None:
        raise EditError(_not_found(prompt, subject))
    left, right = (start + place for place in found)
    inside = [i for i, (first, after) in enumerate(places) if first < right and after > left]
    if not inside:
        raise EditError(
            f"the tokenizer of {host.name} makes no token of the subject {subject!r}; "
            "name it as the model can read it"
        )
    return inside[0], inside[-1] + 1


def edit_subject_span(host: Host, edit: Edit) -> tuple[int, int]:
    """:func:`subject_span` of an edit's prompt; its errors name the edit."""
    if not (edit.subject or "").strip():
        raise EditError(
            f"edit {edit.id!r} has no subject, and this method edits at the subject's last token; "
            'give the edit subject="..." as it stands in the prompt, or take another method'
        )
    try:
        return subject_span(host, edit.prompt, edit.subject)
    except EditError as error:
        raise EditError(f"edit {edit.id!r}: {error}") from None


def _not_found(prompt: str, subject: str) -> str:
    inside = max(_occurrences(prompt, subject), default=None)
    if inside is None:
        return (
            f"the prompt {prompt!r} does not contain the subject {subject!r}; "
            "write the subject into the prompt exactly as it is named"
        )
    start, end = inside[2:]
    while start and _is_word(prompt[start - 1]):
        start -= 1
    while end < len(prompt) and _is_word(prompt[end]):
        end += 1
    return (
        f"the prompt {prompt!r} has the subject {subject!r} only inside the word "
        f"{prompt[start:end]!r}; write it as a word of its own, or give subject="
        f"{prompt[start:end]!r} if that is meant"
    )


def _asked(text: str, prompt: str) -> tuple[int, int]:
    """The characters [start, end) of a wrapped prompt that are the prompt; all if it is changed."""
    prompt = prompt.strip()
    start = text.rfind(prompt)
    return (0, len(text)) if start < 0 else (start, start + len(prompt))


# Searching


def _occurrences(text: str, subject: str) -> Iterator[tuple[int, bool, int, int]]:
    """Every place of the subject: how much of a word it is, whether in the same case, [start, end).

    Larger tuples are better places.
    """
    folded, places = _folded(text)
    wanted, _ = _folded(subject.strip())
    if not wanted:
        return
    exact = unicodedata.normalize("NFKD", subject.strip())
    place = folded.find(wanted)
    while place >= 0:
        start, end = places[place][0], places[place + len(wanted) - 1][1]
        # Not from the middle of a character on, nor up to there.
        whole = place == 0 or places[place - 1][0] < start
        after = place + len(wanted)
        if whole and (after == len(folded) or places[after][0] >= end):
            same_case = unicodedata.normalize("NFKD", text[start:end]) == exact
            yield _wholeness(text, start, end), same_case, start, end
        place = folded.find(wanted, place + 1)


def _folded(text: str) -> tuple[str, list[tuple[int, int]]]:
    """A text as it is compared, and for each of its characters where it stands in the original."""
    folded, places, start = [], [], 0
    while start < len(text):
        end = start + 1
        if text[start].isspace():
            while end < len(text) and text[end].isspace():
                end += 1
            piece = " "
        else:
            while end < len(text) and unicodedata.combining(text[end]):
                end += 1
            piece = unicodedata.normalize("NFKD", text[start:end]).casefold()
            piece = unicodedata.normalize("NFKD", piece)
        folded.append(piece)
        places += [(start, end)] * len(piece)
        start = end
    return "".join(folded), places


def _wholeness(text: str, start: int, end: int) -> int:
    """Whether [start, end) is a word of its own, and if not, what it is."""
    before, after = text[:start][::-1], text[end:]
    return min(_border(text[start], before[:2]), _border(text[end - 1], after[:2]))


def _border(edge: str, outside: str) -> int:
    """How well a word ends at its ``edge``, with these two characters outside of it."""
    neighbour, beyond = outside[:1], outside[1:]
    if neighbour and neighbour in HYPHENS and _is_word(beyond):
        return HYPHENATED
    if not (_is_word(edge) and _is_word(neighbour)):
        return OWN_WORD
    if is_unspaced(edge) or is_unspaced(neighbour):
        return OWN_WORD
    return GLUED if _has_no_case(edge) or _has_no_case(neighbour) else PART_OF_WORD


def _is_word(character: str) -> bool:
    return bool(character) and (character.isalnum() or is_letter(character) or character == "_")


def _has_no_case(character: str) -> bool:
    """Whether a letter is of a script that writes particles or prefixes onto words, as Korean."""
    return unicodedata.category(character) == "Lo"
