"""The routing probe on hand-made tables and on small sessions."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

import lemoe_lab as ll
from lemoe_lab import Edit, EditSession, editors, probes
from lemoe_lab.probes.bootstrap import interval, mean

COLUMNS = [
    *["editor", "order", "seed", "step", "batch", "edit", "group", "prompt", "expert", "gate"],
    *["similarity", "trained_expert", "experts", "frozen", "superseded"],
]


def route(edit, step, expert, trained, batch=1, **others):
    """One row of the routing frame."""
    defaults = {
        **{"editor": "MoE adaptor", "order": "random", "seed": 1, "step": step, "batch": batch},
        **{"edit": edit, "group": "", "prompt": 0, "expert": expert, "gate": 1.0},
        **{"similarity": 1.0, "trained_expert": trained, "experts": 3, "frozen": False},
        "superseded": False,
    }
    return defaults | others


def frame_of(*rows):
    return pd.DataFrame(rows)[COLUMNS]


@pytest.fixture
def frame():
    """Four edits after two steps: b leaves expert 0, c (batch 2) goes nowhere, d stays."""
    return frame_of(
        *[route("a", 1, 0, 0), route("b", 1, 0, 0)],
        *[route("a", 2, 0, 0), route("b", 2, 1, 0)],
        *[route("c", 2, -1, 1, 2), route("d", 2, 1, 1, 2)],
    )


def scores(*rows):
    """A forgetting frame from (edit, immediate, final)."""
    run = {"editor": "MoE adaptor", "order": "random", "seed": 1, "scorer": "generated"}
    item = {"batch": 1, "metric": "reliability", "group": "", "superseded": False}
    return pd.DataFrame([run | item | {"edit": e, "immediate": i, "final": f} for e, i, f in rows])


# Hand-made tables


def test_matrix_rows_are_shares_by_the_expert_that_learned(frame):
    matrix = probes.routing_matrix(frame)
    assert list(matrix.index) == [0, 1, 2]
    assert list(matrix.columns) == [0, 1, 2, "bypass"]
    assert matrix.loc[0].tolist() == [0.5, 0.5, 0, 0]
    assert matrix.loc[1].tolist() == [0, 0.5, 0, 0.5]


def test_matrix_row_of_an_expert_that_learned_nothing_is_nan(frame):
    assert probes.routing_matrix(frame).loc[2].isna().all()


def test_matrix_has_a_bypass_column_only_if_something_was_bypassed(frame):
    assert "bypass" not in probes.routing_matrix(frame[frame["edit"] != "c"])


def test_matrix_shows_an_earlier_step_when_asked(frame):
    assert probes.routing_matrix(frame, step=1).loc[0].tolist() == [1, 0, 0]
    with pytest.raises(ValueError, match="step 5 is not in the frame"):
        probes.routing_matrix(frame, step=5)


def test_matrix_refuses_to_mix_editors(frame):
    with pytest.raises(ValueError, match="one editor.*filter"):
        probes.routing_matrix(pd.concat([frame, frame.assign(editor="LEMoE scoped")]))


def test_matrix_of_unknown_prompts_names_the_known_groups(frame):
    with pytest.raises(ValueError, match="'light'.*''"):
        probes.routing_matrix(frame, group="light")


def test_superseded_edits_count_no_longer(frame):
    frame.loc[(frame["edit"] == "b") & (frame["step"] == 2), "superseded"] = True
    assert probes.routing_matrix(frame).loc[0].tolist() == [1, 0, 0, 0]
    after = probes.routing_consistency(frame).set_index("step")
    assert after["edits"].to_dict() == {1: 2, 2: 3}


def test_consistency_counts_the_edits_at_home_after_every_step(frame):
    table = probes.routing_consistency(frame)
    assert table[["step", "edits", "value"]].to_numpy().tolist() == [[1, 2, 1.0], [2, 4, 0.5]]


def test_consistency_averages_the_rephrases_of_an_edit_first():
    frame = frame_of(
        route("a", 1, 0, 0, group="light", prompt=1),
        route("a", 1, 2, 0, group="light", prompt=2),
        route("b", 1, 0, 0, group="light", prompt=1),
    )
    assert probes.routing_consistency(frame, "light")["value"].tolist() == [0.75]


def test_summary_reports_the_last_step_with_an_interval_around_it(frame):
    row = probes.routing_summary(frame).iloc[0]
    assert (row["consistency"], row["edits"], row["seeds"], row["bypassed"]) == (0.5, 4, 1, 0.25)
    assert row["low"] <= 0.5 <= row["high"] and row["low"] < row["high"]


def test_summary_interval_over_seeds_needs_several(frame):
    row = probes.routing_summary(frame, over="seeds").iloc[0]
    assert math.isnan(row["low"]) and math.isnan(row["high"])
    other = frame.assign(seed=2, expert=frame["trained_expert"])
    row = probes.routing_summary(pd.concat([frame, other]), over="seeds").iloc[0]
    assert (row["consistency"], row["low"], row["high"]) == (0.75, 0.5, 1.0)


def test_summary_refuses_an_unknown_unit(frame):
    with pytest.raises(ValueError, match='"edits" or "seeds", not \'orders\''):
        probes.routing_summary(frame, over="orders")


@pytest.mark.parametrize(
    ("experts_used", "expected"),
    [
        ([0, 1, 2], 1.0),
        ([1, 1, 1], 0.0),
        ([0, 0, 1, 1], math.log(2) / math.log(3)),
        ([0, -1, 1, -1], math.log(2) / math.log(3)),
    ],
)
def test_entropy_is_one_for_even_use_and_zero_for_one_expert(experts_used, expected):
    rows = [route(str(i), 1, expert, 0) for i, expert in enumerate(experts_used)]
    row = probes.routing_entropy(frame_of(*rows)).iloc[0]
    assert row["entropy"] == pytest.approx(expected)
    assert row["bypassed"] == experts_used.count(-1) / len(experts_used)


def test_entropy_is_undefined_for_a_single_expert_or_when_all_is_bypassed():
    single = frame_of(route("a", 1, 0, 0, experts=1))
    nowhere = frame_of(route("a", 1, -1, 0))
    for table in map(probes.routing_entropy, (single, nowhere)):
        assert math.isnan(table["entropy"].iloc[0])


def test_a_lost_edit_at_another_expert_was_rerouted_and_one_at_home_overwritten(frame):
    lost = probes.lost_edits(frame, scores(("a", 1, 0), ("b", 1, 0), ("c", 1, 0), ("d", 1, 1)))
    assert lost.set_index("edit")["cause"].to_dict() == {
        "a": "overwritten",
        "b": "rerouted",
        "c": "rerouted",
    }


def test_a_lost_edit_at_its_own_frozen_expert_was_reweighted(frame):
    frame = frame.assign(frozen=True, gate=np.where(frame["step"] == 1, 0.9, 0.4))
    row = probes.lost_edits(frame, scores(("a", 1, 0))).iloc[0]
    assert row["cause"] == "reweighted"
    assert (row["gate_at_training"], row["gate"]) == (0.9, 0.4)


def test_causes_are_shares_of_the_lost_edits_alone(frame):
    table = probes.forgetting_causes(
        frame, scores(("a", 1, 0), ("b", 1, 0), ("c", 0, 0), ("d", 1, 1))
    )
    row = table.iloc[0]
    assert (row["learned"], row["lost"]) == (3, 2)
    assert (row["rerouted"], row["overwritten"], row["reweighted"]) == (0.5, 0.5, 0)


def test_causes_are_undefined_where_nothing_was_lost(frame):
    row = probes.forgetting_causes(frame, scores(("a", 1, 1), ("b", 1, 1))).iloc[0]
    assert row["lost"] == 0 and math.isnan(row["rerouted"])


def test_causes_need_the_same_runs_in_both_frames(frame):
    with pytest.raises(ValueError, match="same sessions"):
        probes.forgetting_causes(frame.assign(seed=7), scores(("a", 1, 0)))
    with pytest.raises(ValueError, match="same sessions"):
        probes.forgetting_causes(frame, scores(("unknown", 1, 0)))


def test_bootstrap_is_decided_by_its_seed():
    values = np.random.default_rng(3).random(30)
    assert interval(mean, values, seed=1) == interval(mean, values, seed=1)
    assert interval(mean, values, seed=1) != interval(mean, values, seed=2)


def test_bootstrap_interval_of_a_mean_is_about_two_standard_errors_wide():
    values = np.random.default_rng(0).normal(size=400)
    low, high = interval(mean, values)
    assert (high - low) / 2 == pytest.approx(1.96 * values.std() / 20, rel=0.1)


def test_bootstrap_of_one_value_is_undefined():
    assert np.isnan(interval(mean, np.array([0.5]))).all()


# Sessions


def unmeasured(session):
    """The session, quicker: it learns without asking every question after each batch."""
    session.evaluator.measure = lambda *_, **__: []
    return session


@pytest.fixture(scope="module")
def probed(host, stream):
    """A scoped LEMoE over three batches: its routes, its scores, and the session, closed."""
    with EditSession(host, editors.LEMoE(steps=10), stream, progress=False) as session:
        session.run()
        routes = probes.routing(session)
    return routes, probes.forgetting(session), session


def test_every_prompt_is_followed_from_its_batch_to_the_last_step(probed, stream):
    routes, _, _ = probed
    assert list(routes.columns) == COLUMNS
    followed = routes.groupby("edit")["step"].unique().map(list).to_dict()
    for batch in stream:
        for edit in batch:
            assert followed[edit.id] == list(range(batch.step, 4))
    prompts = routes[routes["step"] == 3].groupby("edit")["prompt"].nunique()
    assert prompts.to_dict() == {edit.id: 1 + len(edit.rephrases) for edit in stream.edits}


def test_scoped_routing_is_exactly_diagonal(probed):
    routes, _, _ = probed
    own = routes[routes["group"] == ""]
    assert (own["trained_expert"] == own["batch"] - 1).all()
    assert (probes.routing_matrix(routes).to_numpy() == np.eye(3)).all()


def test_routes_are_those_that_the_editor_had_at_each_step(host, stream):
    editor = editors.LEMoE(steps=10, routing="kv_anchor")
    prompts = [edit.prompt for edit in stream.batches[0]]
    then = {}
    with EditSession(host, editor, stream, progress=False) as session:
        for step in (1, 2, 3):
            unmeasured(session).step()
            then[step] = editor.routes(editor.prompt_features(prompts)).gate[:, 0].tolist()
        routes = probes.routing(session)
        assert session.steps == 3
    own = routes[(routes["group"] == "") & (routes["batch"] == 1)]
    assert {step: rows["gate"].tolist() for step, rows in own.groupby("step")} == then


def test_probing_changes_nothing(host, stream):
    with EditSession(host, editors.MoEAdaptor(steps=5), stream, progress=False) as session:
        session.jump(2)
        before, asked = session.metrics, [edit.prompt for edit in stream.edits]
        answers = host.generate(asked)
        probes.routing(session)
        assert session.steps == 2
        assert session.metrics.equals(before)
        assert host.generate(asked) == answers


def test_batch_mode_has_one_step_and_the_routes_of_training(host, stream):
    merged = stream.merged()
    with EditSession(host, editors.MoEAdaptor(steps=5), merged, progress=False) as session:
        unmeasured(session).run()
        routes = probes.routing(session)
        trained = session.reports[0]["experts"]
    own = routes[routes["group"] == ""]
    assert set(own["step"]) == {1} and set(own["order"]) == {"all at once"}
    assert own["trained_expert"].tolist() == trained
    assert own["experts"].eq(4).all()


def test_batches_that_share_one_expert_all_stay_there(host, stream):
    editor = editors.LEMoE(steps=5, insert=False)
    with EditSession(host, editor, stream, progress=False) as session:
        unmeasured(session).run()
        routes = probes.routing(session)
    assert probes.routing_matrix(routes).to_numpy().tolist() == [[1.0]]
    assert not routes["frozen"].any()


def test_an_edit_is_superseded_from_the_step_that_replaces_it(host, stream):
    old = stream.batches[0].edits[0]
    newer = Edit(id="newer", prompt=old.prompt, target="Somebody Else")
    with EditSession(host, editors.LEMoE(steps=5), stream, progress=False) as session:
        unmeasured(session).jump(3)
        session.add_batch([newer])
        session.step()
        routes = probes.routing(session)
    of_old = routes[routes["edit"] == old.id].groupby("step")["superseded"].all()
    assert of_old.to_dict() == {1: False, 2: False, 3: False, 4: True}
    assert probes.routing_consistency(routes)["value"].eq(1).all()


def test_a_closed_session_asks_to_be_probed_inside_its_block(probed):
    _, _, session = probed
    with pytest.raises(ValueError, match="inside the `with` block"):
        probes.routing(session)


def test_a_session_without_a_batch_says_what_to_do(host, stream):
    with (
        EditSession(host, editors.LEMoE(steps=5), stream, progress=False) as session,
        pytest.raises(ValueError, match=r"session\.step"),
    ):
        probes.routing(session)


def test_a_stored_frame_is_refused(probed):
    routes, _, _ = probed
    with pytest.raises(ValueError, match="open session, not a frame"):
        probes.routing(routes)


def test_an_editor_without_experts_is_refused_by_name(host, stream, monkeypatch):
    with EditSession(host, editors.LEMoE(steps=5), stream, progress=False) as session:
        unmeasured(session).step()
        monkeypatch.setitem(session.reports[0], "experts", [])
        with pytest.raises(ValueError, match="LEMoE scoped does not route"):
            probes.routing(session)


def test_labels_stand_in_for_the_editors_name(host, stream):
    with EditSession(host, editors.LEMoE(steps=5), stream, progress=False) as session:
        unmeasured(session).step()
        assert set(probes.routing({"mine": session})["editor"]) == {"mine"}


def test_nothing_is_lost_with_scoped_routing(probed):
    routes, forgetting, _ = probed
    assert probes.forgetting_causes(routes, forgetting)["lost"].tolist() == [0]


def test_every_loss_of_the_literal_anchor_has_a_cause(host, stream):
    editor = ll.editors.LEMoE(routing="kv_anchor", steps=30)
    with EditSession(host, editor, stream, progress=False) as session:
        session.run()
        routes, forgetting = probes.routing(session), probes.forgetting(session)
    row = probes.forgetting_causes(routes, forgetting).iloc[0]
    assert row["lost"] > 0 and row["overwritten"] == 0
    assert row["rerouted"] + row["reweighted"] == pytest.approx(1)
