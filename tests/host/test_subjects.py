"""Where subjects are found, in texts and in tokens."""

from __future__ import annotations

import unicodedata

import pytest
from tokenizers_of_all_kinds import KINDS, tiny_host

from lemoe_lab import Edit, EditError
from lemoe_lab.host.subjects import edit_subject_span, find_subject, subject_span


def found(text: str, subject: str) -> str | None:
    """The text with the subject that was found in brackets."""
    place = find_subject(text, subject)
    if place is None:
        return None
    start, end = place
    return f"{text[:start]}[{text[start:end]}]{text[end:]}"


@pytest.mark.parametrize(
    ("text", "subject", "expected"),
    [
        ("Linden is where Lind grew up", "Lind", "Linden is where [Lind] grew up"),
        ("Lind grew up in Linden", "Lind", "[Lind] grew up in Linden"),
        ("Gliese 58 and Gliese 581", "Gliese 58", "[Gliese 58] and Gliese 581"),
        ("Lind and Lind-Mayer met", "Lind", "[Lind] and Lind-Mayer met"),
        ("Lind's house", "Lind", "[Lind]'s house"),
        ("(Lind)", "Lind", "([Lind])"),
        ("The U.S. of old", "U.S.", "The [U.S.] of old"),
        ("Who leads Yahoo!?", "Yahoo!", "Who leads [Yahoo!]?"),
    ],
)
def test_a_subject_is_a_word_of_its_own(text, subject, expected):
    assert found(text, subject) == expected


@pytest.mark.parametrize(
    ("text", "subject", "expected"),
    [
        ("Rome, not Rome in Georgia", "Rome", "Rome, not [Rome] in Georgia"),
        ("Mark will mark it", "Mark", "[Mark] will mark it"),
        ("Mark will mark it", "mark", "Mark will [mark] it"),
        ("who was MARK", "Mark", "who was [MARK]"),
        ("Markus, said mark", "Mark", "Markus, said [mark]"),
    ],
)
def test_of_several_the_same_case_counts_then_the_last(text, subject, expected):
    assert found(text, subject) == expected


@pytest.mark.parametrize("subject", ["Lind", "inde", "nden", "58"])
def test_a_part_of_a_word_is_no_subject(subject):
    assert found("Linden 581", subject) is None


@pytest.mark.parametrize(
    ("text", "subject", "expected"),
    [
        ("上海交通大学位于上海市", "上海", "上海交通大学位于[上海]市"),
        ("夏目漱石の作品は", "夏目漱石", "[夏目漱石]の作品は"),
        ("เมืองหลวงของไทยคือ", "ไทย", "เมืองหลวงของ[ไทย]คือ"),
        ("부산의 시장은", "부산", "[부산]의 시장은"),
        ("Busan의 시장은", "Busan", "[Busan]의 시장은"),
        ("ראש העיר בחיפה הוא", "חיפה", "ראש העיר ב[חיפה] הוא"),
        ("我的ThinkPad电脑", "thinkpad", "我的[ThinkPad]电脑"),
        ("부산진구는 부산 안에", "부산", "부산진구는 [부산] 안에"),
    ],
)
def test_scripts_that_write_words_together_have_subjects_too(text, subject, expected):
    assert found(text, subject) == expected


@pytest.mark.parametrize("form", ["NFC", "NFD"])
@pytest.mark.parametrize("of_subject", ["NFC", "NFD"])
def test_accents_may_be_written_in_either_way(form, of_subject):
    text = unicodedata.normalize(form, "À Orléans, Zoë Müller est")
    subject = unicodedata.normalize(of_subject, "zoë müller")
    start, end = find_subject(text, subject)
    assert unicodedata.normalize("NFC", text[start:end]) == "Zoë Müller"
    assert text[end:] == " est"


def test_half_a_character_is_never_found():
    assert found(unicodedata.normalize("NFD", "Zoë"), "Zoe") is None
    assert found("Zoë", "Zoe") is None


@pytest.mark.parametrize(
    ("text", "subject", "expected"),
    [
        ("İİİ in Izmir is", "izmir", "İİİ in [Izmir] is"),
        ("ßßß and the Straße of", "STRASSE", "ßßß and the [Straße] of"),
        ("ŉŉ and San\u00a0 Marino is", "San Marino", "ŉŉ and [San\u00a0 Marino] is"),
        ("ﬁﬁ and ＡＢＣ is", "abc", "ﬁﬁ and [ＡＢＣ] is"),
    ],
)
def test_letters_that_grow_when_compared_shift_nothing(text, subject, expected):
    assert found(text, subject) == expected


@pytest.fixture(params=KINDS)
def any_host(request):
    return tiny_host(KINDS[request.param]())


@pytest.mark.parametrize(
    ("prompt", "subject", "up_to_it"),
    [
        ("The capital of Gemland is", "gemland", "The capital of Gemland"),
        ("Annapolis is where Ann", "Ann", "Annapolis is where Ann"),
        ("Gemland", "Gemland", "Gemland"),
        ("北京大学在北京", "北京", "北京大学在北京"),
    ],
)
def test_the_tokens_of_a_subject_spell_it(any_host, prompt, subject, up_to_it):
    start, end = subject_span(any_host, prompt, subject)
    ids = any_host.encode_prompt(prompt)

    def read(tokens):
        return any_host.tokenizer.decode(tokens, skip_special_tokens=True).strip()

    assert subject.lower() in read(ids[start:end]).lower()
    assert subject.lower() not in read(ids[start + 1 : end]).lower()
    assert subject.lower() not in read(ids[start : end - 1]).lower()
    assert read(ids[:end]) == up_to_it


def test_a_character_of_several_tokens_counts_whole():
    host = tiny_host(KINDS["byte level"]())
    start, end = subject_span(host, "the 🦊 of Gemland", "🦊")
    assert host.tokenizer.decode(host.encode_prompt("the 🦊 of Gemland")[start:end]).strip() == "🦊"


def test_errors_name_the_edit_and_what_to_write():
    host = tiny_host(KINDS["byte level"]())
    absent, part, none = (
        Edit(id="e7", prompt="The mayor of Lindens is", target="Ann", subject=subject)
        for subject in ("Gemland", "Linden", " ")
    )
    with pytest.raises(EditError, match=r"'e7'.*does not contain the subject 'Gemland'; write"):
        edit_subject_span(host, absent)
    with pytest.raises(EditError, match=r"'e7'.*inside the word 'Lindens'.*subject='Lindens'"):
        edit_subject_span(host, part)
    with pytest.raises(EditError, match=r"'e7' has no subject.*give the edit subject="):
        edit_subject_span(host, none)
