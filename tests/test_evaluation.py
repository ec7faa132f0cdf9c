"""What the table of measurements says, beside the same questions asked of the host by hand."""

from __future__ import annotations

from collections import defaultdict

import pandas as pd
import pytest
import torch

import lemoe_lab as ll
from lemoe_lab import EditSession, EditStream, LocalityPrompt
from lemoe_lab.evaluation import Evaluator, target_perplexity
from lemoe_lab.metrics import perplexity, perplexity_ratio

PASSAGE = LocalityPrompt(
    prompt="The quiet cat waited behind", target="the fence until it rained.", group="text"
)
STARTED = LocalityPrompt(prompt="It rained in the garden, and", group="text")


@pytest.fixture(scope="module")
def small(stream) -> EditStream:
    """Two batches of three edits; one of them has a passage that goes on as it may."""
    groups = [list(batch.edits[:3]) for batch in stream.batches[:2]]
    first = groups[0][0]
    groups[0][0] = first.model_copy(update={"locality": (*first.locality, PASSAGE, STARTED)})
    return stream.with_groups(groups)


@pytest.fixture(scope="module")
def measured(small):
    """A mixture that spoils what it was not asked to change, measured after both batches."""
    host = ll.load_host("almanac")  # one of its own, edited while the others are not
    editor = ll.editors.MoEAdaptor(steps=15)
    with EditSession(host, editor, small, progress=False) as session:
        yield session, session.run().query("step == 2")


def by_question(frame: pd.DataFrame, metric: str, scorer: str) -> dict:
    """Sorted values of every edit and group."""
    rows = frame[(frame["metric"] == metric) & (frame["scorer"] == scorer)]
    return {key: sorted(values) for key, values in rows.groupby(["edit", "group"])["value"]}


def approximately(expected: dict) -> dict:
    return {key: pytest.approx(sorted(values), abs=1e-4) for key, values in expected.items()}


def test_every_question_has_a_row_for_every_scorer(measured, small):
    _, table = measured
    for edit in small.edits:
        own = table[table["edit"] == edit.id]
        passages = sum(other.group == "text" for other in edit.locality)
        questions = 1 + len(edit.rephrases) + len(edit.locality)
        counts = own["scorer"].value_counts()
        assert counts["teacher_forced"] == questions
        assert counts["generated"] == questions - passages
        groups = own[own["scorer"] == "teacher_forced"]["group"].value_counts().to_dict()
        expected = defaultdict(int, {"": 1})
        for other in (*edit.rephrases, *edit.locality):
            expected[other.group] += 1
        assert groups == expected
    assert table.groupby("batch")["edit"].unique().map(set).to_dict() == {
        batch.step: {edit.id for edit in batch} for batch in small
    }


def test_teacher_forced_generality_is_the_share_of_target_tokens(measured, small):
    session, table = measured
    expected = defaultdict(list)
    for edit in small.edits:
        for other in edit.rephrases:
            (score,) = session.host.score([other.prompt], [edit.target])
            expected[edit.id, other.group].append(score.accuracy)
    found = by_question(table, "generality", "teacher_forced")
    assert found == approximately(expected)
    assert {value for values in found.values() for value in values} - {0.0, 1.0}


def test_teacher_forced_locality_is_the_share_of_tokens_that_stayed(measured, small):
    """Of what the unedited host answers, fed in after the prompt."""
    session, table = measured
    host = session.host
    asked = [(e.id, o) for e in small.edits for o in e.locality if o.group != "text"]
    prompts = [other.prompt for _, other in asked]
    with session.editor.disabled():
        answers = host.generate(prompts)
        before = host.score(prompts, answers)
    after = host.score(prompts, answers)
    expected = defaultdict(list)
    for (edit, other), one, two in zip(asked, before, after, strict=True):
        kept = (one.predicted == two.predicted)[:-1]
        expected[edit, other.group].append(kept.float().mean().item())
    found = by_question(table[table["group"] != "text"], "locality", "teacher_forced")
    assert found == approximately(expected)
    assert len({value for values in found.values() for value in values}) > 2


def test_a_passage_is_worth_the_ratio_of_its_perplexities(measured, small):
    session, table = measured
    host, expected = session.host, defaultdict(list)
    for edit in small.edits:
        for other in edit.locality:
            if other.group != "text":
                continue
            with session.editor.disabled():
                text = other.target or host.generate(other.prompt)
                (before,) = host.score([other.prompt], [text])
            (after,) = host.score([other.prompt], [text])
            ratio = perplexity_ratio(
                perplexity(before.log_probabilities[:-1]),
                perplexity(after.log_probabilities[:-1]),
            )
            expected[edit.id, "text"].append(ratio)
    texts = table[table["group"] == "text"]
    assert by_question(texts, "locality", "teacher_forced") == approximately(expected)
    assert set(texts["scorer"]) == {"teacher_forced"}


def test_locality_compares_with_the_unedited_host_whatever_a_data_set_expects(host, small):
    edit = small.edits[0]
    wrong = LocalityPrompt(prompt=STARTED.prompt, target="an answer of its own", group="near")
    other = small.with_groups([[edit.model_copy(update={"locality": (wrong,)})]])
    with EditSession(host, ll.editors.LEMoE(steps=5), other, progress=False) as session:
        session.step()
        values = session.metrics.query("metric == 'locality'").set_index("scorer")["value"]
    assert values.to_dict() == {"teacher_forced": 1.0, "generated": 1.0}


@pytest.mark.parametrize("batch_size", [1, 4])
def test_lots_of_any_size_measure_the_same(measured, small, batch_size):
    session, table = measured
    in_lots = Evaluator(session.host, session.editor, batch_size=batch_size)
    rows = pd.DataFrame(in_lots.measure(small.batches, 2), columns=table.columns)
    key = [column for column in table if column != "value"]
    pd.testing.assert_frame_equal(
        rows.sort_values([*key, "value"]).reset_index(drop=True),
        table.sort_values([*key, "value"]).reset_index(drop=True),
        atol=1e-4,
    )


def test_one_batch_is_measured_as_among_others(measured, small):
    session, _ = measured
    second = small.batches[1]
    alone = session.evaluator.measure(second, 2)
    both = session.evaluator.measure(small.batches, 2)
    assert alone == [row for row in both if row[1] == 2]


def test_only_wanted_metrics_are_measured_and_the_rest_later(host, small):
    editor = ll.editors.LEMoE(steps=3)
    with EditSession(host, editor, small, progress=False, immediate=()) as session:
        session.step()
        first = session.evaluate(["reliability"])
        assert set(first["metric"]) == {"reliability"}
        later = session.evaluate(["locality"])
        assert set(later["metric"]) == {"reliability", "locality"}
        assert later.query("metric == 'reliability'").equals(first)


def test_what_kept_its_route_is_not_run_again_after_later_batches(host, small, monkeypatch):
    runs = []
    finish, ask = host.finish, host.exact_match
    with EditSession(host, ll.editors.LEMoE(steps=10), small, progress=False) as session:
        session.jump(2)
        monkeypatch.setattr(host, "finish", lambda *a, **k: runs.append(1) or finish(*a, **k))
        monkeypatch.setattr(host, "exact_match", lambda *a, **k: runs.append(1) or ask(*a, **k))
        first = session.evaluate(["reliability"])
        assert set(first.query("step == 2")["batch"]) == {1, 2}
        assert runs == []
        session.evaluator.reuse = False
        assert session.evaluate(["reliability"]).equals(first)
        assert runs


def test_an_edited_batch_that_changes_is_asked_anew(host, small):
    editor = ll.editors.LEMoE(steps=10)
    with EditSession(host, editor, small, progress=False) as session:
        session.step()
        changed = small.batches[0].model_copy(update={"edits": small.batches[0].edits[:1]})
        rows = session.evaluator.measure(changed, 1)
        assert {row[2] for row in rows} == {small.edits[0].id}
        session.evaluator.forget(1)
        assert session.evaluator.measure(changed, 1) == rows


def test_pauses_between_two_parts_of_the_work_find_the_edited_host(host, small):
    answers, prompt = set(), small.edits[0].prompt
    with EditSession(host, ll.editors.LEMoE(), small, progress=False) as session:
        session.step(checkpoint=lambda: answers.add(host.generate(prompt)))
    assert answers == {small.edits[0].target}


def test_target_perplexity_is_that_of_the_targets_tokens_alone(host, small):
    edits = small.edits[:2]
    table = target_perplexity(host, edits)
    expected = []
    for edit in edits:
        asked = [("reliability", "", edit.prompt)]
        asked += [("generality", other.group, other.prompt) for other in edit.rephrases]
        for metric, group, prompt in asked:
            (score,) = host.score([prompt], [edit.target])
            surprise = -score.log_probabilities[:-1].double().mean()
            expected.append((edit.id, metric, group, torch.exp(surprise).item()))
    assert list(table.columns) == ["edit", "metric", "group", "perplexity"]
    assert list(table[["edit", "metric", "group"]].itertuples(index=False, name=None)) == [
        row[:3] for row in expected
    ]
    assert table["perplexity"].tolist() == pytest.approx([row[3] for row in expected], rel=1e-3)
