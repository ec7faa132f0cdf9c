"""The order probe on hand-made tables and on small sessions."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from lemoe_lab import EditSession, EditStream, editors, planning, probes
from lemoe_lab.edits import Edit
from lemoe_lab.metrics import COLUMNS
from lemoe_lab.probes.bootstrap import interval, spearman

EDITS = [Edit(id=name, prompt=f"Ask {name}", target="yes") for name in "abcd"]


class Corner:
    """A host for which a and b are alike, and c and d."""

    def embed(self, prompts):
        import torch

        return torch.tensor([[1.0, 0.0] if p[-1] in "ab" else [0.0, 1.0] for p in prompts])


def finished(final, order="random", editor="MoE adaptor", names="abcd"):
    """A session of two batches of two edits that end with the values ``final``, by edit."""
    by_id = {edit.id: edit for edit in EDITS}
    stream = EditStream.from_edits([by_id[name] for name in names], 2, order=order, seed=1)
    rows = []
    for batch in stream:
        for edit in batch:
            for step in {batch.step, 2}:
                value = 1.0 if step == batch.step else final[edit.id]
                rows += [
                    (step, batch.step, edit.id, "reliability", "", "generated", value),
                    (step, batch.step, edit.id, "generality", "light", "generated", value / 2),
                    (step, batch.step, edit.id, "locality", "near", "generated", 0.25),
                ]
    return SimpleNamespace(
        metrics=pd.DataFrame(rows, columns=list(COLUMNS)),
        stream=stream,
        host=Corner(),
        editor=SimpleNamespace(name=editor),
    )


KEPT = {"a": 1.0, "b": 1.0, "c": 1.0, "d": 1.0}
HALF = {"a": 0.0, "b": 0.0, "c": 1.0, "d": 1.0}


def runs(values, within=None, editor="MoE adaptor"):
    """A frame of the order probe with these final reliabilities."""
    within = list(range(len(values))) if within is None else within
    return pd.DataFrame(
        {
            "editor": editor,
            "order": "random",
            "seed": 0,
            "run": range(len(values)),
            "reliability": values,
            "within": within,
            "between": [-x for x in within],
        }
    )


# The table


def test_a_run_is_one_row_with_its_final_values():
    row = probes.order(finished(HALF)).iloc[0]
    assert (row["editor"], row["order"], row["seed"], row["run"]) == ("MoE adaptor", "random", 1, 0)
    assert (row["edits"], row["batches"], row["scorer"]) == (4, 2, "generated")
    assert (row["immediate"], row["reliability"]) == (1.0, 0.5)
    assert row["generality_light"] == pytest.approx((0 + 0 + 0.5 + 0.5) / 4)
    assert row["locality_near"] == 0.25


def test_runs_of_one_editor_order_and_seed_are_numbered():
    frame = probes.order([finished(KEPT), finished(HALF), finished(HALF, "k-means")])
    assert frame[["order", "run"]].to_numpy().tolist() == [
        ["random", 0],
        ["random", 1],
        ["k-means", 0],
    ]
    assert frame["reliability"].tolist() == [1.0, 0.5, 0.5]


def test_sessions_bring_their_similarities():
    alike, mixed = probes.order([finished(KEPT), finished(KEPT, names="acbd")])["within"]
    assert (alike, mixed) == pytest.approx((1, -1))


def test_a_stored_frame_gives_the_same_rows_with_similarities_from_a_table():
    sessions = [finished(KEPT, "topic"), finished(HALF, "mixed", names="acbd")]
    table = pd.DataFrame([planning.similarity(s.stream, s.host) for s in sessions])
    stored = probes.measurements(sessions)
    pd.testing.assert_frame_equal(probes.order(stored, table), probes.order(sessions))
    assert "within" not in probes.order(stored)


def test_a_stored_frame_tells_runs_apart_by_a_column():
    sessions = [finished(KEPT), finished(HALF, names="acbd")]
    tables = [probes.measurements(s).assign(run=i) for i, s in enumerate(sessions)]
    stored = pd.concat(tables)
    similar = pd.DataFrame(
        [planning.similarity(s.stream, s.host) | {"run": i} for i, s in enumerate(sessions)]
    )
    pd.testing.assert_frame_equal(probes.order(stored, similar), probes.order(sessions))


def test_two_runs_under_one_name_are_found_out():
    mixed = pd.concat(map(probes.measurements, (finished(KEPT), finished(HALF, names="acbd"))))
    with pytest.raises(ValueError, match="measured twice.*column `run`"):
        probes.order(mixed)


def test_similarities_must_fit_the_runs():
    stored = probes.measurements(finished(KEPT))
    rows = pd.DataFrame({"order": ["random", "random"], "within": [0, 1], "between": [0, 1]})
    with pytest.raises(ValueError, match="several rows"):
        probes.order(stored, rows)
    with pytest.raises(ValueError, match="no row for"):
        probes.order(stored, rows.iloc[:1].assign(order="topic"))
    with pytest.raises(ValueError, match="lacks the columns between"):
        probes.order(stored, rows.drop(columns="between"))


def test_no_session_is_an_error():
    with pytest.raises(ValueError, match="at least one"):
        probes.order([])


# Computing


def test_summary_gives_the_spread_between_best_and_worst_order():
    frame = pd.concat([runs([0.5, 0.7, 0.9]), runs([1.0, 1.0], editor="LEMoE scoped")])
    moe, scoped = probes.order_summary(frame).to_dict("records")
    assert (moe["orders"], moe["min"], moe["max"]) == (3, 0.5, 0.9)
    assert moe["mean"] == pytest.approx(0.7) and moe["spread"] == pytest.approx(0.4)
    assert scoped["editor"] == "LEMoE scoped" and scoped["spread"] == 0


def test_correlation_is_that_of_scipy():
    rng = np.random.default_rng(5)
    within, values = rng.random(20), rng.random(20).round(1)  # with ties
    table = probes.similarity_correlation(runs(values, within)).set_index("similarity")
    expected = stats.spearmanr(within, values).statistic
    assert table.loc["within", "rho"] == pytest.approx(expected)
    assert table.loc["between", "rho"] == pytest.approx(-expected)


def test_correlation_of_a_monotone_relation_is_one_with_a_tight_interval():
    row = probes.similarity_correlation(runs(np.linspace(0, 1, 12) ** 3)).iloc[0]
    assert (row["rho"], row["low"], row["high"]) == pytest.approx((1, 1, 1))


def test_correlation_interval_holds_rho_and_is_decided_by_the_seed():
    rng = np.random.default_rng(1)
    within = rng.random(25)
    frame = runs(within + rng.normal(size=25), within)
    first = probes.similarity_correlation(frame, seed=1)
    assert first.equals(probes.similarity_correlation(frame, seed=1))
    assert not first.equals(probes.similarity_correlation(frame, seed=2))
    row = first.iloc[0]
    assert row["low"] < row["rho"] < row["high"]


def test_correlation_interval_is_about_that_of_scipys_bootstrap():
    rng = np.random.default_rng(2)
    x = rng.random(30)
    y = x + 0.5 * rng.normal(size=30)
    ours = interval(spearman, x, y, resamples=4000)
    theirs = stats.bootstrap(
        (x, y),
        lambda a, b, axis=-1: spearman(a, b),
        paired=True,
        vectorized=True,
        method="percentile",
        n_resamples=4000,
    ).confidence_interval
    assert ours == pytest.approx(theirs, abs=0.03)


def test_correlation_is_undefined_where_all_orders_end_alike():
    row = probes.similarity_correlation(runs([1.0] * 8)).iloc[0]
    assert all(math.isnan(row[name]) for name in ("rho", "low", "high"))


def test_correlation_of_two_orders_is_undefined():
    assert probes.similarity_correlation(runs([0.1, 0.9]))["rho"].isna().all()


def test_rounding_noise_is_a_tie():
    assert math.isnan(spearman(np.array([0.1, 0.2, 0.3]), 1 + np.array([0, 1e-12, 2e-12])))


# Sessions


def test_orders_of_a_real_stream(host, stream):
    short = stream.with_groups([batch.edits for batch in stream.batches[:2]])
    sessions = []
    for planner in (planning.RandomOrder(seed=0), planning.RandomOrder(seed=1)):
        planned = planner.plan(short, host)
        with EditSession(host, editors.LEMoE(), planned, progress=False) as session:
            session.run()
        sessions.append(session)
    frame = probes.order(sessions)
    assert frame["run"].tolist() == [0, 1]
    assert frame["within"].nunique() == 2
    assert probes.order_summary(frame)["spread"].iloc[0] == 0
    named = {"generality_light", "generality_strong", "locality_near", "locality_far"}
    assert named <= set(frame.columns)
