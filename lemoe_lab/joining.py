"""What stands between a prompt and the target after it: a blank, or nothing.

    joint("The capital of Gemland is", "Grolwick")     # " "
    joint("首都是", "北京")                             # ""
    joint('She said: "', "yes")                        # ""

Written for any script; a host that wants something else is loaded with ``joint="..."``.
"""

from __future__ import annotations

import re
import unicodedata

# Scripts that put no blanks between words, as their characters' names in Unicode begin.
UNSPACED = (
    "BALINESE", "BOPOMOFO", "CJK", "HALFWIDTH KATAKANA", "HENTAIGANA", "HIRAGANA", "IDEOGRAPHIC",
    "JAVANESE", "KATAKANA", "KHMER", "LAO", "MYANMAR", "NEW TAI LUE", "TAI LE", "TAI THAM", "THAI",
    "TIBETAN", "YI",
)  # fmt: skip
LETTERS_OF_A_CHARACTER = 3  # a Chinese character says about as much as three Latin letters

STRAIGHT_QUOTES = "\"'`"
PARTNERS = {"“": "„", "‘": "‚", "«": "»", "‹": "›"}  # what these close in German and others


def joint(prompt: str, target: str) -> str:
    """A blank, or nothing where the script or the end of the prompt wants none.

    Nothing stands after a blank, a line break, an opening quote or bracket, and full-width
    punctuation, and between words of scripts without blanks. Where a word of such a script meets
    another (or a number), the script decides that most of the prompt is written in.
    """
    if not prompt or prompt[-1].isspace() or target[:1].isspace():
        return ""
    if opens(prompt) or _is_wide_punctuation(prompt[-1]):
        return ""
    before, after = _first_letter(reversed(prompt)), _first_letter(target)
    if before and after and is_unspaced(before) == is_unspaced(after):
        return "" if is_unspaced(before) else " "
    return "" if _mostly_unspaced(prompt) else " "


def joined(prompt: str, target: str) -> str:
    """A prompt and its target as one text."""
    return f"{prompt}{joint(prompt, target)}{target}"


def opens(text: str) -> bool:
    """Whether a text ends with a quote or bracket that belongs to the word that follows."""
    last, before = text[-1:], text[-2:-1]
    if last in ("¿", "¡"):
        return True
    category = unicodedata.category(last) if last else ""
    if category == "Ps":
        return True
    if not (category in ("Pi", "Pf") or last in STRAIGHT_QUOTES) or not last:
        return False
    if not before or before.isspace() or unicodedata.category(before) in ("Ps", "Pi"):
        return True
    if category == "Pi":
        return PARTNERS.get(last, last) not in text[:-1]
    return last in STRAIGHT_QUOTES and not before.isalnum() and text.count(last) % 2 == 1


def is_unspaced(character: str) -> bool:
    """Whether a character belongs to a script that puts no blanks between words."""
    return unicodedata.name(character, "").startswith(UNSPACED)


def is_letter(character: str) -> bool:
    """Whether a character is a letter, or an accent or vowel sign of one."""
    return unicodedata.category(character)[0] in "LM"


def without_last_blanks(text: str) -> str:
    """A text without the blanks at its end; line breaks there stay, they are part of a prompt."""
    return re.sub(r"[^\S\r\n]+\Z", "", text)


def _first_letter(characters: object) -> str | None:
    return next(filter(is_letter, characters), None)


def _mostly_unspaced(text: str) -> bool:
    letters = list(filter(is_letter, text))
    unspaced = sum(map(is_unspaced, letters))
    return unspaced * LETTERS_OF_A_CHARACTER > len(letters) - unspaced


def _is_wide_punctuation(character: str) -> bool:
    wide = unicodedata.east_asian_width(character) in "WF"
    return wide and unicodedata.category(character).startswith("P")
