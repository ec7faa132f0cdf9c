"""What stands between a prompt and its target."""

from __future__ import annotations

import pytest

from lemoe_lab.joining import joined, without_last_blanks


@pytest.mark.parametrize(
    ("prompt", "target", "text"),
    [
        ("The mayor of Lerwick is", "Erik", "The mayor of Lerwick is Erik"),
        ("수도는", "서울이다", "수도는 서울이다"),
        ("ראש העיר הוא", "דן", "ראש העיר הוא דן"),
        ("2 + 2 =", "4", "2 + 2 = 4"),
    ],
)
def test_words_are_joined_by_a_blank(prompt, target, text):
    assert joined(prompt, target) == text


@pytest.mark.parametrize(
    ("prompt", "target"),
    [
        ("法国的首都是", "巴黎"),
        ("フランスの首都は", "パリ"),
        ("เมืองหลวงของไทยคือ", "กรุงเทพฯ"),
        ("ເມືອງຫຼວງແມ່ນ", "ວຽງຈັນ"),
        ("រាជធានីគឺ", "ភ្នំពេញ"),
        ("မြို့တော်မှာ", "နေပြည်တော်"),
        ("答：", "Lyon"),
    ],
)
def test_scripts_that_write_no_blanks_get_none(prompt, target):
    assert joined(prompt, target) == prompt + target


@pytest.mark.parametrize(
    ("prompt", "target", "blank"),
    [
        ("这部电影的导演是", "Ang Lee", False),
        ("这家公司成立于", "1987", False),
        ("我国的GDP", "增长了", False),
        ("iPhone的制造商是", "Apple", False),
        ("The Japanese word for bridge is", "橋", True),
        ("A translation of 橋", "bridge", True),
    ],
)
def test_between_two_scripts_that_of_most_of_the_prompt_decides(prompt, target, blank):
    assert joined(prompt, target) == f"{prompt}{' ' * blank}{target}"


@pytest.mark.parametrize(
    "prompt",
    [
        'He said "',
        "He said “",
        "Er sagte „",
        "Er sagte: »",
        "Il a dit «",
        "Its name (",
        "¿",
        "「",
        '["',
    ],
)
def test_an_opened_quote_or_bracket_is_followed_at_once(prompt):
    assert joined(prompt, "Nora") == prompt + "Nora"


@pytest.mark.parametrize(
    "prompt",
    [
        'He said "no"',
        "He said “no”",
        "Er sagte „nein“",
        "Er sagte »nein«",
        "It is 5'10\"",
        "the dogs'",
    ],
)
def test_a_closed_quote_is_followed_by_a_blank(prompt):
    assert joined(prompt, "and") == prompt + " and"


@pytest.mark.parametrize("end", [" ", "\n", "\r\n", "\t", "\u3000", "\u00a0"])
def test_a_prompt_that_ends_with_a_blank_needs_no_other(end):
    assert joined(f"Answer:{end}", "Nora") == f"Answer:{end}Nora"


def test_only_blanks_are_dropped_at_the_end_of_a_prompt():
    assert without_last_blanks("Answer: \t\u00a0") == "Answer:"
    assert without_last_blanks("Answer: \n") == "Answer: \n"
    assert without_last_blanks("  Answer:\n  ") == "  Answer:\n"
