"""The routing inspector in JupyterLab: pick, type, walk through the batches, dark theme."""

import re

import pytest
from lab_driver import run_all, unreadable, use_theme
from playwright.sync_api import expect
from small_notebook import SMALL_STREAM, fits, write

CELLS = (
    SMALL_STREAM,
    """
session = ll.EditSession(host, ll.editors.LEMoE(steps=20), stream, progress=False)
session.jump(4)
RoutingInspector(session, prompts=())
""",
)
SCRIPT = "<script>document.title = 'run'</script> is"


@pytest.fixture(scope="module")
def panel(page, lab):
    run_all(page, lab, write(lab, "inspector.ipynb", CELLS))
    return page.get_by_role("region", name="Routing inspector", exact=True)


@pytest.fixture(autouse=True)
def empty(page, panel):
    """Each test begins with an empty map in a light page, and leaves no script error behind."""
    use_theme(page, "light")
    panel.get_by_role("button", name="Clear").click()
    expect(panel.get_by_text("Pick a prompt of the stream")).to_be_visible()
    yield
    assert page.problems == []


def type_prompt(panel, text: str) -> None:
    panel.get_by_label("Own words").fill(text)
    panel.get_by_role("button", name="Inspect text").click()


def test_an_edit_is_picked_and_its_prompts_appear(panel):
    picture = panel.get_by_role("img", name="Map of the learned edits")
    before = picture.get_attribute("src")
    panel.get_by_label("Edit", exact=True).select_option(index=4)
    panel.get_by_role("button", name="Inspect", exact=True).click()
    expect(panel.get_by_text(re.compile("^own prompt of "))).to_be_visible()
    expect(panel.get_by_text(re.compile("^strong rephrase of "))).to_have_count(2)
    expect(picture).not_to_have_attribute("src", before)


def test_a_typed_prompt_tells_what_it_lacks(panel):
    type_prompt(panel, "We walked on the roof for an hour")
    expect(panel.get_by_text(re.compile("It lacks 0.[0-9]{3} similarity"))).to_be_visible()


def test_a_script_in_a_prompt_is_shown_and_not_run(page, panel):
    type_prompt(panel, SCRIPT)
    expect(panel.get_by_text(SCRIPT).first).to_be_visible()
    assert page.title() != "run"
    assert panel.locator("script").count() == 0


def test_the_arrow_keys_walk_through_the_batches(panel):
    panel.get_by_label("Edit", exact=True).select_option(index=4)
    panel.get_by_label("Prompt", exact=True).select_option(index=1)
    panel.get_by_role("button", name="Inspect", exact=True).click()
    expect(panel.get_by_text("It could lose")).to_be_visible()
    panel.focus()
    for step in (3, 2, 1):
        panel.press("ArrowLeft")
        expect(panel.get_by_text(f"looking at {step} of 4 batches")).to_be_visible()
    expect(panel.get_by_text("It lacks")).to_be_visible()
    for step in (2, 3, 4):
        panel.press("ArrowRight")
        expect(panel.get_by_text(f"looking at {step} of 4 batches")).to_be_visible()
    expect(panel.get_by_text("It could lose")).to_be_visible()


def test_nothing_is_wider_than_the_page(panel):
    panel.get_by_role("button", name="Inspect", exact=True).click()
    expect(panel.get_by_text(re.compile("^own prompt of "))).to_be_visible()
    assert fits(panel)


def test_the_dark_theme_is_readable(page, panel):
    picture = panel.get_by_role("img", name="Map of the learned edits")
    type_prompt(panel, "We walked on the roof for an hour")
    sentence = panel.get_by_text("It lacks")
    expect(sentence).to_be_visible()
    before = picture.get_attribute("src")
    use_theme(page, "dark")
    expect(picture).not_to_have_attribute("src", before)
    assert unreadable(panel) == []
