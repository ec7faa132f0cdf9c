"""The stepper's panel, driven without a browser: every control, every file, the static view."""

import asyncio
import base64
import io

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import lemoe_lab as ll
from lemoe_lab.widgets import EditStepper
from lemoe_lab.widgets.common.figure_view import FigureView
from lemoe_lab.widgets.common.history import edit_state
from lemoe_lab.widgets.common.panel import descendants
from lemoe_lab.widgets.stepper.edit_table import EditTable, selected

SCRIPT = "<script>alert('$x$')</script> is"


@pytest.fixture
def bare(stream):
    """The shared stream without rephrases and locality prompts, so that a step is quick."""
    nothing = {"rephrases": (), "locality": ()}
    return stream.with_groups([[e.model_copy(update=nothing) for e in batch] for batch in stream])


@pytest.fixture
def stepper(host, bare, tmp_path):
    editor = ll.editors.LEMoE(routing="kv_anchor", steps=10)
    session = ll.EditSession(host, editor, bare, progress=False)
    made = EditStepper(session, folder=str(tmp_path / "export"))
    yield made
    made.model.abandon()
    made.model.session.close()


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


# Moving


def test_step_undo_and_redo_buttons_move_the_session(stepper):
    for control, steps in (("step", 1), ("step", 2), ("undo", 1), ("redo", 2)):
        getattr(stepper.controls, control).click()
        assert stepper.model.steps == steps


def test_play_button_learns_everything_and_then_rests(stepper):
    stepper.controls.play.click()

    assert stepper.model.steps == stepper.model.batches
    assert stepper.controls.play.disabled and stepper.controls.step.disabled


def test_buttons_that_can_do_nothing_are_disabled(stepper):
    controls = stepper.controls

    assert controls.undo.disabled and controls.redo.disabled and controls.abandon.disabled
    controls.step.click()
    assert not controls.undo.disabled and controls.redo.disabled


def test_slider_jumps_and_follows(stepper):
    stepper.controls.slider.value = 2
    assert stepper.model.steps == 2

    stepper.controls.undo.click()
    assert stepper.controls.slider.value == 1


@pytest.mark.parametrize(
    ("keys", "steps"), [(["right"], 1), (["right", "right", "left"], 1), (["space"], 3)]
)
def test_keys_step_undo_and_play(stepper, keys, steps):
    for key in keys:
        stepper._hear(stepper.frame, {"key": key}, [])

    assert stepper.model.steps == steps


def test_right_arrow_redoes_what_was_undone(stepper):
    for key in ("right", "left", "right"):
        stepper.press(key)

    assert len(stepper.model.step_seconds) == 1 and stepper.model.steps == 1


def test_speed_sets_the_wait_between_batches(stepper):
    assert stepper.controls.speed.value == "full"
    stepper.controls.speed.value = "1 s pauses"

    assert stepper.model.delay == 1.0


def test_status_line_counts_batches_and_reliability(stepper):
    stepper.controls.step.click()

    assert "1 of 3 batches applied; reliability right after 1.00" in stepper.controls.note.value


def test_in_an_event_loop_the_panel_works_between_other_duties(stepper):
    async def play_and_pause() -> tuple[str, int]:
        stepper.controls.play.click()
        turns = 0
        while stepper.model.progress is None or stepper.model.progress.step < 3:
            await asyncio.sleep(0)
            turns += 1
        stepper.controls.play.click()
        phase = stepper.model.phase
        await stepper.finished()
        return phase, turns

    phase, turns = asyncio.run(play_and_pause())

    assert phase == "held" and turns >= 1
    assert "held: batch 1" in stepper.controls.note.value
    assert not stepper.controls.abandon.disabled


# Choosing


def test_reset_begins_again_with_the_choices(stepper):
    stepper.controls.step.click()
    stepper.choice.planner.value = "topic"
    stepper.choice.batch_size.value = 12
    stepper.choice.seed.value = 5
    stepper.choice.reset.click()

    session = stepper.model.session
    assert (len(session.stream), session.stream.order) == (2, "topic")
    assert stepper.controls.slider.max == 2 and "topic order; seed 5" not in stepper.error.value


def test_an_impossible_choice_shows_why_and_keeps_the_session(stepper):
    stepper.controls.step.click()
    stepper.choice.batch_size.value = -1
    stepper.choice.reset.click()

    assert "batch_size must be at least 1" in stepper.error.value
    assert stepper.model.steps == 1
    stepper.controls.step.click()
    assert stepper.error.value == "" and stepper.model.steps == 2


# Figures


def test_figures_change_with_every_step(stepper):
    before = {name: view.value for name, view in stepper.views.items()}
    stepper.controls.step.click()

    assert before["Reliability"] != stepper.views["Reliability"].value
    assert before["Routes"] != stepper.views["Routes"].value


def test_dark_theme_turns_the_ground_dark_and_back(stepper):
    light = stepper.views["Reliability"].value
    stepper.frame.theme = "dark"
    dark = stepper.views["Reliability"].value
    stepper.frame.theme = "light"

    assert pixels(light)[0, 0].mean() > 240 > 60 > pixels(dark)[0, 0].mean()
    assert np.array_equal(pixels(stepper.views["Reliability"].value), pixels(light))


def colours(view: FigureView) -> set[tuple[int, ...]]:
    return {tuple(pixel) for pixel in pixels(view.value).reshape(-1, 3).tolist()}


def test_colours_that_mean_something_survive_the_dark():
    view = FigureView("A line", (2, 1))
    view.draw(lambda figure: figure.subplots().plot([0, 1], [0, 1], color="#0072B2", linewidth=9))
    blue = (0, 0x72, 0xB2)

    assert {blue, (255, 255, 255), (0, 0, 0)} <= colours(view)
    view.use_theme("dark")
    assert blue in colours(view) and not {(255, 255, 255), (0, 0, 0)} & colours(view)


def test_numbers_in_the_cells_of_a_heatmap_keep_their_colour_in_the_dark():
    scores = pd.DataFrame([{"editor": "ROME", "order": "random", "seed": 1, "scorer": "generated"}])
    scores = scores.assign(edits=1, batches=1, reliability=0.25)
    view = FigureView("Scores", (5, 3))
    inks = []

    def draw(figure):
        ax = ll.plots.score_table(scores, ax=figure.subplots())
        inks.extend(text.get_color() for text in ax.texts if text.get_text() == "0.25")

    view.draw(draw)
    view.use_theme("dark")

    assert len(inks) == 2 and inks[0] == inks[1]


def test_every_picture_has_a_description(stepper):
    views = [widget for widget in descendants(stepper) if isinstance(widget, FigureView)]

    assert len(views) == 3 and all(view.tooltip for view in views)


# The table


FRAME = pd.DataFrame(
    {
        "edit": ["a", "b", "c"],
        "batch": [1, 1, 2],
        "prompt": ["The mayor of Ys is", "The moon of Ys is", SCRIPT],
        "target": ["Ann", "Bob", "Cy"],
        "state": ["learned", "forgotten", "not yet"],
        "immediate": [1.0, 1.0, None],
        "now": [1.0, 0.0, None],
        "expert": ["1", "10", "-"],
        "route": ["1", "2", "-"],
    }
)


@pytest.mark.parametrize(
    ("text", "state", "sort_by", "descending", "edits"),
    [
        ("", "any", "batch", False, "abc"),
        ("MOON", "any", "batch", False, "b"),
        ("(.*", "any", "batch", False, ""),
        ("", "learned", "batch", False, "a"),
        ("", "any", "state", False, "bac"),
        ("", "any", "expert", True, "bac"),
        ("", "any", "prompt", False, "cab"),
    ],
)
def test_table_filters_and_sorts(text, state, sort_by, descending, edits):
    frame = selected(FRAME, text, state, sort_by, descending)

    assert "".join(frame["edit"]) == edits


def test_table_follows_what_the_page_asks_for():
    table = EditTable(on_open=lambda edit: None)
    table.update(FRAME)
    table.state = "forgotten"

    assert [row["edit"] for row in table.rows] == ["b"]
    assert table.choices["learned"] == "learned (1)" and table.matching == 1


def test_table_opens_edits_that_it_has_and_nothing_else():
    opened = []
    table = EditTable(opened.append)
    table.update(FRAME)
    for message in ({"open": "b"}, {"open": "zzz"}, "b"):
        table._hear(table, message, [])

    assert opened == ["b"]


def test_an_opened_edit_shows_its_answers(stepper, bare):
    stepper.controls.step.click()
    edit = bare.edits[0]
    stepper.edits.table.choose(edit.id)

    assert edit.target in stepper.edits.details.value
    assert edit.old_answer in stepper.edits.details.value


@pytest.mark.parametrize(
    ("facts", "state"),
    [
        ((False, False, None, None, None, None), "not yet"),
        ((True, True, 1.0, 0.0, 0, 1), "superseded"),
        ((True, False, 1.0, 1.0, 0, 0), "learned"),
        ((True, False, 1.0, 0.0, 0, 0), "forgotten"),
        ((True, False, 1.0, 0.0, 0, 1), "rerouted"),
        ((True, False, 1.0, 0.0, None, None), "forgotten"),
        ((True, False, 0.0, 0.0, 0, 0), "missed"),
    ],
)
def test_state_of_an_edit(facts, state):
    assert edit_state(*facts) == state


# Asking and teaching


def test_a_question_shows_both_answers(stepper, bare):
    stepper.controls.step.click()
    edit = bare.edits[0]
    stepper.ask.prompt.value = edit.prompt

    shown = stepper.ask.result.value
    assert "Unedited" in shown and edit.old_answer in shown and edit.target in shown


def test_markup_in_a_prompt_is_shown_and_not_run(stepper):
    stepper.ask.prompt.value = SCRIPT

    assert "<script" not in stepper.ask.result.value
    assert "&lt;script&gt;" in stepper.ask.result.value


def test_markup_in_an_error_is_shown_and_not_run(stepper):
    stepper.ask.prompt.value = SCRIPT * 60

    assert "&lt;script&gt;" in stepper.error.value and "<script" not in stepper.error.value


def test_teaching_changes_the_answer_that_is_shown(stepper):
    stepper.ask.prompt.value = SCRIPT
    stepper.ask.target.value = "Ada Quill"
    stepper.ask.teach.click()

    assert stepper.ask.answer.edited == "Ada Quill"
    assert "Ada Quill" in stepper.ask.result.value
    assert stepper.controls.slider.max == 4


def test_an_answer_follows_undo(stepper, bare):
    stepper.controls.step.click()
    stepper.ask.prompt.value = bare.edits[0].prompt
    stepper.controls.undo.click()

    assert stepper.ask.answer.edited == bare.edits[0].old_answer


# Files


def test_figure_and_table_are_written(stepper, tmp_path):
    stepper.controls.step.click()
    stepper.export.figure.click()
    stepper.edits.table.state = "learned"
    stepper.export.table.click()

    folder = tmp_path / "export"
    assert (folder / "edit_stepper.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (folder / "edit_stepper.svg").read_text(encoding="utf-8")
    assert len(pd.read_csv(folder / "edits.csv")) == 8


def test_an_exported_session_resumes(stepper, tmp_path, host, bare):
    stepper.controls.step.click()
    stepper.export.session.click()
    stepper.model.session.close()

    with ll.EditSession.resume(tmp_path / "export" / "session-1", host) as session:
        assert session.steps == 1
        assert host.generate(bare.edits[0].prompt) == bare.edits[0].target


def test_the_written_calls_lead_to_the_same_state(stepper, host, monkeypatch):
    stepper.choice.planner.value, stepper.choice.batch_size.value = "random", 12
    stepper.choice.reset.click()
    stepper.controls.step.click()
    stepper.ask.prompt.value, stepper.ask.target.value = SCRIPT, "Ada Quill"
    stepper.ask.teach.click()
    stepper.export.calls.click()
    state = stepper.model.session.editor.state_dict()
    stepper.model.session.close()

    monkeypatch.setattr(ll, "load_host", lambda name: host)
    names: dict = {}
    exec(stepper.export.text.value, names)
    with names["session"] as session:
        assert session.steps == 2
        assert all((session.editor.state_dict()[key] == state[key]).all() for key in state)


def test_calls_name_the_almanac_where_the_stream_is_its(host, tmp_path):
    stream = ll.datasets.almanac(edits=6, batch_size=3, seed=4)
    editor = ll.editors.LEMoE(routing="kv_anchor", steps=5)
    with ll.EditSession(host, editor, stream, progress=False) as session:
        stepper = EditStepper(session, folder=str(tmp_path))
        stepper.export.calls.click()

    assert "ll.datasets.almanac(edits=6, batch_size=3, seed=4" in stepper.export.text.value
    assert not (tmp_path / "stream.json").exists()


# The static view


def test_a_saved_notebook_shows_a_picture_and_a_line(stepper):
    stepper.controls.step.click()
    bundle = stepper._repr_mimebundle_()

    assert base64.b64decode(bundle["image/png"]).startswith(b"\x89PNG")
    assert bundle["text/plain"].startswith("Edit stepper: LEMoE KV anchor, literal on almanac")
    assert "application/vnd.jupyter.widget-view+json" in bundle


def test_the_picture_is_the_same_for_the_same_state(stepper):
    stepper.controls.step.click()

    assert stepper._repr_mimebundle_()["image/png"] == stepper._repr_mimebundle_()["image/png"]


def test_the_picture_takes_dollar_signs_as_they_are(stepper):
    stepper.ask.prompt.value = "$\\frac{1 is $"

    assert stepper._repr_mimebundle_()["image/png"]
