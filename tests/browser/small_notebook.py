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


# Contrast of the text on the ground it stands on, after WCAG; 4.5 is readable.
CONTRAST = """element => {
    const light = (text) => {
        const parts = text.match(/[0-9.]+/g).slice(0, 3).map((part) => part / 255);
        const [r, g, b] = parts.map((c) => c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const panel = element.closest(".lemoe-panel");
    const ground = light(getComputedStyle(panel).backgroundColor);
    const ink = light(getComputedStyle(element).color);
    return (Math.max(ink, ground) + 0.05) / (Math.min(ink, ground) + 0.05);
}"""


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
