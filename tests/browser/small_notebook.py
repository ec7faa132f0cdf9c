"""Notebooks that tests write for themselves."""

from collections.abc import Sequence

import nbformat
from lab_driver import Lab

KERNEL = {"name": "python3", "display_name": "Python 3", "language": "python"}
SMALL_STREAM = """
import lemoe_lab as ll
from lemoe_lab.widgets.inspector import RoutingInspector
from lemoe_lab.widgets.playground import OrderPlayground

full = ll.datasets.almanac(edits=12, batch_size=3, seed=11)
stream = full.model_copy(update={"calibration": full.calibration[::8]})
host = ll.load_host("almanac")
"""


def write(lab: Lab, name: str, cells: Sequence[str]) -> str:
    """Write a notebook of code cells into the folder that ``lab`` shows; its name."""
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(cell.strip()) for cell in cells],
        metadata={"kernelspec": KERNEL},
    )
    nbformat.write(notebook, lab.folder / name)
    return name


def fits(panel: object) -> bool:
    """Whether nothing in a panel, nor the panel in its page, is wider than its place."""
    return panel.evaluate(
        """panel => {
            const right = panel.getBoundingClientRect().right;
            const parts = [...panel.querySelectorAll("*")].filter((part) => part.offsetParent);
            const beyond = parts.filter((p) => p.getBoundingClientRect().right > right + 1);
            return panel.scrollWidth <= panel.clientWidth && right <= window.innerWidth
                && beyond.length === 0;
        }"""
    )
