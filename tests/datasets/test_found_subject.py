"""The subject of an edit that names none, found by what stays when the question is reworded."""

import pytest

from lemoe_lab import Edit, datasets
from lemoe_lab.datasets import found_subject
from lemoe_lab.edits import Rephrase


def about(prompt: str, *rewordings: str) -> str | None:
    rephrases = tuple(Rephrase(prompt=rewording) for rewording in rewordings)
    return found_subject(Edit(id="1", prompt=prompt, target="x", rephrases=rephrases))


@pytest.mark.parametrize(
    ("prompt", "rewordings", "subject"),
    [
        ("Who wrote Hard Times?", ["Hard Times was written by"], "Hard Times"),
        ("who wrote hard times", ["Which author wrote Hard Times?"], "wrote hard times"),
        ("What is Wilport's country?", ["In which country does Wilport lie?"], "Wilport"),
        ("When did Apollo 11 land?", ["The landing of Apollo 11 was in"], "Apollo 11"),
        ("The Bank of Gemland is in", ["Where is the Bank of Gemland?"], "Bank of Gemland"),
        ("It was written by Émile Zola", ["ÉMILE ZOLA wrote it"], "Émile Zola"),
    ],
)
def test_what_all_wordings_share_is_the_subject(prompt, rewordings, subject):
    assert about(prompt, *rewordings) == subject


def test_a_name_goes_before_longer_shared_words():
    prompt = "What level is Gemland's nature conservation status?"
    assert about(prompt, "The nature conservation status of Gemland is") == "Gemland"


def test_one_rewording_by_another_name_does_not_hide_the_subject():
    wordings = "Wilport is the capital of", "The capital Wilport belongs to", "Port Wil belongs to"
    assert about(*wordings) == "Wilport"


@pytest.mark.parametrize(
    ("prompt", "subject"),
    [
        ("The mayor of New Wilport is", "New Wilport"),
        ("The name of the rector of the University of Wilport is", "University of Wilport"),
        ("Wilport lies in", "Wilport"),
        ("Wilport is north of Oldport Bay and", "Oldport Bay"),
    ],
)
def test_without_rewordings_a_capitalised_run_is_the_subject(prompt, subject):
    assert about(prompt) == subject


@pytest.mark.parametrize("prompt", ["who is it", "What is the", "...", "The name of the"])
def test_nothing_that_stands_out_is_no_subject(prompt):
    assert about(prompt) is None
    assert about(prompt, prompt) is None


def test_a_subject_stands_in_the_prompt_as_it_is_written():
    prompt = "Where do  Ann\u00a0Lee's  sisters live?"
    found = about(prompt, "The home of Ann Lee's sisters")
    assert found is not None and found in prompt


@pytest.mark.parametrize(
    ("load", "file", "share"),
    [
        (datasets.zsre, "zsre_1500.json", 0.98),
        (datasets.counterfact, "counterfact_1500.json", 0.95),
        (datasets.wikibigedit, "wikibigedit_1500.json", 0.85),
    ],
)
def test_the_subject_of_published_questions_is_nearly_always_found(shared_data, load, file, share):
    edits = load(shared_data / file).edits
    held = [edit.subject.casefold() in (found_subject(edit) or "").casefold() for edit in edits]
    assert sum(held) / len(held) > share
