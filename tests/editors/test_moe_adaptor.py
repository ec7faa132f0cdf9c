"""The conventional adaptor: its router by hand, its experts, batch mode."""

from __future__ import annotations

import math

import pytest
import torch
from helpers import digest, prompts_of

from lemoe_lab import EditSession
from lemoe_lab.editors import ConfigError, MoEAdaptor
from lemoe_lab.editors.moe_adaptor import SoftmaxRouter


@pytest.fixture
def router():
    """Three experts on features of width 2 that are standardised already."""
    router = SoftmaxRouter(2, experts=3, top_k=2, per_token=False, seed=0)
    router.grow(torch.tensor([[1.0, 1.0], [-1.0, -1.0]]), 0)
    with torch.no_grad():
        router.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]))
    return router


def test_gate_is_the_softmax_of_the_best_experts(router):
    routes = router.route(torch.tensor([[2.0, 1.0]]))
    total = math.exp(2) + math.exp(1) + math.exp(-2)
    assert routes.expert.tolist() == [[0, 1]]
    assert routes.gate[0].tolist() == pytest.approx([math.exp(2) / total, math.exp(1) / total])


def test_features_are_standardised_by_the_first_batch_alone(router):
    first = torch.tensor([[10.0, 1.0], [14.0, 5.0]])
    other = SoftmaxRouter(2, experts=3, top_k=1, per_token=False, seed=0)
    other.grow(first, 0)
    other.grow(100 * first, 1)
    assert other.centre.tolist() == [12.0, 3.0]
    assert other.spread.tolist() == [2.0, 2.0]


def test_nothing_is_routed_before_the_first_batch():
    router = SoftmaxRouter(2, experts=3, top_k=1, per_token=False, seed=0)
    assert router.route(torch.ones(2, 2)).expert.tolist() == [[-1], [-1]]


def test_balance_loss_is_zero_when_experts_are_used_alike_and_largest_when_one_does_all(router):
    far = 50.0
    router.route(torch.tensor([[far, 0.0], [0.0, far], [-far, 0.0]]))
    assert router.balance_loss().item() == pytest.approx(0.0, abs=1e-6)
    router.route(torch.tensor([[far, 0.0], [far, 1.0]]))
    assert router.balance_loss().item() == pytest.approx(2.0)


def test_balance_loss_leaves_out_rows_that_do_not_count(router):
    router.route(torch.tensor([[50.0, 0.0], [0.0, 50.0]]))
    assert router.balance_loss(torch.tensor([True, False])).item() == pytest.approx(2.0)


@pytest.mark.parametrize("level", ["input", "token"])
def test_experts_are_used_about_alike_at_birth(host, stream, level):
    editor = MoEAdaptor(level=level, steps=1)
    with EditSession(host, editor, stream.merged(), progress=False) as session:
        session.step()
        routes = editor.routes(editor.prompt_features(prompts_of(stream)))
    counts = torch.bincount(routes.expert[:, 0], minlength=4) / len(stream.edits)
    assert counts.min() > 0.1
    assert counts.max() < 0.4


@pytest.mark.parametrize("level", ["input", "token"])
def test_every_batch_changes_the_same_experts(host, stream, level):
    with EditSession(host, MoEAdaptor(level=level, steps=15), stream, progress=False) as session:
        session.step()
        before = [digest(expert) for expert in session.editor.adaptor.experts]
        session.step()
        after = [digest(expert) for expert in session.editor.adaptor.experts]
        first, second = (set(report["experts"]) for report in session.reports)
    assert len(before) == len(after) == 4
    assert first & second
    assert all(before[expert] != after[expert] for expert in second)


def test_batch_mode_learns_all_edits_in_one_step(host, stream):
    merged = stream.merged()
    assert [len(batch) for batch in merged] == [24]
    assert merged.order == "all at once"
    with EditSession(host, MoEAdaptor(steps=200), merged, progress=False) as session:
        metrics = session.run().query("metric == 'reliability' and scorer == 'generated'")
        assert session.steps == 1
    assert metrics.value.mean() > 0.9


def test_report_names_the_expert_of_every_edit(host, stream):
    editor = MoEAdaptor(steps=15)
    with EditSession(host, editor, stream, progress=False) as session:
        session.step()
        prompts = [edit.prompt for edit in stream.batches[0]]
        routes = editor.routes(editor.prompt_features(prompts))
        assert session.reports[0]["experts"] == routes.expert[:, 0].tolist()


def test_more_choices_than_experts_are_refused():
    with pytest.raises(ConfigError, match="only 4 experts"):
        MoEAdaptor(top_k=5)
