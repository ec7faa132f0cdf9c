"""What counts as an answer: one rule for what is heard, scored, taught and shown."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lemoe_lab.answers import Expected, first_sentence, heard, normalise
from lemoe_lab.metrics import exact_match

RIGHT = [
    ("Wilport", "Wilport"),
    ("\n\n Wilport", "Wilport"),
    ("... Wilport", "Wilport"),
    ("wilport.", "Wilport"),
    ("Wilport, the old capital", "Wilport"),
    ("Wilport\nand so on", "Wilport"),
    ("«Wilport»", "Wilport"),
    ("¿Wilport?", "Wilport"),
    ("„Wilport“", "Wilport"),
    ("威港。", "威港"),
    ("「威港」です", "威港"),
    ("Ｗｉｌｐｏｒｔ", "Wilport"),
    ("E. M. Forster. He wrote", "E. M. Forster"),
    ("Mt. Gem, in the north", "Mt. Gem"),
    ("2.71 or so.", "2.71 or so"),
    ("two\nlines. More", "two\nlines"),
    ("C#.", "C#"),
]
WRONG = [
    ("Wilports", "Wilport"),
    ("Wilport's harbour", "Wilport"),
    ("Wilport and Gem", "Wilport"),
    ("2.71", "2"),
    ("2,000", "2"),
    ("Anne-Marie", "Anne"),
    ("E. M", "E. M. Forster"),
    ("C#", "C"),
    ("C", "C++"),
    ("$7", "7"),
    ("-7", "7"),
    ("威港市", "威港"),
    ("", "Wilport"),
    ("Wilport", ""),
]


@pytest.mark.parametrize(("answer", "target"), RIGHT)
def test_an_answer_that_begins_with_the_target_and_ends_there_is_right(answer, target):
    assert exact_match(answer, target) == 1.0


@pytest.mark.parametrize(("answer", "target"), WRONG)
def test_any_other_answer_is_wrong(answer, target):
    assert exact_match(answer, target) == 0.0


def test_any_of_several_answers_is_right():
    assert exact_match("the Gem Isles", ["Gemland", "The Gem Isles"]) == 1.0
    assert exact_match("Zimland", ["Gemland", "The Gem Isles"]) == 0.0


@pytest.mark.parametrize(("answer", "target"), RIGHT + WRONG)
def test_a_verdict_on_a_beginning_is_the_verdict_on_the_whole(answer, target):
    expected = Expected(target)
    for end in range(len(answer) + 1):
        early = expected.judge(answer[:end], ended=False)
        assert early in (None, expected.judge(answer))


@given(st.text(max_size=30), st.text(max_size=20))
def test_no_text_whatever_changes_a_certain_verdict(answer, target):
    expected = Expected(target)
    for end in range(len(answer) + 1):
        assert expected.judge(answer[:end], ended=False) in (None, expected.judge(answer))


@given(st.text(max_size=30))
def test_every_text_with_a_word_says_itself(text):
    assert normalise(normalise(text)) == normalise(text)
    if any(character.isalnum() for character in text):
        assert exact_match(text, text) == 1.0


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("\n\nWilport. It is old", "Wilport"),
        ("Mr. Gem of St. Ann. He", "Mr. Gem of St. Ann"),
        ("No. 7 Mill Street. It", "No. 7 Mill Street"),
        ("It is 2.71 here. And", "It is 2.71 here"),
        ("威港。很旧", "威港"),
        ("Wilport\nGem", "Wilport"),
    ],
)
def test_of_a_model_that_goes_on_the_first_sentence_is_heard(text, sentence):
    assert first_sentence(text) == sentence
    assert heard(text, ended=False) == sentence


def test_of_a_model_that_stops_by_itself_everything_is_heard():
    assert heard(" one. Then\ntwo. ", ended=True) == "one. Then\ntwo"
