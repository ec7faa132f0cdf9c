"""The bank of prompts: many questions about the same subjects, each in several wordings."""

from collections import Counter

from lemoe_lab.datasets import prompt_bank
from lemoe_lab.editors.shared.addresses import has_rivals


def test_every_question_is_asked_in_five_wordings():
    for fact in prompt_bank(subjects=4):
        assert len(set(fact.prompts)) == 5
        assert all(fact.subject.lower() in prompt.lower() for prompt in fact.prompts)
        assert all(prompt[0].isupper() and "{" not in prompt for prompt in fact.prompts)


def test_every_subject_is_asked_about_in_several_ways():
    facts = prompt_bank()
    assert min(Counter(fact.subject for fact in facts).values()) >= 5
    assert len({fact.relation for fact in facts}) >= 40
    assert has_rivals(facts)


def test_more_subjects_are_asked_the_same():
    few, many = prompt_bank(1), prompt_bank(3)
    assert len(many) == 3 * len(few)
    assert set(few) <= set(many)
