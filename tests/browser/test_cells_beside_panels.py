"""Cells that run while a panel works: both use one host, and neither disturbs the other."""

import re

import pytest
from lab_driver import run_all
from playwright.sync_api import expect
from small_notebook import SMALL_STREAM, write

LEARN = 60_000  # milliseconds for four batches on a busy machine
CELLS = (
    SMALL_STREAM,
    """
far = [o.prompt for edit in stream.edits for o in edit.locality if o.group == "far"]
plain = host.generate(far)
stepper = ll.widgets.EditStepper(
    ll.EditSession(host, ll.editors.LEMoE(steps=60), stream, progress=False)
)
stepper
""",
    "",
)
LOOKING = """
import asyncio

looks = 0
while stepper.model.steps < len(stream):
    assert host.generate(far) == plain
    looks += 1
    await asyncio.sleep(0.01)
await stepper.finished()
print(f"{stepper.model.steps} batches, {looks} looks")
"""
RUN_IN_THE_LAST_CELL = """(text) => {
    const cells = window.jupyterapp.shell.currentWidget.content;
    cells.activeCellIndex = cells.widgets.length - 1;
    cells.activeCell.model.sharedModel.setSource(text);
    window.jupyterapp.commands.execute("notebook:run-cell");
}"""


@pytest.fixture(scope="module")
def panel(page, lab):
    """A stepper with nothing learned, above an empty cell."""
    run_all(page, lab, write(lab, "beside.ipynb", CELLS))
    return page.get_by_role("region", name="Edit stepper", exact=True)


def jump(panel, step: int) -> None:
    number = panel.locator(".widget-slider .widget-readout").first
    number.fill(str(step))
    number.press("Enter")


def test_a_cell_asks_the_model_while_batches_that_the_page_started_are_learned(page, panel):
    for step in (1, 0):  # what a control says first still comes on the thread of cells
        jump(panel, step)
        expect(panel.locator(".lemoe-status").first).to_contain_text(f"{step} of 4", timeout=LEARN)
    jump(panel, 4)
    expect(panel.get_by_role("button", name="Pause", exact=True)).to_be_visible()
    page.evaluate(RUN_IN_THE_LAST_CELL, LOOKING)

    told = page.locator(".jp-OutputArea-output").last
    expect(told).to_have_text(re.compile("^4 batches, [1-9][0-9]* looks"), timeout=LEARN)
    expect(panel.locator(".lemoe-status").first).to_contain_text("4 of 4 batches applied")
    assert page.problems == []
