"""What counts as an answer: the one rule by which everything here hears and compares answers.

    Expected("Paris").judge("\\nParis, the capital")         # True
    Expected(["Paris", "Paname"]).judge("paname!")          # True: any of them is right
    Expected("St. Louis").judge("St", ended=False)          # None: more of it must be heard

An answer is right if, after leading blanks, line breaks and stray punctuation, it begins with the
expected text and then comes an end: the stop token, a line break, or punctuation that does not
stand inside a word or a number. Stops and line breaks inside the expected text belong to it. Case,
the kind of blanks, quotation marks and dashes, and full or half width do not matter; symbols do.

    expected      right                                    wrong
    Paris         "Paris." "\\n\\nParis" "«Paris»" "¿Paris?"   "Paris's" "Parisian" "Paris and"
    3             "3." "3, not 4"                          "3.14" "3,000" "-3" "$3" "3%"
    J. R. R. Tolkien   "j. r. r. tolkien" "J. R. R. Tolkien. He"  "J" "J. R. R"
    St. Louis     "St. Louis, Missouri"                    "St"
    U.S. of A.    "U.S. of A." "U.S. of A"                 "U.S."
    C             "C."                                     "C#" "C++" "C-3"
    one\\ntwo      "one\\ntwo" "one two"                      "one"
    北京           "北京。" "「北京」" "北京，中国"               "北京市"

Where nothing is expected, :func:`heard` says what of a continuation is the answer: all of it if the
model ended it by its stop token, else its first sentence.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

FULL_STOPS = ".。｡।॥۔։።"
OTHER_STOPS = "!?！？؟…"
LINE_BREAKS = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"
UNSETTLED = 3  # characters at the end of a text that later tokens may still change

# Punctuation that carries meaning: an answer is not the same without it.
MEANINGFUL = frozenset("#%&*@/\\_§¶†‡‰-")
BRACKETS = frozenset("()[]{}")

ABBREVIATIONS = frozenset(
    "ave blvd bros capt cmdr co col corp cpt dept dr ft gen gov hon inc jr lt ltd maj messrs mlle"
    " mme mr mrs ms mt pres prof rd rep rev sen sgt sr st ste univ vs".split()
)
BEFORE_NUMBERS = frozenset(  # "No. 10", "Oct. 3"; elsewhere these are words
    "apr art aug c ca ch dec feb fig figs jan jul jun mar no nos nov nr oct op p pp sec sep sept"
    " vol vols".split()
)
STARTERS = frozenset("he his it its our she the their there these they this those we".split())
ACRONYM = re.compile(r"(?:[^\W\d_]{1,2}\.)+[^\W\d_]{1,2}")  # U.S, Ph.D
# Scripts that put no blanks between words: Thai to Khmer, kana, Han.
UNSPACED = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]")
STOPS = re.compile(f"[{re.escape(FULL_STOPS + OTHER_STOPS + LINE_BREAKS)}]")
CLOSING = re.compile(r"""[.!?…'"’”»)\]}]*""")

_BLANKS = re.compile(r"\s+")
_ALIKE = str.maketrans(
    {chr(wide): chr(wide - 0xFEE0) for wide in range(0xFF01, 0xFF5F)}
    | dict.fromkeys("`´‘’‚‛ʼ′", "'")
    | dict.fromkeys("“”„‟″«»‹›", '"')
    | dict.fromkeys("‐‑‒–−﹣", "-")
    | dict.fromkeys(map(chr, (0xAD, 0x200B, 0x200E, 0x200F, *range(0x202A, 0x202F), 0xFEFF)), "")
    | dict.fromkeys(map(chr, (*range(0x2060, 0x2065), *range(0x2066, 0x2070))), "")
)


class Expected:
    """An answer that is expected, or several of which any is right."""

    def __init__(self, answers: str | Sequence[str]) -> None:
        self.answers = (answers,) if isinstance(answers, str) else tuple(answers)
        self._texts = [_on_one_line(_stripped(fold(answer))) for answer in self.answers]

    def judge(self, text: str, ended: bool = True) -> bool | None:
        """Whether a text is the expected answer.

        With ``ended=False`` the text is the beginning of an answer: None means that more of it
        must be seen, and True or False that nothing which may follow changes the verdict.
        """
        said = fold(text).lstrip()
        first = _lead(said)
        starts = {0, first, first + (said[first : first + 1] in BRACKETS)}
        settled = len(said) if ended else len(said) - UNSETTLED
        verdicts = {
            _begins_with(said[start : max(start, settled)], expected, ended)
            for expected in self._texts
            for start in starts
        }
        return True if True in verdicts else None if None in verdicts else False


def normalise(text: str) -> str:
    """A text as it is compared: case, blanks, kinds of marks, punctuation at its ends do not count.

    Symbols at the ends stay (``C#``, ``-5``, ``.5``), and so does a text of punctuation only.
    """
    return _on_one_line(_stripped(fold(text)))


def heard(text: str, ended: bool) -> str:
    """What of a continuation is the answer, without blanks around it and a full stop after it.

    All of it if the model ``ended`` it by its stop token, otherwise its first sentence.
    """
    return without_final_stop(text) if ended else first_sentence(text)


def first_sentence(text: str) -> str:
    """A text up to its first line break after a word, or to the stop that ends its first sentence.

    The full stop is left out, an exclamation or question mark stays.
    """
    return text[: sentence_end(text)].strip()


def without_final_stop(text: str) -> str:
    """A text without the full stop at its end, unless that belongs to an abbreviation."""
    text = text.strip()
    ends = text[-1:] in FULL_STOPS and text[-2:-1] not in FULL_STOPS
    return text[:-1].rstrip() if ends and not _is_short(_last_word(text[:-1])) else text


def sentence_end(text: str, ended: bool = True) -> int | None:
    """Where the first sentence of a text ends; None if it does not.

    With ``ended=False`` more may follow, and a stop at the very end of the text ends nothing yet.
    """
    word = re.search(r"[^\W_]", text)
    for stop in STOPS.finditer(text, word.start()) if word else ():
        at = stop.start()
        if stop[0] in LINE_BREAKS:
            return at
        if _ends_sentence(text, at, ended):
            return at + (stop[0] in OTHER_STOPS and stop[0] != "…")
    return None


def fold(text: str) -> str:
    """A text without what does not matter: see the module. Line breaks stay, as ``\\n``."""
    if not text.isascii():
        text = unicodedata.normalize("NFD", text.translate(_ALIKE)).casefold()
        text = unicodedata.normalize("NFC", text)
    return _BLANKS.sub(_blank, text.translate(_ALIKE).casefold())


def _blank(run: re.Match[str]) -> str:
    return "\n" if any(character in LINE_BREAKS for character in run[0]) else " "


def _on_one_line(text: str) -> str:
    return text.replace("\n", " ")


def _stripped(text: str) -> str:
    """A folded text without punctuation at its ends; one of punctuation only is left whole."""
    text = text.strip()
    end = len(text)
    while end and _is_stray(text[end - 1]):
        end -= 1
    return text[_lead(text) : end] if _lead(text) < end else text


def _lead(text: str) -> int:
    """How many characters of a folded text stand before its first word."""
    start = 0
    while start < len(text) and (_is_stray(text[start]) or text[start : start + 2] in ("- ", "* ")):
        start += 1
    lone = text[:start].endswith(".") and not text[:start].endswith("..")
    return start - 1 if lone and text[start : start + 1].isalnum() else start  # .5, .NET


def _begins_with(said: str, expected: str, ended: bool) -> bool | None:
    """Whether a folded text begins with the expected one, and then comes an end."""
    if not expected:
        return (True if ended else None) if not said.strip() else False
    if not _on_one_line(said).startswith(expected):
        return None if not ended and expected.startswith(_on_one_line(said)) else False
    return _ends_at(said, len(expected), ended)


def _ends_at(text: str, at: int, ended: bool) -> bool | None:
    """Whether an answer ends at a place of a folded text; None if more of it must be seen."""
    rest = text[at:].lstrip(" ")
    if not rest:
        return True if ended else None
    place = len(text) - len(rest)
    mark, before = rest[0], text[at - 1 : at]
    if mark == "\n":
        return True
    if not _is_punctuation(mark):
        return False
    if unicodedata.category(mark) in ("Ps", "Pi") and place > at:
        return True
    after = rest.lstrip(_punctuation_in(rest))
    if not after:
        return True if ended else None
    if after[0] == "\n":
        return True
    if mark in "-—―":  # an aside, or a range of numbers
        following = after.lstrip(" ")
        if not following and not ended:
            return None
        spaced = after[0] == " " or mark != "-"
        return spaced and not (before.isdigit() and following[:1].isdigit())
    if after[0] != " ":
        return bool(UNSPACED.match(before) or UNSPACED.match(after))
    single = len(rest) - len(after) == 1
    return _is_last_stop(text, place, ended) if mark == "." and single else True


def _ends_sentence(text: str, at: int, ended: bool) -> bool | None:
    """Whether the stop at a place of a text ends a sentence; None if more of it must be seen."""
    if text[at] not in ".!?…":
        return True
    close = CLOSING.match(text, at)
    assert close is not None
    after = text[close.end() : close.end() + 1]
    if not after:
        known = True if ended else None
        return known and not (close[0] == "." and _is_short(_last_word(text[:at])))
    if not after.isspace():
        return bool(UNSPACED.match(text[at - 1]) or UNSPACED.match(after))
    return _is_last_stop(text, at, ended) if close[0] == "." else True


def _is_last_stop(text: str, at: int, ended: bool) -> bool | None:
    """Whether a full stop before a blank ends a sentence, and not an abbreviation or an initial."""
    following = text[at + 1 :].lstrip(" ")
    if following[:1] in LINE_BREAKS and following:
        return True
    word = _last_word(text[:at])
    next_word = following.split(maxsplit=1)[0] if following else ""
    if word in BEFORE_NUMBERS and len(word) > 1:
        return not next_word[:1].isdigit() if next_word or ended else None
    if not _is_short(word):
        return True
    seen = ended or len(following) > len(next_word)
    return next_word.casefold() in STARTERS if seen else None


def _last_word(text: str) -> str:
    words = text.split()
    return words[-1].casefold().lstrip("'\"“„«‘([{¿¡") if words else ""


def _is_short(word: str) -> bool:
    """Whether a full stop after a word makes it an abbreviation, an initial or an acronym."""
    initial = len(word) == 1 and word.upper() != word.lower()
    return initial or word in ABBREVIATIONS or ACRONYM.fullmatch(word) is not None


def _is_punctuation(character: str) -> bool:
    punctuation = unicodedata.category(character)[0] == "P"
    return punctuation and (character not in MEANINGFUL or character == "-")


def _is_stray(character: str) -> bool:
    """Whether a character may stand before or after an answer without being part of it."""
    return character in " \n" or (
        character not in MEANINGFUL
        and character not in BRACKETS
        and unicodedata.category(character)[0] == "P"
    )


def _punctuation_in(text: str) -> str:
    return "".join(set(filter(_is_punctuation, text)))
