"""Streams of Almanac edits: what is in them and what never is."""

from collections import Counter

import pytest
from helpers import drawn_elsewhere

from lemoe_lab import datasets
from lemoe_lab.edits import EditError

FACTS = {fact.id: fact for fact in datasets.almanac_facts()}
BY_CLOZE = {fact.cloze: fact for fact in FACTS.values()}


@pytest.fixture(scope="module")
def stream():
    return datasets.almanac(edits=300, batch_size=30, seed=1)


@pytest.fixture(scope="module", params=["update", "new", "mixed"])
def any_stream(request):
    return datasets.almanac(edits=500, batch_size=50, seed=2, kind=request.param)


def locality(edit, group):
    return [prompt for prompt in edit.locality if prompt.group == group]


def test_three_hundred_edits_come_in_ten_batches_of_thirty(stream):
    assert [len(batch) for batch in stream] == [30] * 10
    assert (stream.name, stream.seed, stream.order) == ("almanac update", 1, "random")


def test_the_same_seed_gives_the_same_stream(stream):
    assert datasets.almanac(edits=300, batch_size=30, seed=1) == stream


def test_the_same_seed_gives_the_same_stream_whatever_the_hash_seed():
    elsewhere = drawn_elsewhere("almanac(edits=40, batch_size=10, seed=3)")
    here = datasets.almanac(edits=40, batch_size=10, seed=3).model_dump_json()
    assert elsewhere == here


def test_different_seeds_give_different_edits_and_orders(stream):
    other = datasets.almanac(edits=300, batch_size=30, seed=2)
    assert {edit.id for edit in other.edits} != {edit.id for edit in stream.edits}


def test_a_shorter_stream_holds_the_first_edits_of_a_longer_one(stream):
    shorter = datasets.almanac(edits=40, batch_size=10, seed=1)
    assert [edit.id for edit in shorter.edits] == [edit.id for edit in stream.edits[:40]]


def test_an_edit_says_what_its_fact_says(any_stream):
    for edit in any_stream.edits:
        fact = FACTS[edit.id]
        assert (edit.prompt, edit.target) == (fact.cloze, fact.edited_object)
        assert edit.old_answer == fact.object
        assert (edit.subject, edit.relation) == fact.key
        assert (edit.topic, edit.date) == (fact.topic, fact.date)
        assert tuple(r.prompt for r in edit.rephrases if r.group == "light") == fact.light
        assert tuple(r.prompt for r in edit.rephrases if r.group == "strong") == fact.strong


def test_no_prompt_is_edited_twice(any_stream):
    assert any_stream.superseded == {}


@pytest.mark.parametrize(
    ("kind", "splits"), [("update", {"edit"}), ("new", {"new"}), ("mixed", {"edit", "new"})]
)
def test_a_kind_draws_from_its_splits_only(kind, splits):
    stream = datasets.almanac(edits=200, batch_size=20, seed=0, kind=kind)
    assert {FACTS[edit.id].split for edit in stream.edits} == splits


def test_new_edits_have_no_old_answer():
    stream = datasets.almanac(edits=60, batch_size=20, seed=0, kind="new")
    assert {edit.old_answer for edit in stream.edits} == {None}


@pytest.mark.parametrize(("kind", "all_of_them"), [("update", 3636), ("new", 1080)])
def test_every_editable_fact_can_be_in_one_stream(kind, all_of_them):
    stream = datasets.almanac(edits=all_of_them, batch_size=100, seed=0, kind=kind)
    assert len({edit.id for edit in stream.edits}) == all_of_them
    with pytest.raises(EditError, match=f"1 to {all_of_them} .*{kind}.*not {all_of_them + 1}"):
        datasets.almanac(edits=all_of_them + 1, batch_size=100, seed=0, kind=kind)


def test_no_edits_at_all_and_unknown_kinds_are_refused():
    with pytest.raises(EditError, match="1 to 3636"):
        datasets.almanac(edits=0)
    with pytest.raises(EditError, match="update, new, mixed, not 'old'"):
        datasets.almanac(kind="old")


def test_no_near_far_or_calibration_subject_is_edited(any_stream):
    reserved = {f.subject for f in FACTS.values() if f.split in ("near", "far", "calibration")}
    assert not reserved & {edit.subject for edit in any_stream.edits}


def test_calibration_is_the_calibration_split_in_all_phrasings(stream):
    facts = [fact for fact in FACTS.values() if fact.split == "calibration"]
    assert [(c.subject, c.relation) for c in stream.calibration] == [fact.key for fact in facts]
    assert [c.prompts for c in stream.calibration] == [fact.prompts for fact in facts]


def test_no_locality_prompt_is_calibrated_on_or_edited(any_stream):
    calibrated = {prompt for fact in any_stream.calibration for prompt in fact.prompts}
    edited = {edit.prompt for edit in any_stream.edits}
    asked = {prompt.prompt for edit in any_stream.edits for prompt in edit.locality}
    assert not asked & calibrated
    assert not asked & edited


def test_locality_answers_are_the_unedited_hosts_own_except_for_prose(any_stream):
    for edit in any_stream.edits:
        for prompt in edit.locality:
            assert (prompt.target is not None) == (prompt.group == "text")


def test_same_subject_prompts_ask_other_known_relations_of_that_subject():
    stream = datasets.almanac(edits=2000, batch_size=100, seed=0)
    edited = {edit.id for edit in stream.edits}
    for edit in stream.edits:
        facts = [BY_CLOZE[prompt.prompt] for prompt in locality(edit, "same_subject")]
        assert {fact.subject for fact in facts} == {edit.subject}
        assert all(fact.object and fact.id not in edited for fact in facts)
        stable, *others = facts
        assert stable.edited_object is None
        left_alone = [
            fact
            for fact in FACTS.values()
            if fact.subject == edit.subject and fact.edited_object and fact.id not in edited
        ]
        assert len(others) == min(1, len(left_alone))


def test_new_subjects_have_no_same_subject_prompts():
    stream = datasets.almanac(edits=60, batch_size=20, seed=0, kind="new")
    assert [edit.id for edit in stream.edits if locality(edit, "same_subject")] == []


def test_near_prompts_are_two_unedited_subjects_of_the_same_relation(any_stream):
    for edit in any_stream.edits:
        facts = [BY_CLOZE[prompt.prompt] for prompt in locality(edit, "near")]
        assert len({fact.subject for fact in facts}) == 2
        assert {fact.split for fact in facts} == {"near"}
        assert {(fact.topic, fact.relation) for fact in facts} == {(edit.topic, edit.relation)}


def test_far_prompts_are_of_topics_that_are_never_edited(any_stream):
    for edit in any_stream.edits:
        assert [BY_CLOZE[prompt.prompt].split for prompt in locality(edit, "far")] == ["far"]


def test_text_prompts_are_held_out_passages_cut_after_their_first_sentence(any_stream):
    passages = set(datasets.almanac_prose("heldout"))
    for edit in any_stream.edits:
        (prompt,) = locality(edit, "text")
        assert f"{prompt.prompt} {prompt.target}" in passages
        assert prompt.prompt.count(".") == 1
        assert prompt.prompt.endswith(".")


def test_the_locality_prompts_are_spread_over_what_there_is(stream):
    far = Counter(prompt.prompt for edit in stream.edits for prompt in locality(edit, "far"))
    text = Counter(prompt.prompt for edit in stream.edits for prompt in locality(edit, "text"))
    assert len(far) > 100
    assert len(text) > 150


def test_a_missing_data_folder_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("LEMOE_LAB_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match="nowhere.*LEMOE_LAB_DATA"):
        datasets.data_folder()
