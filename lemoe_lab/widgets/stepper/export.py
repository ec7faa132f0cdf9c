"""Files from a stepper: figure, table, session, and the calls that lead to its state.

paths = export_figure(model, Path("export"))
"""

from __future__ import annotations

from itertools import count
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from ... import plots
from ..common.panel import facts
from .model import StepperModel
from .reproduce import calls, needs_file
from .views import draw_all

FIGURE_SIZE = (14, 4.2)


def export_figure(model: StepperModel, folder: Path) -> list[Path]:
    """The live figures side by side as ``edit_stepper.png`` and ``.svg``."""
    with plots.style():
        figure = Figure(figsize=FIGURE_SIZE, layout="constrained")
        draw_all(figure, model.history)
        figure.suptitle(f"{facts(model.session)}; {model.steps} of {model.batches} batches")
    return list(plots.save(figure, "edit_stepper", folder))


def export_table(table: pd.DataFrame, folder: Path) -> list[Path]:
    """The table of edits as ``edits.csv``."""
    table.to_csv(folder / "edits.csv", index=False)
    return [folder / "edits.csv"]


def export_session(model: StepperModel, folder: Path) -> list[Path]:
    """The run as it is now in a new folder ``session-N``."""
    paths = (folder / f"session-{number}" for number in count(1))
    path = next(path for path in paths if not path.exists())
    model.session.save(path, follow=False)
    return [path]


def export_calls(model: StepperModel, folder: Path) -> list[Path]:
    """The script ``reproduce.py``, with ``stream.json`` where no call makes the stream."""
    paths = [folder / "reproduce.py", folder / "stream.json"]
    if needs_file(model.source):
        paths[1].write_text(model.source.model_dump_json(indent=1), encoding="utf-8")
    paths[0].write_text(calls(model, paths[1].as_posix()), encoding="utf-8")
    return paths if needs_file(model.source) else paths[:1]
