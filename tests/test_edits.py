"""What an edit, a batch and a stream accept, and how they complain."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from lemoe_lab.edits import Edit, EditBatch, EditError, EditStream, Rephrase, normalise


def make_edit(number: int, prompt: str | None = None, target: str | None = None, **more) -> Edit:
    return Edit(
        id=f"fact-{number}",
        prompt=prompt or f"The capital of country {number} is",
        target=target or f"Town {number}",
        **more,
    )


@pytest.mark.parametrize("field", ["prompt", "target"])
@pytest.mark.parametrize("blank", ["", "  ", "\n\t", "\x1c"])
def test_an_empty_prompt_or_target_is_refused_by_the_name_of_the_edit(field, blank):
    fields = {"id": "fact-7", "prompt": "The mayor of Foo is", "target": "Ann Lee", field: blank}
    with pytest.raises(EditError, match="fact-7") as caught:
        Edit(**fields)
    assert field in str(caught.value)


@pytest.mark.parametrize("old", ["Ann Lee", "ann lee", " Ann  Lee. "])
def test_a_target_that_the_host_already_says_is_refused_by_the_name_of_the_edit(old):
    with pytest.raises(EditError, match="fact-7.*Ann Lee.*already says"):
        make_edit(7, target="Ann Lee", old_answer=old)


def test_an_unknown_field_is_refused():
    with pytest.raises(ValueError, match="rephrase_prompt"):
        make_edit(1, rephrase_prompt="Who?")


def test_an_unknown_group_is_refused_with_the_allowed_ones():
    with pytest.raises(ValueError, match="light.*strong"):
        Rephrase(prompt="Who is it?", group="medium")


def test_spaces_around_prompt_and_target_are_dropped():
    edit = make_edit(1, prompt=" The mayor is ", target=" Ann Lee\n")
    assert (edit.prompt, edit.target) == ("The mayor is", "Ann Lee")


def test_edits_batches_and_streams_cannot_be_changed():
    stream = EditStream.from_edits([make_edit(1)], 1)
    for thing, field in [(stream, "name"), (stream.batches[0], "step"), (stream.edits[0], "id")]:
        with pytest.raises(ValidationError, match="frozen"):
            setattr(thing, field, "other")


def test_a_prompt_twice_in_a_batch_is_refused_by_the_names_of_both_edits():
    twins = make_edit(1, "The mayor is", "Ann"), make_edit(2, "the mayor  is", "Ann")
    with pytest.raises(EditError, match="fact-2.*already in batch 1.*fact-1"):
        EditBatch(step=1, edits=twins)


def test_two_targets_for_one_prompt_in_a_batch_are_refused_by_the_names_of_both_edits():
    rivals = make_edit(1, "The mayor is", "Ann"), make_edit(2, "The mayor is", "Bob")
    with pytest.raises(EditError, match="fact-2.*two targets.*Ann.*fact-1.*Bob"):
        EditStream.from_edits(rivals, 2)


def test_an_id_used_twice_is_refused_by_its_name():
    with pytest.raises(EditError, match="fact-1.*2 times"):
        EditStream.from_edits([make_edit(1, "a"), make_edit(1, "b")], 1)


def test_an_empty_stream_is_refused():
    with pytest.raises(ValueError, match="batches"):
        EditStream.from_edits([], 3)


def test_a_batch_size_below_one_is_refused():
    with pytest.raises(EditError, match="at least 1, not 0"):
        EditStream.from_edits([make_edit(1)], 0)


def test_batches_that_are_not_counted_from_one_are_refused():
    with pytest.raises(EditError, match=r"1\.\.1, not \[2\]"):
        EditStream(batches=(EditBatch(step=2, edits=(make_edit(1),)),))


def test_a_later_edit_of_the_same_prompt_supersedes_the_older_one():
    first, second, third = (make_edit(i, "The mayor is", f"Mayor {i}") for i in (1, 2, 3))
    stream = EditStream.from_groups([[first, make_edit(9)], [second], [third]])
    assert stream.superseded == {"fact-1": 2, "fact-2": 3}


def test_a_stream_without_repeated_prompts_supersedes_nothing():
    assert EditStream.from_edits(map(make_edit, range(5)), 2).superseded == {}


def test_the_last_batch_may_be_shorter():
    stream = EditStream.from_edits(map(make_edit, range(7)), 3)
    assert [len(batch) for batch in stream] == [3, 3, 1]
    assert [batch.step for batch in stream] == [1, 2, 3]


def test_with_batch_adds_one_batch_and_leaves_the_stream_as_it_was():
    stream = EditStream.from_edits([make_edit(1)], 1, name="mine")
    longer = stream.with_batch([make_edit(2)])
    assert (len(stream), len(longer), longer.name) == (1, 2, "mine")
    assert longer.batches[-1].step == 2


def test_with_batch_refuses_an_id_of_the_stream():
    stream = EditStream.from_edits([make_edit(1)], 1)
    with pytest.raises(EditError, match="fact-1"):
        stream.with_batch([make_edit(1, "another prompt")])


@pytest.mark.parametrize(
    ("said", "meant"),
    [("  Ann  LEE. ", "ann lee"), ('"Ann"', "ann"), ("U.S.A", "u.s.a"), ("Ånn!", "ånn")],
)
def test_answers_are_compared_without_case_spaces_and_outer_punctuation(said, meant):
    assert normalise(said) == meant


words = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
prompts = st.lists(words.filter(lambda text: normalise(text)), unique_by=normalise, min_size=1)


@settings(max_examples=60, deadline=None)
@given(prompts=prompts, batch_size=st.integers(1, 9))
def test_any_unicode_stream_keeps_its_edits_in_order_and_survives_json(prompts, batch_size):
    edits = [make_edit(i, prompt, f"answer {i}") for i, prompt in enumerate(prompts)]
    stream = EditStream.from_edits(edits, batch_size)
    assert stream.edits == tuple(edits)
    assert all(len(batch) == batch_size for batch in stream.batches[:-1])
    assert EditStream.model_validate_json(stream.model_dump_json()) == stream


@settings(max_examples=60, deadline=None)
@given(text=words)
def test_normalising_twice_changes_no_more_than_once(text):
    assert normalise(normalise(text)) == normalise(text)


ASKED = "The mayor of Wilport is"
REWORDED = "Who is the mayor of Wilport?"
SAME_FACT = {
    "the same prompt": ({"prompt": ASKED}, {"prompt": "the  mayor of wilport is"}),
    "the newer prompt is a rephrase of the older": (
        {"prompt": ASKED, "rephrases": [Rephrase(prompt=REWORDED)]},
        {"prompt": "who is the mayor of Wilport"},
    ),
    "the older prompt is a rephrase of the newer": (
        {"prompt": ASKED},
        {"prompt": REWORDED, "rephrases": [Rephrase(prompt=ASKED, group="strong")]},
    ),
    "the same subject and relation": (
        {"prompt": ASKED, "subject": "Wilport", "relation": "mayor"},
        {"prompt": REWORDED, "subject": "wilport", "relation": "Mayor"},
    ),
}
OTHER_FACTS = {
    "only the subject": (
        {"prompt": ASKED, "subject": "Wilport"},
        {"prompt": REWORDED, "subject": "Wilport", "relation": "mayor"},
    ),
    "another relation of the subject": (
        {"prompt": ASKED, "subject": "Wilport", "relation": "mayor"},
        {"prompt": "Wilport lies in", "subject": "Wilport", "relation": "country"},
    ),
    "a rephrase in common, which neither asks": (
        {"prompt": ASKED, "rephrases": [Rephrase(prompt="Wilport: mayor?")]},
        {"prompt": REWORDED, "rephrases": [Rephrase(prompt="Wilport: mayor?")]},
    ),
    "blank subjects and relations": (
        {"prompt": ASKED, "subject": "", "relation": ""},
        {"prompt": REWORDED, "subject": "", "relation": ""},
    ),
}


def two_edits(fields, answers=("Ann", "Bob")):
    return [make_edit(i, target=answers[i], **each) for i, each in enumerate(fields)]


@pytest.mark.parametrize("fields", SAME_FACT.values(), ids=SAME_FACT)
def test_a_later_edit_of_the_same_fact_supersedes_the_older_one_in_whatever_words(fields):
    older, newer = two_edits(fields)
    stream = EditStream.from_groups([[older], [make_edit(9)], [newer]])
    assert stream.superseded == {"fact-0": 3}


@pytest.mark.parametrize("fields", OTHER_FACTS.values(), ids=OTHER_FACTS)
def test_edits_of_different_facts_leave_each_other_alone(fields):
    one, other = two_edits(fields)
    assert EditStream.from_groups([[one], [other]]).superseded == {}
    assert len(EditBatch(step=1, edits=(one, other))) == 2


@pytest.mark.parametrize("fields", SAME_FACT.values(), ids=SAME_FACT)
def test_two_targets_for_one_fact_in_a_batch_are_refused_by_the_names_of_both_edits(fields):
    with pytest.raises(EditError, match="fact-1.*two targets in batch 1.*Ann.*fact-0.*Bob"):
        EditBatch(step=1, edits=tuple(two_edits(fields)))


def test_all_edits_at_once_cannot_revise_each_other_in_other_words():
    stream = EditStream.from_edits(two_edits(SAME_FACT["the same subject and relation"]), 1)
    with pytest.raises(EditError, match="fact-1.*two targets"):
        stream.merged()


def test_one_fact_may_be_taught_in_two_wordings_at_once():
    twins = two_edits(SAME_FACT["the same subject and relation"], ("Ann", "ann."))
    stream = EditStream.from_edits(twins, 2)
    assert stream.superseded == {}


def test_targets_that_are_each_others_aliases_do_not_contradict():
    one, other = two_edits(SAME_FACT["the same subject and relation"], ("UK", "United Kingdom"))
    one = one.model_copy(update={"aliases": ("united kingdom",)})
    assert len(EditBatch(step=1, edits=(one, other))) == 2


def test_a_fact_edited_thrice_is_superseded_step_by_step():
    older, newer = two_edits(SAME_FACT["the older prompt is a rephrase of the newer"])
    newest = make_edit(2, REWORDED, "Cleo")
    stream = EditStream.from_groups([[older], [newer], [newest]])
    assert stream.superseded == {"fact-0": 2, "fact-1": 3}
