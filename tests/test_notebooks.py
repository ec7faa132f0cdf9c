"""Committed notebooks show their results before anything is run, and nothing that varies by run.

That they run at all is what ``pytest --nbmake notebooks`` checks; ``make test`` does both.
"""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode

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
