"""The order playground: batches form, orders run in slices, runs are compared."""

import asyncio
import base64

import numpy as np
import pandas as pd
import pytest
from helpers import traces

import lemoe_lab as ll
from lemoe_lab.widgets.common.elements import table_html
from lemoe_lab.widgets.playground.model import (
    COLUMNS,
    MOST_RUNS,
    Order,
    OrderRun,
    PlaygroundModel,
)
from lemoe_lab.widgets.playground.playground import OrderPlayground
from lemoe_lab.widgets.playground.views import runs_note, runs_shown

EDITOR = {"steps": 3, "experts": 2}
NAME = "MoE adaptor"
SCRIPT = "<script>document.title = 'run'</script>"


@pytest.fixture
def model(stream, host):
    """Two batches of four edits, and an editor that needs no calibration."""
    model = PlaygroundModel(stream, host, ll.editors.MoEAdaptor(**EDITOR), edits=8)
    model.choose(batch_size=4)
    yield model
    model.stop()


def finished(model, number: int, **changes: object) -> None:
    """Put a run into the table as if it had been learned."""
    row = dict.fromkeys(COLUMNS[1:-1], 0.5) | {
        "editor": NAME,
        "order": "random",
        "batch_size": 4,
        "batches": 2,
        "edits": 8,
        "order_seed": 3,
        "editor_seed": 0,
    }
    model.runs.append(OrderRun(number, row | changes))
    model.tell("runs")


def partition(stream) -> list[list[str]]:
    return [[edit.id for edit in batch] for batch in stream]


# Planning


@pytest.mark.parametrize("planner", ["as given", "random", "topic", "k-means", "mixed"])
def test_every_planner_keeps_the_edits_and_the_batch_size(model, planner):
    model.choose(planner=planner, batch_size=3, seed=1)
    wanted = sorted(edit.id for edit in model.source.edits[:8])
    assert sorted(edit for batch in partition(model.stream) for edit in batch) == wanted
    assert [len(batch) for batch in model.stream] == [3, 3, 2]


def test_an_order_is_what_the_planner_gives(model, host):
    model.choose(planner="k-means", seed=5)
    source = ll.EditStream.from_edits(model.source.edits[:8], 4)
    expected = ll.planning.KMeansOrder(seed=5).plan(source, host)
    assert partition(model.stream) == partition(expected)


def test_the_seed_decides_the_random_order(model):
    model.choose(planner="random", seed=1)
    first = partition(model.stream)
    model.choose(seed=2)
    assert partition(model.stream) != first
    model.choose(seed=1)
    assert partition(model.stream) == first


def test_clusters_are_more_alike_inside_than_mixed_batches(model):
    model.choose(planner="k-means", edits=24, batch_size=6)
    alike = model.similarity["within"]
    model.choose(planner="mixed")
    assert alike > model.similarity["within"]


def test_batches_carry_their_size_and_their_similarity(model, host):
    model.choose(planner="k-means", batch_size=5)
    table = model.batches()
    assert table["edits"].tolist() == [5, 3]
    pairs = table["edits"] * (table["edits"] - 1) / 2
    mean = (table["within"] * pairs).sum() / pairs.sum()
    assert mean == pytest.approx(ll.planning.within_batch_similarity(model.stream, host))


def test_edits_stay_where_they_are_in_every_order(model):
    _, before = model.map()
    model.choose(planner="k-means", batch_size=2)
    _, after = model.map()
    assert all(np.array_equal(before[edit], after[edit]) for edit in before)


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"planner": "alphabetical"}, "planner must be one of as given, random"),
        ({"batch_size": 0}, "at least 1, not 0"),
        ({"edits": 0}, "between 1 and 24, not 0"),
        ({"edits": 25}, "between 1 and 24, not 25"),
    ],
)
def test_an_impossible_order_leaves_the_last_one(model, wanted, message):
    before, stream = model.order, model.stream
    with pytest.raises(ll.EditError, match=message):
        model.choose(**wanted)
    assert model.order == before and model.stream is stream


def test_fewer_edits_make_the_batch_smaller(model):
    model.choose(edits=3)
    assert model.order.batch_size == 3


def test_batches_form_one_by_one(model):
    model.form(1)
    assert model.formed == 1
    with pytest.raises(ll.EditError, match="between 0 and 2, not at 3"):
        model.form(3)


# Running


def test_a_run_measures_what_a_session_measures(model, host):
    model.choose(planner="random", seed=4)
    model.run(NAME, seed=2)
    model.wait()
    editor = ll.editors.MoEAdaptor(seed=2, **EDITOR)
    with ll.EditSession(host, editor, model.stream, progress=False) as session:
        session.run()
        expected = ll.probes.order(session).iloc[0]
    row = model.table().iloc[0]
    for measure in ("within", "between", "immediate", "reliability"):
        assert row[measure] == pytest.approx(expected[measure])
    both = expected[["generality_light", "generality_strong"]]
    assert row["generality"] == pytest.approx(both.mean())
    three = expected[["locality_same_subject", "locality_near", "locality_far"]]
    assert row["locality"] == pytest.approx(three.mean())
    assert (row["order_seed"], row["editor_seed"]) == (4, 2)


def test_a_run_goes_on_in_slices_and_tells_where_it_is(model):
    model.run(NAME)
    said, shares = set(), []
    while model.tick(0.001):
        said.add(model.running.doing.split(",")[0])
        shares.append(model.running.share)
    assert {"batch 1 of 2", "batch 2 of 2", "measuring everything once more"} <= said
    assert shares == sorted(shares) and shares[-1] == 1.0


def test_a_stopped_run_leaves_earlier_runs_and_a_free_host(model, host):
    before = traces(host)
    finished(model, 1)
    model.run(NAME)
    model.tick(0.001)
    assert model.running is not None
    model.stop()
    host.require_free()
    assert traces(host) == before
    assert model.table()["run"].tolist() == [1]


def test_calibration_can_be_stopped_between_two_of_its_steps(stream, host):
    facts = stream.calibration[1::2]  # facts that no other test calibrates with
    unseen = stream.model_copy(update={"calibration": facts})
    model = PlaygroundModel(unseen, host, ll.editors.LEMoE(steps=2), edits=4)
    model.run("LEMoE scoped")
    model.tick(0.0)
    doing = model.running.doing
    model.stop()
    host.require_free()
    assert "calibrating" in doing


def test_a_run_that_ends_gives_the_host_back(model, host):
    before = traces(host)
    model.run(NAME)
    model.wait()
    assert traces(host) == before


def test_another_order_can_be_planned_while_one_runs(model):
    model.run(NAME)
    model.tick(0.001)
    model.choose(planner="random", batch_size=2)
    model.wait()
    row = model.table().iloc[0]
    assert (row["order"], row["batch_size"], len(model.stream)) == ("as given", 4, 4)


def test_only_one_run_at_a_time(model):
    model.run(NAME)
    with pytest.raises(ll.EditError, match="stop it"):
        model.run(NAME)


def test_an_unknown_editor_is_refused(model):
    with pytest.raises(ll.EditError, match="editor must be one of MoE adaptor"):
        model.run("magic")


def test_a_host_in_use_is_not_taken(model, stream, host):
    with (
        ll.EditSession(host, ll.editors.MoEAdaptor(**EDITOR), stream, progress=False),
        pytest.raises(RuntimeError, match="close that session first"),
    ):
        model.run(NAME)
    assert model.running is None


def test_a_run_that_fails_leaves_the_playground_usable(model, host, monkeypatch):
    def fail(*_: object) -> None:
        raise ValueError("no such luck")

    with monkeypatch.context() as broken:
        broken.setattr(ll.editors.MoEAdaptor, "edit", fail)
        model.run(NAME)
        with pytest.raises(ValueError, match="no such luck"):
            model.wait()
    host.require_free()
    model.run(NAME)
    model.wait()
    assert len(model.runs) == 1


# Comparing


def test_pinned_runs_survive_a_clearing(model):
    for number in (1, 2, 3):
        finished(model, number)
    model.pin(2)
    model.clear()
    assert model.table()[["run", "pinned"]].values.tolist() == [[2, True]]


def test_the_oldest_run_without_a_pin_makes_room(model):
    for number in range(1, MOST_RUNS + 1):
        finished(model, number)
    model.pin(1)
    model._numbers = MOST_RUNS
    model._keep(model.runs[0].row)
    assert model.table()["run"].tolist() == [1, *range(3, MOST_RUNS + 2)]


def test_the_order_of_a_run_is_planned_again(model):
    finished(model, 1, order="random", batch_size=2, order_seed=7)
    model.show(1)
    assert model.order == Order("random", 2, 7, 8)


def test_a_run_that_is_not_there_is_named(model):
    with pytest.raises(ll.EditError, match="no run 9; the table has none"):
        model.pin(9)


def test_the_caption_of_the_runs_names_edits_seeds_and_scorer(model):
    finished(model, 1)
    text = runs_note(model.table())
    assert "n = 8 edits" in text and "seeds 0, 3" in text and "exact match" in text


def test_names_are_escaped_in_the_table():
    row = dict.fromkeys(COLUMNS, 0.5) | {"editor": SCRIPT, "order": "random", "pinned": True}
    text = table_html(runs_shown(pd.DataFrame([row])))
    assert "<script>" not in text and "&lt;script&gt;" in text


# The panel


@pytest.fixture
def panel(stream, host):
    panel = OrderPlayground(stream, host, ll.editors.MoEAdaptor(**EDITOR), edits=8)
    yield panel
    panel.model.stop()


def test_the_planner_and_the_slider_form_other_batches(panel):
    before = panel.view.value
    panel.planner.value = "random"
    panel.batch_size.value = 2
    assert panel.view.value != before
    assert panel.model.order == Order("random", 2, 0, 8)
    assert "random order, seed 0; 4 batches" in panel.facts.value
    assert panel.formed.max == panel.formed.value == 4


def test_the_seed_and_the_number_of_edits_are_chosen(panel):
    panel.seed.value, panel.edits.value = 3, 12
    assert (panel.model.order.seed, panel.model.order.edits) == (3, 12)
    assert panel.batch_size.max == 12


def test_batches_form_at_the_slider(panel):
    panel.batch_size.value = 2
    before = panel.view.value
    panel.formed.value = 1
    assert panel.model.formed == 1 and panel.view.value != before


def test_a_run_is_shown_beside_the_last_ones(panel):
    panel.edits.value = 2
    panel.run.click()
    panel.planner.value = "random"
    panel.run.click()
    assert panel.model.table()["order"].tolist() == ["as given", "random"]
    assert panel.table.value.count("<tr") == 3
    assert panel.comparison.value and panel.comparison.layout.display is None
    assert panel.chosen.value == 2 and "2 finished runs" in panel.note.value


def test_runs_are_pinned_shown_and_cleared_with_buttons(panel):
    for number, size in ((1, 2), (2, 4)):
        finished(panel.model, number, order="random", batch_size=size)
    panel.model.pin(2, False)
    panel.chosen.value = 1
    panel.pin.click()
    assert panel.pin.description == "Unpin"
    panel.show.click()
    assert panel.batch_size.value == 2 and panel.planner.value == "random"
    panel.clear.click()
    assert panel.model.table()["run"].tolist() == [1]
    panel.pin.click()
    panel.clear.click()
    assert panel.model.runs == [] and panel.pin.disabled


def test_what_cannot_be_is_told_and_the_controls_go_back(panel):
    panel.model.source = panel.model.source.with_groups(
        [[edit.model_copy(update={"topic": None}) for edit in panel.model.source.edits]]
    )
    panel.planner.value = "topic"
    assert "has no topic" in panel.error.value
    assert panel.planner.value == "as given"
    panel.planner.value = "random"
    assert not panel.error.value


def test_a_busy_host_is_told_in_the_panel(panel, stream, host):
    with ll.EditSession(host, ll.editors.MoEAdaptor(**EDITOR), stream, progress=False):
        panel.run.click()
        assert "close that session first" in panel.error.value
    assert not panel.run.disabled


def test_names_of_streams_are_shown_and_never_run(stream, host):
    named = stream.model_copy(update={"name": SCRIPT})
    panel = OrderPlayground(named, host, edits=4)
    assert "&lt;script&gt;" in panel.facts.value and "<script>" not in panel.facts.value


def test_the_kernel_answers_while_a_run_goes_on_and_stop_ends_it(panel):
    async def use() -> int:
        panel.edits.value, panel.batch_size.value = 8, 2
        panel.run.click()
        answered = 0
        while panel.model.running is not None and answered < 5:
            await asyncio.sleep(0)
            answered += 1
        panel.stop.click()
        await panel.finished()
        return answered

    assert asyncio.run(use()) == 5
    assert panel.model.running is None and panel.model.runs == []
    assert panel.stop.disabled and not panel.run.disabled


def test_a_run_in_an_event_loop_ends_by_itself(panel):
    async def use() -> None:
        panel.edits.value = 2
        panel.run.click()
        assert panel.model.running is not None and panel.run.disabled
        await panel.finished()

    asyncio.run(use())
    assert len(panel.model.runs) == 1


def test_batches_form_one_after_the_other_in_an_event_loop(panel, monkeypatch):
    monkeypatch.setattr("lemoe_lab.widgets.playground.playground.FORMING", 0.0)
    panel.batch_size.value = 3
    seen = []
    panel.model.on_event.append(lambda _: seen.append(panel.model.formed))

    async def use() -> None:
        panel.form.click()
        await panel.finished()

    asyncio.run(use())
    assert list(dict.fromkeys(seen)) == [0, 1, 2, 3]


def test_every_control_has_a_name(panel):
    named = (panel.planner, panel.batch_size, panel.seed, panel.edits, panel.formed, panel.editor)
    for control in (*named, panel.editor_seed, panel.bar, panel.chosen):
        assert control.description


def test_the_static_view_is_a_picture_with_a_text(panel):
    finished(panel.model, 1)
    bundle = panel._repr_mimebundle_()
    assert base64.b64decode(bundle["image/png"]).startswith(b"\x89PNG")
    assert "first 8 of 24 edits" in bundle["text/plain"]
    assert "1 finished run" in bundle["text/plain"]


def test_the_pictures_follow_the_theme(panel):
    light = panel.view.value
    panel.frame.theme = "dark"
    assert panel.view.value != light
