"""Streams of facts about the world: what is in them and what never is."""

from collections import Counter, defaultdict

import pytest
from helpers import drawn_elsewhere

from lemoe_lab import datasets
from lemoe_lab.edits import EditError, normalise
from lemoe_lab.host.subjects import find_subject

FACTS = datasets.world_facts()
BY_ID = {fact.id: fact for fact in FACTS}
BY_CLOZE = {fact.cloze: fact for fact in FACTS}
EDITABLE = [fact for fact in FACTS if fact.split == "edit"]


class KnowsSome:
    """A host that answers rightly about the subjects it is given, and wrongly about all others."""

    name = "knows some"

    def __init__(self, subjects):
        self.subjects = set(subjects)

    def exact_match(self, prompts, targets):
        found = [BY_CLOZE[prompt] for prompt in prompts]
        assert [fact.answers for fact in found] == list(targets)
        return [fact.subject in self.subjects for fact in found]


@pytest.fixture(scope="module")
def stream():
    return datasets.world(edits=300, batch_size=30, seed=1)


@pytest.fixture(scope="module")
def whole():
    return datasets.world(edits=len(EDITABLE), batch_size=100, seed=2)


def asked(edit, group):
    return [BY_CLOZE.get(prompt.prompt) for prompt in edit.locality if prompt.group == group]


# The facts


def test_there_are_at_least_1200_editable_facts_of_twelve_relations():
    assert len(EDITABLE) >= 1200
    assert len({fact.relation for fact in EDITABLE}) >= 12


def test_two_relations_are_kept_aside():
    far = {fact.relation for fact in FACTS if fact.split == "far"}
    assert len(far) == 2
    assert not far & {fact.relation for fact in FACTS if fact.split != "far"}


def test_every_relation_has_facts_to_edit_and_to_ask_beside():
    splits = defaultdict(Counter)
    for fact in FACTS:
        splits[fact.relation][fact.split] += 1
    for relation, count in splits.items():
        assert count["far"] or min(count["edit"], count["near"], count["calibration"]) >= 2, (
            relation
        )


def test_every_fact_has_a_cloze_a_question_two_light_and_two_strong_rewordings():
    for fact in FACTS:
        assert len(set(fact.prompts)) == 6
        question, *light = fact.light
        assert question.endswith("?") and len(light) == 2 and len(fact.strong) == 2
        assert not fact.cloze.endswith("?")


def test_every_wording_names_the_subject_once():
    for fact in FACTS:
        for prompt in fact.prompts:
            assert prompt.casefold().count(fact.subject.casefold()) == 1, prompt
            assert find_subject(prompt, fact.subject) is not None, prompt


def test_no_wording_is_shared():
    assert len({prompt for fact in FACTS for prompt in fact.prompts}) == 6 * len(FACTS)
    assert len(BY_ID) == len(FACTS)


def test_no_subject_gives_its_answer_away():
    for fact in FACTS:
        subject = f" {normalise(fact.subject)} "
        assert not any(f" {normalise(name)} " in subject for name in fact.answers), fact.id


def test_a_subject_belongs_to_one_split():
    splits = defaultdict(set)
    for fact in FACTS:
        splits[fact.topic, fact.subject].add(fact.split)
    assert {len(split) for split in splits.values()} == {1}


@pytest.mark.parametrize(
    ("relation", "subject", "answer"),
    [
        ("capital", "France", "Paris"),
        ("currency", "Japan", "yen"),
        ("currency", "Japan", "Japanese yen"),
        ("official language", "Brazil", "Portuguese"),
        ("official language", "Canada", "French"),
        ("calling code", "Germany", "+49"),
        ("internet domain", "Spain", ".es"),
        ("symbol", "sodium", "Na"),
        ("atomic number", "carbon", "6"),
        ("state capital", "California", "Sacramento"),
        ("country", "Amsterdam", "Netherlands"),
        ("author", "Moby-Dick", "Melville"),
        ("composer", "Carmen", "Georges Bizet"),
        ("class", "penguin", "birds"),
    ],
)
def test_what_everybody_knows_is_there(relation, subject, answer):
    assert answer in BY_ID[f"world/{relation}/{subject}"].answers


# The streams


def test_three_hundred_edits_come_in_ten_batches_of_thirty(stream):
    assert [len(batch) for batch in stream] == [30] * 10
    assert (stream.name, stream.seed, stream.order) == ("world", 1, "random")
    assert len({edit.relation for edit in stream.edits}) >= 12


def test_an_edit_carries_its_fact_in_all_wordings(whole):
    for edit in whole.edits:
        fact = BY_ID[edit.id]
        assert (edit.prompt, edit.old_answer) == (fact.cloze, fact.object)
        assert (edit.subject, edit.relation, edit.topic) == (
            fact.subject,
            fact.relation,
            fact.topic,
        )
        assert tuple(r.prompt for r in edit.rephrases if r.group == "light") == fact.light
        assert tuple(r.prompt for r in edit.rephrases if r.group == "strong") == fact.strong


def test_a_target_is_an_object_of_the_same_relation_and_never_true(whole):
    objects = defaultdict(set)
    for fact in FACTS:
        objects[fact.relation].add(fact.object)
    for edit in whole.edits:
        assert edit.target in objects[edit.relation]
        right = set(map(normalise, BY_ID[edit.id].answers))
        assert not right & set(map(normalise, edit.answers)), edit.id


def test_a_target_may_be_said_by_any_of_its_names(whole):
    [names] = {edit.aliases for edit in whole.edits if edit.target == "the United States"}
    assert {"United States", "USA"} <= set(names)


def test_no_fact_is_edited_twice(whole):
    assert whole.superseded == {}


def test_locality_asks_four_groups(stream):
    groups = Counter(prompt.group for edit in stream.edits for prompt in edit.locality)
    assert groups["near"] == 600
    assert groups["far"] == groups["text"] == 300
    assert groups["same_subject"] > 150


def test_same_subject_asks_another_relation_of_it(stream):
    for edit in stream.edits:
        for fact in asked(edit, "same_subject"):
            assert (fact.topic, fact.subject) == (edit.topic, edit.subject)
            assert fact.relation != edit.relation


def test_near_asks_the_same_relation_of_a_subject_that_is_never_edited(stream, whole):
    edited = {(edit.topic, edit.subject) for edit in whole.edits}
    for edit in stream.edits:
        for fact in asked(edit, "near"):
            assert fact.relation == edit.relation
            assert (fact.topic, fact.subject) not in edited


def test_far_asks_relations_that_are_never_edited(stream, whole):
    edited = {edit.relation for edit in whole.edits}
    for edit in stream.edits:
        assert all(fact.relation not in edited for fact in asked(edit, "far"))


def test_text_goes_on_as_its_passage_does(stream):
    for edit in stream.edits:
        [text] = [prompt for prompt in edit.locality if prompt.group == "text"]
        assert f"{text.prompt} {text.target}" in datasets.world_prose()


def test_there_are_twenty_passages():
    assert len(set(datasets.world_prose())) >= 20


@pytest.mark.parametrize("edits", [60, 300, len(EDITABLE)])
def test_no_locality_prompt_is_edited_in_its_stream(edits):
    stream = datasets.world(edits=edits, seed=4)
    edited = {edit.prompt for edit in stream.edits}
    assert not edited & {prompt.prompt for edit in stream.edits for prompt in edit.locality}


def test_facts_that_calibrate_are_neither_edited_nor_asked_about(whole):
    used = {edit.prompt for edit in whole.edits}
    used |= {prompt.prompt for edit in whole.edits for prompt in edit.locality}
    calibrated = {prompt for fact in whole.calibration for prompt in fact.prompts}
    assert not used & calibrated
    assert {len(fact.prompts) for fact in whole.calibration} == {6}
    assert len({fact.relation for fact in whole.calibration}) >= 12


# Seeds


def test_the_same_seed_gives_the_same_stream_whatever_the_hash_seed():
    elsewhere = drawn_elsewhere("world(edits=40, batch_size=10, seed=3)")
    assert elsewhere == datasets.world(edits=40, batch_size=10, seed=3).model_dump_json()


def test_another_seed_gives_other_edits_and_other_targets(stream):
    other = datasets.world(edits=300, batch_size=30, seed=2)
    assert {edit.id for edit in other.edits} != {edit.id for edit in stream.edits}
    targets = {edit.id: edit.target for edit in stream.edits}
    both = [edit for edit in other.edits if edit.id in targets]
    assert any(edit.target != targets[edit.id] for edit in both)


def test_a_shorter_stream_holds_the_first_edits_of_a_longer_one(stream):
    shorter = datasets.world(edits=40, batch_size=10, seed=1)
    said = [(edit.id, edit.target) for edit in shorter.edits]
    assert said == [(edit.id, edit.target) for edit in stream.edits[:40]]


# What a host knows


def test_a_host_is_edited_only_where_it_is_right():
    host = KnowsSome(fact.subject for fact in FACTS if fact.relation == "capital")
    stream = datasets.world(edits=100, batch_size=10, host=host)
    for edit in stream.edits:
        assert edit.subject in host.subjects
        for fact in asked(edit, "same_subject") + asked(edit, "near"):
            assert fact.subject in host.subjects


def test_a_host_that_knows_no_neighbour_is_asked_none():
    host = KnowsSome(fact.subject for fact in EDITABLE)
    stream = datasets.world(edits=100, batch_size=10, host=host)
    groups = {prompt.group for edit in stream.edits for prompt in edit.locality}
    assert groups == {"same_subject", "far", "text"}


def test_a_host_that_knows_too_little_is_told_how_much():
    known = [fact.subject for fact in EDITABLE if fact.relation == "composer"]
    with pytest.raises(EditError, match=f"knows some answers {len(known)} of the facts rightly"):
        datasets.world(edits=len(known) + 1, host=KnowsSome(known))
    assert len(datasets.world(edits=len(known), host=KnowsSome(known)).edits) == len(known)


@pytest.mark.parametrize("edits", [0, -1, 100_000])
def test_more_edits_than_there_are_is_a_clear_error(edits):
    with pytest.raises(EditError, match=f"world.. has 1 to {len(EDITABLE)} edits, not {edits}"):
        datasets.world(edits=edits)


def test_a_real_host_may_choose(host):
    with pytest.raises(EditError, match=r"answers \d+ of the facts rightly"):
        datasets.world(edits=len(EDITABLE), host=host)
