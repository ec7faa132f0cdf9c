"""Whatever surrounds a cell of a notebook, editors learn there and scores do not move."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch
from helpers import prompts_of
from test_editors import EDITORS

import lemoe_lab as ll
from lemoe_lab import EditSession


@contextmanager
def training_mode(host):
    host.model.train()
    try:
        yield
    finally:
        assert host.model.training
        host.model.eval()


SURROUNDINGS = {
    "no_grad": lambda host: torch.no_grad(),
    "inference_mode": lambda host: torch.inference_mode(),
    "autocast": lambda host: torch.autocast("cpu", dtype=torch.bfloat16),
    "training mode": training_mode,
}


@pytest.fixture(scope="module")
def small(stream):
    """Two edits with one rewording each."""
    edits = [
        edit.model_copy(update={"rephrases": edit.rephrases[-1:], "locality": edit.locality[:1]})
        for edit in stream.edits[:2]
    ]
    return stream.with_groups([edits])


@pytest.fixture(scope="module")
def plainly(host, small):
    """What every editor measures and says where nothing surrounds it."""
    known = {}

    def result(name: str):
        if name not in known:
            known[name] = outcome(host, name, small)
        return known[name]

    return result


def outcome(host, name, stream):
    with EditSession(host, EDITORS[name](steps=4), stream, progress=False) as session:
        session.run()
        return session.metrics, host.generate(prompts_of(stream))


@pytest.mark.parametrize("around", SURROUNDINGS)
@pytest.mark.parametrize("name", EDITORS)
def test_what_surrounds_a_run_changes_nothing_in_it(host, small, plainly, name, around):
    metrics, answers = plainly(name)
    with SURROUNDINGS[around](host):
        measured, said = outcome(host, name, small)
    assert measured.equals(metrics)
    assert said == answers


def test_a_host_loaded_under_inference_mode_can_be_edited_later(small):
    with torch.inference_mode():
        host = ll.load_host("almanac")
    with EditSession(host, ll.editors.FineTune(steps=2), small, progress=False) as session:
        report = session.step()
    assert report.losses[-1] < report.losses[0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", EDITORS)
def test_hosts_in_half_precision_are_edited_or_refused_with_a_reason(small, name, dtype):
    host = ll.load_host("almanac", dtype=dtype)
    with EditSession(host, EDITORS[name](steps=15), small, progress=False) as session:
        before = host.score(prompts_of(small), [edit.target for edit in small.edits])
        session.step()
        after = host.score(prompts_of(small), [edit.target for edit in small.edits])
    gained = [
        new.log_probabilities.sum() - old.log_probabilities.sum()
        for new, old in zip(after, before, strict=True)
    ]
    assert sum(gained) > 1


def test_a_loss_that_is_no_number_is_an_error_and_leaves_nothing(host, small):
    with EditSession(host, ll.editors.FineTune(), small, progress=False) as session:
        broken = host.final_norm.weight.clone()
        try:
            host.final_norm.weight.fill_(torch.nan)
            with pytest.raises(RuntimeError, match="nothing can be learned"):
                session.editor.edit(small.batches[0])
        finally:
            host.final_norm.weight.copy_(broken)
        assert session.steps == 0


def test_one_model_has_one_editor_whichever_host_it_is_reached_through(host, small):
    other = ll.Host(host.model, host.tokenizer, "the same model again")
    with (
        EditSession(host, ll.editors.LEMoE(steps=2), small, progress=False),
        pytest.raises(RuntimeError, match="close that session first"),
    ):
        EditSession(other, ll.editors.FineTune(steps=2), small, progress=False)
    with EditSession(other, ll.editors.FineTune(steps=2), small, progress=False) as session:
        session.step()


def test_targets_decide_no_route_when_another_host_of_the_model_scores(host, small):
    other = ll.Host(host.model, host.tokenizer, "the same model again")
    prompts, targets = prompts_of(small), [edit.target for edit in small.edits]
    with EditSession(host, ll.editors.LEMoE(), small, progress=False) as session:
        session.step()
        own, others = host.score(prompts, targets), other.score(prompts, targets)
    for one, two in zip(own, others, strict=True):
        assert torch.equal(one.log_probabilities, two.log_probabilities)
