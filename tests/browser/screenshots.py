"""Pictures of every panel in a real browser, for the README.

    python tests/browser/screenshots.py [FOLDER]

Opens small notebooks in JupyterLab at 1280 x 800 and writes NAME_light.png and NAME_dark.png into
FOLDER (figures/ by default) for EditStepper, RoutingInspector and OrderPlayground.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import nbformat
from lab_driver import ROOT, VIEWPORT, chromium, open_page, run_all, serve, use_theme

ROOM = 300  # pixels above and below a panel
SETUP = """import lemoe_lab as ll

host = ll.load_host("almanac")
stream = ll.datasets.almanac(edits=90, batch_size=15, seed=1)
"""
PANELS = {
    "edit_stepper": """session = ll.EditSession(host, ll.editors.MoEAdaptor(), stream)
panel = ll.widgets.EditStepper(session)
panel.model.jump(5)
panel.model.wait()
panel.edits.table.sort_by = "state"
panel""",
    "ask_the_model": """session = ll.EditSession(host, ll.editors.LEMoE(), stream)
session.progress = False
panel = ll.widgets.EditStepper(session)
panel.model.jump(4)
panel.model.wait()
panel.ask.prompt.value = stream.edits[3].rephrases[-1].prompt
panel.tabs.selected_index = 1
panel""",
    "routing_inspector": """session = ll.EditSession(host, ll.editors.LEMoE(), stream)
session.progress = False
session.run()
ll.widgets.RoutingInspector(session)""",
    "order_playground": """panel = ll.widgets.OrderPlayground(stream, host)
for order in ("random", "topic", "k-means"):
    panel.planner.value = order
    panel.model.run("MoE adaptor")
    panel.model.wait()
panel""",
}


def take(folder: Path) -> list[Path]:
    """Write all pictures; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as home:
        notebooks = [_notebook(name, cell, Path(home)) for name, cell in PANELS.items()]
        server_home = Path(home) / "server"
        server_home.mkdir()
        with serve(server_home, notebooks) as lab, chromium() as browser:
            return [
                path for name in PANELS for path in _pictures(open_page(browser), lab, name, folder)
            ]


def _notebook(name: str, cell: str, folder: Path) -> Path:
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook = nbformat.v4.new_notebook(metadata={"kernelspec": kernel})
    notebook.cells = [nbformat.v4.new_code_cell(SETUP + cell)]
    path = folder / f"{name}.ipynb"
    nbformat.write(notebook, path)
    return path


def _pictures(page: object, lab: object, name: str, folder: Path) -> list[Path]:
    run_all(page, lab, f"{name}.ipynb")
    panel = page.locator(".lemoe-panel").first
    height = panel.bounding_box()["height"] + ROOM  # so that a long panel shows whole
    page.set_viewport_size(VIEWPORT | {"height": max(VIEWPORT["height"], round(height))})
    paths = []
    for theme in ("light", "dark"):
        use_theme(page, theme)
        panel.scroll_into_view_if_needed()
        page.wait_for_timeout(1500)  # the theme fades in and the kernel draws the figures anew
        paths.append(folder / f"{name}_{theme}.png")
        panel.screenshot(path=paths[-1])
    page.close()
    return paths


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, default=ROOT / "figures")
    for path in take(parser.parse_args().folder):
        print(path)


if __name__ == "__main__":
    main()
