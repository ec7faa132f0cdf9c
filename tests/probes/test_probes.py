"""Probes on sessions whose numbers are written by hand."""

import math
from types import SimpleNamespace

import pandas as pd
import pytest

from lemoe_lab import probes
from lemoe_lab.metrics import COLUMNS


def fake_session(rows, name="LEMoE scoped", seed=1, order="random", superseded=None, full=None):
    return SimpleNamespace(
        metrics=pd.DataFrame(rows, columns=list(COLUMNS)),
        forgetting_matrix=lambda: pd.DataFrame(full or rows, columns=list(COLUMNS)),
        editor=SimpleNamespace(name=name),
        stream=SimpleNamespace(seed=seed, order=order, superseded=superseded or {}),
    )


def reliability(step, batch, edit, value, scorer="generated"):
    return (step, batch, edit, "reliability", "", scorer, value)


ROWS = [
    reliability(1, 1, "a", 1.0),
    reliability(1, 1, "b", 1.0),
    reliability(2, 1, "a", 0.0),
    reliability(2, 1, "b", 1.0),
    reliability(2, 2, "c", 1.0),
    reliability(1, 1, "a", 0.5, "teacher_forced"),
    (1, 1, "a", "generality", "strong", "generated", 1.0),
    (1, 1, "a", "generality", "strong", "generated", 0.0),
    (2, 1, "a", "generality", "strong", "generated", 0.0),
    (2, 1, "a", "generality", "strong", "generated", 0.0),
    (1, 1, "a", "locality", "near", "generated", 1.0),
    (2, 1, "a", "locality", "near", "generated", 0.0),
    (2, 2, "c", "locality", "near", "generated", 1.0),
    (2, 2, "c", "locality", "text", "teacher_forced", 0.8),
]


@pytest.fixture
def session():
    return fake_session(ROWS)


@pytest.fixture
def two_runs():
    """A sweep's frame: two runs of one editor, order and seed; only the first one forgets."""
    rows = [(0, *reliability(1, 1, "a", 1.0)), (0, *reliability(2, 1, "a", 0.0))]
    rows += [(0, *reliability(2, 2, "b", 1.0)), (1, *reliability(2, 2, "b", 1.0))]
    rows += [(1, *reliability(1, 1, "a", 1.0)), (1, *reliability(2, 1, "a", 1.0))]
    return pd.DataFrame(rows, columns=["run", *COLUMNS])


def one(frame, **chosen):
    for name, value in chosen.items():
        frame = frame[frame[name] == value]
    assert len(frame) == 1
    return frame.iloc[0]


def test_forgetting_has_one_row_per_edit_metric_and_group(session):
    frame = probes.forgetting(session)
    assert list(frame.columns) == [
        *["editor", "order", "seed", "batch", "edit", "metric", "group", "scorer"],
        *["immediate", "final", "superseded"],
    ]
    assert not frame.duplicated(["edit", "metric", "group"]).any()
    row = one(frame, edit="a", metric="reliability")
    assert (row["immediate"], row["final"], row["superseded"]) == (1.0, 0.0, False)
    assert (row["editor"], row["order"], row["seed"]) == ("LEMoE scoped", "random", 1)


def test_several_rephrases_are_averaged(session):
    assert one(probes.forgetting(session), edit="a", metric="generality")["immediate"] == 0.5


def test_the_last_batch_is_immediate_and_final_at_once(session):
    row = one(probes.forgetting(session), edit="c", metric="reliability")
    assert row["immediate"] == row["final"] == 1.0


def test_a_superseded_edit_is_reported_and_has_no_final_value():
    frame = probes.forgetting(fake_session(ROWS, superseded={"a": 2}))
    row = one(frame, edit="a", metric="reliability")
    assert row["superseded"] and row["immediate"] == 1.0 and math.isnan(row["final"])
    assert math.isnan(one(frame, edit="a", metric="generality")["final"])
    assert one(frame, edit="a", metric="locality")["final"] == 0.0


def test_an_edit_that_a_later_unapplied_batch_replaces_still_counts():
    frame = probes.forgetting(fake_session(ROWS, superseded={"a": 3}))
    row = one(frame, edit="a", metric="reliability")
    assert not row["superseded"] and row["final"] == 0.0


def test_several_sessions_keep_their_order_and_seeds():
    sessions = [fake_session(ROWS, name, seed) for name in ("ROME", "GRACE") for seed in (2, 1)]
    frame = probes.forgetting(sessions)
    assert list(frame["editor"].unique()) == ["ROME", "GRACE"]
    assert list(frame["seed"].unique()) == [2, 1]


def test_two_sessions_that_look_alike_are_an_error(session):
    with pytest.raises(ValueError, match="label"):
        probes.forgetting([session, fake_session(ROWS)])


def test_labels_tell_sessions_of_one_editor_apart(session):
    frame = probes.forgetting({"300 edits": session, "1,000 edits": [fake_session(ROWS)]})
    assert list(frame["editor"].unique()) == ["300 edits", "1,000 edits"]


def test_a_run_without_final_measurement_asks_for_it():
    rows = [reliability(1, 1, "a", 1.0), reliability(2, 2, "b", 1.0)]
    with pytest.raises(ValueError, match=r"batch 1 .* session\.evaluate\(\)"):
        probes.forgetting(fake_session(rows))


@pytest.mark.parametrize(
    ("rows", "hint"), [([], r"session\.step"), ([reliability(0, 1, "a", 0.0)], r"session\.step")]
)
def test_a_session_without_a_learned_batch_says_so(rows, hint):
    with pytest.raises(ValueError, match=hint):
        probes.forgetting(fake_session(rows))


def test_no_session_at_all_is_an_error():
    with pytest.raises(ValueError, match="at least one"):
        probes.forgetting([])


def test_an_unknown_scorer_names_the_measured_ones(session):
    with pytest.raises(ValueError, match="generated, teacher_forced"):
        probes.forgetting(session, scorer="bleu")


def test_a_stored_frame_gives_the_same_table(session):
    stored = probes.measurements([session, fake_session(ROWS, "ROME", superseded={"a": 2})])
    again = probes.forgetting(stored)
    assert set(again["editor"]) == {"LEMoE scoped", "ROME"}
    assert one(again, editor="ROME", edit="a", metric="reliability")["superseded"]


def test_plain_metrics_will_do(session):
    frame = probes.forgetting(session.metrics)
    assert len(frame) == len(probes.forgetting(session))


def test_a_frame_of_something_else_names_the_missing_columns():
    with pytest.raises(ValueError, match="step, batch"):
        probes.forgetting(pd.DataFrame({"value": [1.0]}))


def test_forgetting_matrix_is_tidy(session):
    matrix = probes.forgetting_matrix(session)
    cells = matrix.set_index(["measured_after", "batch"])["value"].to_dict()
    assert cells == {(1, 1): 1.0, (2, 1): 0.5, (2, 2): 1.0}
    assert matrix.set_index("batch")["edits"].to_dict() == {1: 2, 2: 1}


def test_forgetting_matrix_drops_superseded_edits(session):
    matrix = probes.forgetting_matrix(fake_session(ROWS, superseded={"a": 2}))
    assert one(matrix, measured_after=2, batch=1)["value"] == 1.0


def test_summary_of_one_session(session):
    row = probes.forgetting_summary(probes.forgetting(session)).iloc[0]
    assert row["immediate"] == 1.0 and row["final"] == pytest.approx(2 / 3)
    assert row["average_forgetting"] == 0.5 and row["backward_transfer"] == -0.5
    assert (row["edits"], row["seeds"], row["superseded"]) == (3, 1, 0)


def test_summary_averages_over_seeds():
    perfect = [(*row[:-1], 1.0) for row in ROWS]
    frame = probes.forgetting([fake_session(ROWS, seed=1), fake_session(perfect, seed=2)])
    row = probes.forgetting_summary(frame).iloc[0]
    assert row["final"] == pytest.approx((2 / 3 + 1) / 2)
    assert row["average_forgetting"] == 0.25
    assert (row["edits"], row["seeds"]) == (3, 2)


def test_summary_with_the_whole_matrix_sees_a_peak_between_start_and_end():
    short = [
        *[reliability(1, 1, "a", 0.0), reliability(2, 2, "b", 1.0), reliability(3, 3, "c", 1.0)],
        *[reliability(3, 1, "a", 0.0), reliability(3, 2, "b", 1.0)],
    ]
    session = fake_session(short, full=[*short, reliability(2, 1, "a", 1.0)])
    frame = probes.forgetting(session)
    without = probes.forgetting_summary(frame).iloc[0]
    with_all = probes.forgetting_summary(frame, probes.forgetting_matrix(session)).iloc[0]
    assert without["average_forgetting"] == 0.0
    assert with_all["average_forgetting"] == 0.5
    assert with_all["backward_transfer"] == without["backward_transfer"] == 0.0


def test_being_replaced_is_not_being_forgotten():
    frame = probes.forgetting(fake_session(ROWS, superseded={"a": 2}))
    row = probes.forgetting_summary(frame).iloc[0]
    assert row["final"] == 1.0 and row["average_forgetting"] == 0.0 and row["superseded"] == 1


def test_locality_reports_final_values_by_group(session):
    frame = probes.locality(session)
    assert one(frame, edit="a", group="near")["value"] == 0.0
    assert {"editor", "order", "seed", "group", "edit", "value"} <= set(frame.columns)


def test_neutral_text_is_reported_with_either_scorer(session):
    row = one(probes.locality(session, scorer="generated"), group="text")
    assert row["value"] == 0.8 and row["scorer"] == "teacher_forced"


def test_locality_that_was_not_measured_is_an_error():
    with pytest.raises(ValueError, match=r"session\.evaluate"):
        probes.locality(fake_session([reliability(1, 1, "a", 1.0)]))


def test_runs_of_one_name_are_told_apart_by_their_number(two_runs):
    frame = probes.forgetting(two_runs)
    assert one(frame, run=0, edit="a").final == 0.0
    assert one(frame, run=1, edit="a").final == 1.0


def test_summary_of_numbered_runs_averages_them_and_counts_the_seeds(two_runs):
    matrix = probes.forgetting_matrix(two_runs)
    summary = one(probes.forgetting_summary(probes.forgetting(two_runs), matrix))
    assert (summary.final, summary.average_forgetting) == (0.75, 0.5)
    assert (summary.edits, summary.seeds) == (2, 1)
