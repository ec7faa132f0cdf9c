"""Scores over the number of edits, costs, and the ceiling of LEMoE."""

from __future__ import annotations

from itertools import pairwise

import pandas as pd
import pytest
import torch

import lemoe_lab as ll
from lemoe_lab import metrics, plots, probes
from lemoe_lab.adaptor.anchors import Threshold
from lemoe_lab.memory.peak import RESET, PeakMemory


@pytest.fixture(scope="module")
def finished(host, stream):
    """A scoped LEMoE, measured as a whole after the first and the last batch; open."""
    editor = ll.editors.LEMoE(steps=10)
    with ll.EditSession(host, editor, stream, progress=False, immediate=["reliability"]) as session:
        session.step()
        session.evaluate()
        session.run()
        yield session


def rows_of(*rows: tuple) -> pd.DataFrame:
    """Generated scores: step, batch, edit, metric, group, value."""
    frame = [(*row[:5], "generated", row[5]) for row in rows]
    return pd.DataFrame(frame, columns=metrics.COLUMNS)


def test_a_row_for_every_step_that_was_measured_as_a_whole(finished):
    table = probes.scaling(finished)
    assert table[["step", "edits"]].to_numpy().tolist() == [[1, 8], [3, 24]]


def test_scores_are_means_over_groups_and_the_average_is_that_of_the_three():
    frame = rows_of(
        (1, 1, "a", "reliability", "", 1.0),
        (1, 1, "a", "generality", "light", 1.0),
        (1, 1, "a", "generality", "light", 0.0),
        (1, 1, "a", "generality", "strong", 0.0),
        (1, 1, "a", "locality", "near", 0.5),
        (1, 1, "a", "locality", "far", 1.0),
        (1, 1, "a", "locality", "text", 0.0),
    )
    row = probes.scaling(frame).iloc[0]
    assert row["generality"] == 0.25 and row["locality"] == 0.75
    assert row["average"] == pytest.approx((1 + 0.25 + 0.75) / 3)


def test_a_step_with_only_its_own_batch_measured_is_left_out():
    frame = rows_of(
        (1, 1, "a", "reliability", "", 1.0),
        (2, 2, "b", "reliability", "", 1.0),
        (3, 3, "c", "reliability", "", 1.0),
        (3, 1, "a", "reliability", "", 0.0),
        (3, 2, "b", "reliability", "", 1.0),
    )
    assert probes.scaling(frame)["step"].tolist() == [1, 3]


def test_superseded_edits_count_no_more():
    frame = rows_of(
        (2, 1, "old", "reliability", "", 0.0), (2, 2, "new", "reliability", "", 1.0)
    ).assign(superseded_at=[2.0, float("nan")])
    assert probes.scaling(frame)["reliability"].tolist() == [1.0]


def test_only_the_wanted_metrics_are_measured_right_after_a_batch(finished):
    early = finished.metrics.query("step == 2")
    assert set(early["metric"]) == {"reliability"}


def test_cost_counts_what_answers_beside_the_host(finished):
    row = probes.cost(finished).iloc[0]
    experts = sum(p.numel() for p in finished.editor.adaptor.experts.parameters())
    assert row["edits"] == 24 and row["changed_values"] == 0
    assert experts < row["added_values"] < 1.2 * experts
    assert row["train_seconds"] > 0


@pytest.fixture(scope="module")
def shared(stream):
    """Two batches of an adaptor whose experts are shared; open, on a host of its own."""
    host, editor = ll.load_host("almanac"), ll.editors.MoEAdaptor(steps=2)
    with ll.EditSession(host, editor, stream, progress=False) as session:
        session.jump(2)
        yield session


def test_an_editor_that_shares_its_experts_counts_them_once(shared):
    experts = sum(p.numel() for p in shared.editor.adaptor.experts.parameters())
    assert experts <= shared.editor.added_values < 1.1 * experts


def test_oracle_routes_find_what_the_experts_know(finished, monkeypatch):
    router = finished.editor.adaptor.router
    monkeypatch.setattr(
        router, "bypass", Threshold(torch.tensor([2.0]))
    )  # by itself it finds nothing
    scores = probes.scaling(probes.oracle(finished)).iloc[0]
    assert scores["editor"] == "LEMoE scoped, oracle routing"
    assert scores["reliability"] == scores["locality"] == 1.0
    assert scores["generality"] > 0.9


def test_asking_the_oracle_changes_nothing(finished):
    before = finished.metrics, finished.editor.adaptor.router
    probes.oracle(finished)
    assert finished.metrics.equals(before[0]) and finished.editor.adaptor.router is before[1]


def test_an_editor_without_an_expert_per_batch_has_no_oracle(shared):
    with pytest.raises(ValueError, match="no expert of its own"):
        probes.oracle(shared)


def test_over_seeds_gives_mean_and_range():
    frame = pd.DataFrame(
        {"editor": "a", "order": "random", "seed": [1, 2], "edits": 3, "average": [0.2, 0.6]}
    )
    row = probes.over_seeds(frame, ["average"]).iloc[0]
    assert (row["seeds"], row["low"], row["high"]) == (2, 0.2, 0.6)
    assert row["mean"] == pytest.approx(0.4)


def test_the_curve_names_every_editor_and_says_what_it_shows(finished):
    ax = plots.scaling(pd.concat([probes.scaling(finished)]))
    texts = [text.get_text() for text in ax.texts]
    assert "LEMoE scoped" in texts
    assert any("n = up to 24 edits per run" in text for text in texts)


def test_names_at_the_ends_do_not_overlap(finished):
    one = probes.scaling(finished)
    many = [one.assign(editor=f"editor {i}", average=0.98 + i / 500) for i in range(8)]
    ax = plots.scaling(pd.concat(many))
    places = sorted(t.xyann[1] for t in ax.texts if t.get_text().startswith("editor"))
    assert min(b - a for a, b in pairwise(places)) > 0.03
    assert places[-1] <= 1.01


def test_peak_memory_sees_what_is_gone_again():
    if not RESET.exists():
        pytest.skip("only Linux tells how much memory a process takes")
    with PeakMemory() as memory:
        torch.ones(20_000_000).sum()  # 80 MB
    assert 6e7 < memory.bytes < 2e8
