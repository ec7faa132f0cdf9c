"""Committed notebooks show their results before anything is run, and nothing that varies by run.

That they run at all is what ``pytest --nbmake notebooks`` checks; ``make test`` does both.
"""

import html
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode

from lemoe_lab.editors import PRESETS

ROOT = Path(__file__).parent.parent
PATHS = sorted((ROOT / "notebooks").glob("*.ipynb"))
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
MACHINE_PATH = re.compile(r"/(?:home|root|Users|tmp|site-packages)/")
MEND = "run `make figures` (or `make tidy-notebooks` if only metadata is to blame)"


@pytest.fixture(params=PATHS, ids=lambda path: path.stem)
def path(request) -> Path:
    return request.param


@pytest.fixture
def notebook(path) -> NotebookNode:
    return nbformat.read(path, as_version=4)


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def outputs(notebook: NotebookNode) -> list[NotebookNode]:
    return [output for cell in code_cells(notebook) for output in cell.outputs]


def shown_text(output: NotebookNode) -> Iterator[str]:
    yield output.get("text", "")
    yield from (v for k, v in output.get("data", {}).items() if k.startswith("text/"))


# Numbers in prose: what a sentence says was measured stands in an output beside it.

MEASURED = re.compile(r"(?<![\w.,/-])-?\d{1,2}\.\d{2,3}(?![\d\w]|\.\d)")
PRINTED = re.compile(r"(?<![\w.])-?\d+\.\d+(?:e-?\d+)?")
OTHERS_SAY = re.compile(r"^\*\*The (?:papers?|literature) say")
DRAWN = {"07_scaling_3000"}  # shows its scores as a figure of a table, which no text repeats
LINK = re.compile(r"\]\((?:notebooks/)?(\d\d_\w+)\.ipynb\)")


def printed(notebook: NotebookNode) -> list[float]:
    """All decimal numbers in the tables and texts that a notebook shows."""
    texts = "\n".join(text for output in outputs(notebook) for text in shown_text(output))
    return [float(number) for number in PRINTED.findall(texts)]


def unfounded(text: str, numbers: list[float]) -> list[str]:
    """The decimals of ``text`` that are no rounding of any of ``numbers``."""
    said = set(MEASURED.findall(text))
    return sorted(s for s in said if not any(rounds_to(number, s) for number in numbers))


def rounds_to(number: float, said: str) -> bool:
    places = len(said.partition(".")[2])
    return abs(number - float(said)) <= 0.5 * 10**-places + 1e-9


def beside(text: str, own: list[float]) -> list[float]:
    """What the numbers of a text are held against: its notebook's, and those it links to."""
    linked = [nbformat.read(ROOT / "notebooks" / f"{n}.ipynb", 4) for n in LINK.findall(text)]
    return own + [number for notebook in linked for number in printed(notebook)]


def test_a_number_is_held_against_its_rounding():
    text = "It keeps 0.45 of edits, and 1.000 of (0.96 / -0.18) others at 7.5 s (arXiv 2406.20030)."

    assert unfounded(text, [0.4512, 0.9996, 0.961, -0.176]) == []
    assert unfounded(text, [0.4551, 1.0, 0.961]) == ["-0.18", "0.45"]


def test_numbers_in_prose_stand_in_an_output_of_the_notebook_or_of_one_it_links_to(path, notebook):
    if path.stem in DRAWN:
        pytest.skip("its scores are drawn")
    prose = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
    own, wrong = printed(notebook), {}
    for cell in prose:
        for paragraph in cell.split("\n\n"):
            if not OTHERS_SAY.search(paragraph):
                wrong[paragraph[:60]] = unfounded(paragraph, beside(cell, own))

    assert not {start: numbers for start, numbers in wrong.items() if numbers}


def measured_in_the_readme() -> list[str]:
    """Rows of tables, and paragraphs, of "What is measured" that have numbers of notebooks."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    section = readme.partition("## What is measured")[2].partition("\n## ")[0]
    blocks = [
        block
        for paragraph in section.split("\n\n")
        for block in (paragraph.splitlines() if paragraph.startswith("|") else [paragraph])
    ]
    blocks = [b for b in blocks if MEASURED.search(b) and "python benchmarks/" not in b]
    return [b for b in blocks if not DRAWN & set(LINK.findall(b))]


@pytest.mark.parametrize("block", measured_in_the_readme(), ids=lambda block: block[:40])
def test_numbers_in_the_readme_stand_in_an_output_of_the_notebook_named_beside_them(block):
    assert LINK.search(block), f"name the notebook that shows these numbers: {block}"

    assert not unfounded(block, beside(block, []))


def rows_of_editors(notebook: NotebookNode) -> Iterator[tuple[str, list[float]]]:
    """Every row of a shown table that belongs to an editor, and the numbers in it."""
    for table in (t for output in outputs(notebook) for t in shown_text(output) if "<tr" in t):
        editor = ""
        for row in re.findall(r"<tr.*?</tr>", table, re.DOTALL):
            cells = [html.unescape(cell) for cell in re.findall(r"<t[hd][^>]*>([^<]*)<", row)]
            editor = next((cell for cell in cells if cell in PRESETS), editor)
            yield editor, [float(cell) for cell in cells if PRINTED.fullmatch(cell)]


@pytest.mark.parametrize(
    "row", [b for b in measured_in_the_readme() if b.startswith("|")], ids=lambda row: row[:40]
)
def test_a_row_of_the_readme_takes_its_numbers_from_the_rows_of_that_editor(row):
    named = row.strip("| ")
    editor = max((name for name in PRESETS if named.startswith(name)), key=len)
    (notebook,) = LINK.findall(row)
    shown = rows_of_editors(nbformat.read(ROOT / "notebooks" / f"{notebook}.ipynb", 4))

    assert not unfounded(row, [n for name, numbers in shown if name == editor for n in numbers])


def test_notebook_is_valid(notebook):
    nbformat.validate(notebook)


def test_notebook_was_run_once_from_top_to_bottom(notebook):
    counts = [cell.execution_count for cell in code_cells(notebook)]

    assert counts == list(range(1, len(counts) + 1)), MEND


def test_notebook_has_no_failed_cell(notebook):
    errors = [output.evalue for output in outputs(notebook) if output.output_type == "error"]

    assert not errors


def test_notebook_shows_no_warning_or_log(notebook):
    assert not [output.text for output in outputs(notebook) if output.get("name") == "stderr"]


def test_notebook_shows_a_figure_before_it_is_run(notebook):
    assert any("image/png" in output.get("data", {}) for output in outputs(notebook)), MEND


def test_notebook_is_small_enough_to_review(path):
    assert path.stat().st_size < 1_000_000


def test_notebook_keeps_no_widget_state(notebook):
    assert "widgets" not in notebook.metadata, MEND
    assert not [output for output in outputs(notebook) if WIDGET_VIEW in output.get("data", {})], (
        MEND
    )


def test_notebook_keeps_no_timings(notebook):
    timed = [
        cell.id
        for cell in code_cells(notebook)
        if {"execution", "ExecuteTime"} & cell.metadata.keys()
    ]

    assert not timed, MEND


def test_notebook_metadata_is_stripped(path):
    command = [sys.executable, "-m", "nbstripout", "--verify"]
    keep = ["--keep-output", "--keep-count", "--keep-id"]

    done = subprocess.run([*command, *keep, path], capture_output=True, text=True)

    assert done.returncode == 0, f"{done.stdout}{done.stderr}\n{MEND}"


def test_notebook_shows_no_path_of_the_machine_it_ran_on(notebook):
    texts = [text for output in outputs(notebook) for text in shown_text(output)]

    assert not [text for text in texts if MACHINE_PATH.search(text)]
