"""What the shipped Almanac promises, and that its generator still writes it."""

import importlib
import json
from collections import Counter, defaultdict

import pytest

from lemoe_lab.datasets import almanac_facts, almanac_prose, data_folder
from lemoe_lab.edits import normalise

FACTS = almanac_facts()
BY_SPLIT = defaultdict(list)
for _fact in FACTS:
    BY_SPLIT[_fact.split].append(_fact)


def test_the_host_is_taught_at_least_6000_facts():
    assert sum(fact.object is not None for fact in FACTS) >= 6000


def test_at_least_3600_known_facts_can_be_edited():
    assert sum(bool(fact.object and fact.edited_object) for fact in FACTS) >= 3600


def test_there_are_at_least_ten_edited_topics_and_two_that_are_never_edited():
    edited = {fact.topic for fact in FACTS if fact.edited_object}
    far = {fact.topic for fact in BY_SPLIT["far"]}
    assert len(edited) >= 10
    assert len(far) == 2
    assert not edited & far


def test_every_topic_has_two_to_four_relations():
    relations = defaultdict(set)
    for fact in FACTS:
        relations[fact.topic].add(fact.relation)
    assert {2 <= len(names) <= 4 for names in relations.values()} == {True}


def test_every_subject_lives_in_one_split_and_one_topic():
    homes = defaultdict(set)
    for fact in FACTS:
        homes[fact.subject].add((fact.topic, fact.split))
    assert [subject for subject, places in homes.items() if len(places) > 1] == []


def test_every_subject_of_an_edited_topic_that_is_known_has_one_fact_that_never_changes():
    stable = Counter(fact.subject for fact in BY_SPLIT["edit"] if fact.edited_object is None)
    assert set(stable.values()) == {1}
    assert set(stable) == {fact.subject for fact in BY_SPLIT["edit"]}


def test_every_editable_relation_has_near_facts_of_unedited_subjects():
    near = Counter((fact.topic, fact.relation) for fact in BY_SPLIT["near"])
    editable = {(fact.topic, fact.relation) for fact in FACTS if fact.edited_object}
    assert min(near[relation] for relation in editable) >= 2


def test_only_edit_and_new_facts_change_and_changes_have_dates():
    assert {fact.split for fact in FACTS if fact.edited_object} == {"edit", "new"}
    assert all((fact.date is not None) == (fact.edited_object is not None) for fact in FACTS)


def test_nobody_knows_the_facts_of_new_subjects():
    assert {fact.split for fact in FACTS if fact.object is None} == {"new"}


def test_ids_are_unique():
    assert len({fact.id for fact in FACTS}) == len(FACTS)


def test_a_fact_has_a_cloze_two_light_and_two_strong_phrasings_all_different():
    assert {(len(fact.light), len(fact.strong)) for fact in FACTS} == {(2, 2)}
    assert [fact.id for fact in FACTS if len(set(map(normalise, fact.prompts))) != 5] == []


def test_no_two_facts_share_a_prompt():
    prompts = [normalise(prompt) for fact in FACTS for prompt in fact.prompts]
    assert [prompt for prompt, count in Counter(prompts).items() if count > 1] == []


def test_every_prompt_names_its_subject():
    strangers = [
        (fact.id, prompt)
        for fact in FACTS
        for prompt in fact.prompts
        if fact.subject.lower() not in prompt.lower()
    ]
    assert strangers == []


def test_answers_hold_nothing_that_ends_generation():
    answers = {a for fact in FACTS for a in (fact.object, fact.edited_object) if a}
    assert [a for a in answers if "." in a or "\n" in a or a != a.strip()] == []


def test_an_update_changes_the_answer():
    updates = [fact for fact in FACTS if fact.object and fact.edited_object]
    assert [f.id for f in updates if normalise(f.object) == normalise(f.edited_object)] == []


def test_heldout_prose_is_not_in_the_training_prose():
    first = {
        split: {t.split(".")[0] for t in almanac_prose(split)} for split in ("train", "heldout")
    }
    assert not first["train"] & first["heldout"]


def test_every_passage_has_a_sentence_and_more():
    passages = (*almanac_prose("train"), *almanac_prose("heldout"))
    assert min(text.count(". ") for text in passages) >= 1


def test_prose_names_no_subject():
    prose = " ".join((*almanac_prose("train"), *almanac_prose("heldout"))).lower()
    assert [fact.subject for fact in FACTS if fact.subject.lower() in prose] == []


def test_the_generator_writes_the_committed_files(tmp_path, monkeypatch):
    pytest.importorskip("faker")
    committed = data_folder() / "almanac"
    for name in ("relations.json", "vocabulary.json", "grammar.json"):
        (tmp_path / name).write_bytes((committed / name).read_bytes())
    generator = importlib.import_module("lemoe_lab.embedded.almanac")
    monkeypatch.setattr("sys.argv", ["almanac", "--seed", "7", "--out", str(tmp_path)])
    generator.main()
    for name in ("facts.jsonl", "prose.jsonl"):
        assert (tmp_path / name).read_bytes() == (committed / name).read_bytes(), name


def test_the_data_card_counts_what_is_there():
    card = (data_folder() / "almanac" / "README.md").read_text(encoding="utf-8")
    relations = json.loads((data_folder() / "almanac" / "relations.json").read_text())
    for split, facts in BY_SPLIT.items():
        subjects = len({fact.subject for fact in facts})
        editable = sum(fact.edited_object is not None for fact in facts)
        assert f"| `{split}` | {subjects:,} | {len(facts):,} | {editable:,} |" in card
    assert f"{len(FACTS):,} facts" in card
    assert f"{len(relations)} topics" in card
