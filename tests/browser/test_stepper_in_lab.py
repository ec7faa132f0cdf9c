"""Notebook 05 in a real JupyterLab: the stepper as a person uses it."""

import re
import time
from pathlib import Path

import pytest
from lab_driver import run_all, unreadable, until, use_theme

pytest.importorskip("playwright.sync_api")
from playwright.sync_api import Locator, Page, expect

NOTEBOOK = "05_edit_stepper.ipynb"
SCRIPT = "<script>alert(1)</script><img src=x onerror=alert(2)> is"
LEARN = 60_000  # milliseconds for a batch or two on a busy machine


@pytest.fixture(scope="module")
def panel(page, lab) -> Locator:
    """The notebook's first panel, after the notebook ran from top to bottom."""
    run_all(page, lab, NOTEBOOK)
    found = page.locator(".lemoe-panel").first
    expect(found.get_by_role("button", name="Play", exact=True)).to_be_visible()
    return found


@pytest.fixture
def at_two(panel) -> Locator:
    """The panel at batch 2 of its stream, with nothing running."""
    move_to(panel, 2)
    return panel


def button(panel: Locator, name: str) -> Locator:
    return panel.get_by_role("button", name=name, exact=True)


def status(panel: Locator) -> Locator:
    return panel.locator(".lemoe-status").first


def picture(panel: Locator, name: str) -> Locator:
    return panel.get_by_role("img", name=name)


def applied(panel: Locator, steps: int) -> None:
    expect(status(panel)).to_contain_text(f"{steps} of ", timeout=LEARN)


def move_to(panel: Locator, step: int) -> None:
    """Let nothing run, then type a number beside the slider, as a person would."""
    if button(panel, "Pause").count():
        button(panel, "Pause").click()
        expect(button(panel, "Play")).to_be_visible(timeout=LEARN)
    if button(panel, "Abandon batch").is_enabled():
        button(panel, "Abandon batch").click()
        expect(button(panel, "Abandon batch")).to_be_disabled()
    number = panel.locator(".widget-slider .widget-readout").first
    number.fill(str(step))
    number.press("Enter")
    applied(panel, step)


def show_tab(panel: Locator, name: str) -> None:
    panel.get_by_role("tab", name=name).click()


def test_the_notebook_runs_and_its_panels_are_live(panel, page):
    expect(page.locator(".lemoe-panel")).to_have_count(2)
    for name in ("Reliability", "Experts", "Share of other answers"):
        shown = picture(panel, name)
        expect(shown).to_be_visible()
        assert shown.evaluate("image => image.naturalWidth") > 300
    assert not page.problems


def test_play_makes_the_curve_grow_and_pause_holds_within_a_second(at_two):
    curve = picture(at_two, "Reliability")
    before = curve.get_attribute("src")

    button(at_two, "Play").click()
    expect(curve).not_to_have_attribute("src", before, timeout=LEARN)
    button(at_two, "Pause").click()
    asked = time.monotonic()
    expect(button(at_two, "Play")).to_be_visible()
    waited = time.monotonic() - asked
    shown = status(at_two).inner_text()
    at_two.page.wait_for_timeout(700)

    assert waited < 1
    assert status(at_two).inner_text() == shown
    move_to(at_two, 2)


def test_undo_and_redo_buttons_take_a_batch_back_and_bring_it_again(at_two):
    button(at_two, "Undo").click()
    applied(at_two, 1)
    button(at_two, "Redo").click()
    applied(at_two, 2)


def test_the_slider_jumps_back_to_the_unedited_model_and_forth(at_two):
    move_to(at_two, 0)
    expect(status(at_two)).to_contain_text("nothing learned yet")
    move_to(at_two, 2)


def test_keys_work_while_the_panel_has_the_focus(at_two):
    at_two.focus()
    at_two.press("ArrowLeft")
    applied(at_two, 1)
    at_two.press("ArrowRight")
    applied(at_two, 2)
    at_two.press("Space")
    expect(button(at_two, "Pause")).to_be_visible()
    at_two.press("Space")
    expect(button(at_two, "Play")).to_be_visible(timeout=LEARN)


def test_keys_typed_into_a_field_move_nothing(at_two):
    show_tab(at_two, "Ask the model")
    field = at_two.get_by_label("New target")
    field.fill("a b")
    field.press("ArrowLeft")
    field.press("Space")

    applied(at_two, 2)
    field.fill("")


def test_an_edit_opens_from_the_table_by_keyboard(at_two):
    show_tab(at_two, "Edits")
    search = at_two.get_by_label("Filter edits by text")
    search.fill("coach of")
    row = at_two.locator(".lemoe-edit-table tbody tr").first
    expect(row).to_contain_text("coach of")
    row.focus()
    row.press("Enter")

    expect(at_two.get_by_text("strong rephrase").first).to_be_visible()
    search.fill("")


def test_the_table_sorts_by_a_click_on_a_heading(at_two):
    show_tab(at_two, "Edits")
    heading = at_two.locator(".lemoe-edit-table").get_by_role("columnheader", name="Prompt")
    heading.get_by_role("button").click()

    expect(heading).to_have_attribute("aria-sort", "ascending")
    prompts = at_two.locator(".lemoe-edit-table td.column-prompt")
    expect(prompts.first).not_to_contain_text("editor of the Tausstad")
    shown = [text.lower() for text in prompts.all_inner_texts()]
    assert shown == sorted(shown)


def test_teaching_an_edit_changes_the_answer(at_two):
    show_tab(at_two, "Ask the model")
    prompt = at_two.get_by_label("Prompt", exact=True)
    prompt.fill("The keeper of the glass lighthouse is")
    prompt.press("Enter")
    answer = at_two.locator(".lemoe-answer")
    expect(answer).to_contain_text("glass lighthouse")
    expect(answer).not_to_contain_text("Odo Marsh")

    at_two.get_by_label("New target").fill("Odo Marsh")
    button(at_two, "Teach it").click()

    expect(answer).to_contain_text("Odo Marsh", timeout=LEARN)
    applied(at_two, 3)


def test_markup_in_a_prompt_is_shown_and_not_run(at_two):
    show_tab(at_two, "Ask the model")
    prompt = at_two.get_by_label("Prompt", exact=True)
    prompt.fill(SCRIPT)
    prompt.press("Enter")

    answer = at_two.locator(".lemoe-answer")
    expect(answer).to_contain_text(SCRIPT)
    assert answer.locator("script, img").count() == 0
    assert not at_two.page.problems


def test_an_impossible_choice_is_explained(at_two):
    size = at_two.get_by_label("Batch size")
    before = size.input_value()
    size.fill("-3")
    size.press("Tab")
    button(at_two, "Reset").click()

    expect(at_two.get_by_role("alert")).to_contain_text("batch_size must be at least 1, not -3")
    applied(at_two, 2)
    size.fill(before)
    size.press("Tab")


def test_export_writes_files(at_two, lab):
    show_tab(at_two, "Export")
    folder = lab.folder / "runs" / "edit_stepper"
    for name, file in (
        ("Figure", "edit_stepper.svg"),
        ("Table", "edits.csv"),
        ("Python calls", "reproduce.py"),
    ):
        button(at_two, name).click()
        expect(at_two.get_by_text(re.compile(f"written: .*{file}"))).to_be_visible(timeout=LEARN)
        assert (folder / file).stat().st_size > 100
    button(at_two, "Session").click()
    expect(at_two.get_by_text(re.compile("written: .*session-"))).to_be_visible(timeout=LEARN)
    assert list(Path(folder).glob("session-*/config.json"))


@pytest.mark.parametrize("theme", ["dark", "light"])
def test_text_is_readable_in_both_themes(at_two, page: Page, theme):
    curve = picture(at_two, "Reliability")
    use_theme(page, theme)
    if theme == "dark":
        page.wait_for_timeout(500)
    for tab in ("Edits", "Ask the model", "Export"):
        show_tab(at_two, tab)
        page.wait_for_timeout(300)  # the theme's colours fade in
        poor = unreadable(at_two)
        assert not poor, "; ".join(poor)
    dark = """async (image) => {
        await image.decode();
        const canvas = document.createElement("canvas");
        canvas.getContext("2d").drawImage(image, 0, 0);
        return canvas.getContext("2d").getImageData(1, 1, 1, 1).data[0] < 80;
    }"""
    until(page, lambda: curve.evaluate(dark) == (theme == "dark"))  # the kernel draws it anew


def test_nothing_scrolls_sideways(at_two, page: Page):
    wide = page.evaluate(
        """() => [...document.querySelectorAll(".lemoe-panel, .lemoe-panel *, .jp-OutputArea")]
            .filter((node) => node.checkVisibility() && node.clientWidth)
            .filter((node) => !node.closest("textarea, select, input, .widget-readout"))
            .filter((node) => node.scrollWidth > node.clientWidth + 1)
            .filter((node) => getComputedStyle(node).overflowX !== "visible")
            .map((node) => `${node.className} ${node.scrollWidth} > ${node.clientWidth}`)"""
    )

    assert wide == []
