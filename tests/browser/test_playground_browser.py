"""The order playground in JupyterLab: batches form, a run goes on beside other clicks, stop."""

import re

import pytest
from lab_driver import run_all, unreadable, use_theme
from playwright.sync_api import expect
from small_notebook import SMALL_STREAM, fits, write

CELLS = (
    SMALL_STREAM,
    """
named = stream.model_copy(update={"name": "<script>document.title = 'run'</script>"})
editor = ll.editors.MoEAdaptor(steps=100, loss_threshold=0)
OrderPlayground(named, host, editor, edits=6)
""",
)
RUN_SECONDS = 120_000


@pytest.fixture(scope="module")
def panel(page, lab):
    run_all(page, lab, write(lab, "playground.ipynb", CELLS))
    return page.get_by_role("region", name="Order playground", exact=True)


@pytest.fixture(autouse=True)
def idle(page, panel):
    """Each test begins with the same small order and no run, and leaves no script error behind."""
    use_theme(page, "light")
    choose(panel, "as given")
    expect(panel.get_by_role("button", name="Stop")).to_be_disabled()
    yield
    assert page.problems == []


def choose(panel, planner: str) -> None:
    panel.get_by_label("Order", exact=True).select_option(planner)
    expect(panel.get_by_text(f"{planner} order, seed 0")).to_be_visible()


def slider(panel, label: str):
    return panel.locator(".widget-slider", has_text=label).get_by_role("slider")


def test_a_planner_forms_other_batches(panel):
    picture = panel.get_by_role("img", name="Edits as points")
    before = picture.get_attribute("src")
    choose(panel, "k-means")
    expect(picture).not_to_have_attribute("src", before)


def test_the_slider_makes_smaller_batches(panel):
    slider(panel, "Batch size").press("ArrowLeft")
    expect(panel.get_by_text("; 3 batches;")).to_be_visible()
    slider(panel, "Batch size").press("ArrowRight")
    expect(panel.get_by_text("; 2 batches;")).to_be_visible()


def test_batches_form_one_by_one(panel):
    formed = panel.locator(".widget-slider", has_text="Batches formed").locator(".widget-readout")
    panel.get_by_role("button", name="Form batches").click()
    expect(formed).to_have_text("0")
    expect(formed).to_have_text("2")


def test_the_page_answers_while_a_run_goes_on_to_its_end(panel):
    panel.get_by_role("button", name="Run this order").click()
    expect(panel.get_by_text(re.compile("batch 1 of 2, optimiser step"))).to_be_visible()
    choose(panel, "random")
    expect(panel.get_by_role("button", name="Stop")).to_be_enabled()
    expect(panel.get_by_text("1 finished run")).to_be_visible(timeout=RUN_SECONDS)
    expect(panel.get_by_role("cell", name="as given × 3")).to_be_visible()
    expect(panel.get_by_role("img", name="Reliability, generality")).to_be_visible()


def test_a_stopped_run_leaves_the_earlier_ones(panel):
    rows = panel.get_by_role("cell", name="as given × 3")
    before = rows.count()
    panel.get_by_role("button", name="Run this order").click()
    expect(panel.get_by_text(re.compile("optimiser step"))).to_be_visible()
    panel.get_by_role("button", name="Stop").click()
    expect(panel.get_by_role("button", name="Run this order")).to_be_enabled()
    assert rows.count() == before


def test_names_of_streams_are_shown_and_not_run(page, panel):
    expect(panel.get_by_text("<script>document.title = 'run'</script>")).to_be_visible()
    assert page.title() != "run"
    assert panel.locator("script").count() == 0


def test_nothing_is_wider_than_the_page(panel):
    assert fits(panel)


def test_the_dark_theme_is_readable(page, panel):
    picture = panel.get_by_role("img", name="Edits as points")
    before = picture.get_attribute("src")
    use_theme(page, "dark")
    expect(picture).not_to_have_attribute("src", before)
    assert unreadable(panel) == []
