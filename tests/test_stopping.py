"""Decoding that ends early says the same as decoding to the end."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lemoe_lab import metrics
from lemoe_lab.edits import normalise
from lemoe_lab.stopping import StopWhenWrong, can_become, first_sentence, shows_it_wrong


def test_says_is_the_exact_match_of_generated_answers(host, stream):
    prompts = [edit.prompt for edit in stream.edits] * 2
    targets = [e.old_answer for e in stream.edits] + [e.target for e in stream.edits]
    matches = [
        metrics.exact_match(answer, target) == 1.0
        for answer, target in zip(host.generate(prompts), targets, strict=True)
    ]
    assert any(matches) and not all(matches)
    assert host.says(prompts, targets) == matches


def test_a_wrong_answer_is_not_decoded_to_its_end(host, stream):
    passes = []
    handle = host.model.base_model.register_forward_pre_hook(lambda *_: passes.append(1))
    try:
        host.says([stream.edits[0].prompt], ["Zzz"])
        early = len(passes)
        host.generate(stream.edits[0].prompt)
    finally:
        handle.remove()
    assert early < len(passes) - early


@given(st.text(), st.integers(0, 60))
def test_the_beginning_of_an_answer_can_always_become_it(answer, end):
    assert can_become(answer[:end], answer)


@pytest.mark.parametrize(
    ("text", "expected", "possible"),
    [
        ("", "Valdoria", True),
        ("the valdo", "The Valdorian coast", True),
        ("Valdoria and more", "Valdoria", False),
        ("Gemland", "Valdoria", False),
    ],
)
def test_an_answer_that_left_the_expected_one_cannot_become_it(text, expected, possible):
    assert can_become(text, expected) is possible


@pytest.mark.parametrize(
    ("text", "expected", "wrong"),
    [
        ("Gemland", "Valdoria", True),
        ("Valdor", "Valdoria", False),
        ("Gemland.", "Gem", False),  # greedy decoding ended at the full stop, or before it
        ("Gem\nland", "Valdoria", False),
    ],
)
def test_an_answer_without_an_end_is_known_to_be_wrong_once_it_left_the_expected_one(
    text, expected, wrong
):
    assert shows_it_wrong(text, expected) is wrong


def test_rows_stop_one_by_one(host):
    texts = [" Gemland in the north", " Valdoria"]
    rows = host.tokenizer(texts, padding=True, return_tensors="pt")["input_ids"]
    stop = StopWhenWrong(host.tokenizer, ["Valdoria", "Valdoria"], start=0)
    assert stop(rows, torch.empty(0)).tolist() == [True, False]


def test_a_sentence_ends_at_a_full_stop_or_a_newline():
    assert first_sentence(" Gemland. Then\nmore") == "Gemland"
    assert normalise(first_sentence("Gemland\nand")) == "gemland"
