"""Files from a stepper: figure, table, session, and the calls that lead to its state.

paths = export_figure(model, "export")
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from ... import plots
from ...session import EditSession
from ..common.history import Track
from .model import StepperModel
from .reproduce import calls, needs_file
from .views import DRAWINGS

FIGURE_SIZE = (14, 4.2)


def export_figure(model: StepperModel, folder: str | Path) -> list[Path]:
    """The live figures side by side as ``edit_stepper.png`` and ``.svg``."""
    return list(plots.save(overview(model.track), "edit_stepper", folder))


def overview(track: Track) -> Figure:
    """The live figures side by side."""
    with plots.style():
        figure = Figure(figsize=FIGURE_SIZE, layout="constrained")
        draw_all(track, list(figure.subplots(1, len(DRAWINGS))))
        session = track.session
        figure.suptitle(
            f"{session.editor.name} on {session.host.name}, {session.stream.order} order, "
            f"{session.steps} of {len(session.stream)} batches"
        )
    return figure


def draw_all(track: Track, axes: Sequence) -> None:
    """Draw each live figure once, on Axes of its own."""
    for kind, ax in zip(DRAWINGS, axes, strict=True):
        kind(ax).update(track)


def export_table(table: pd.DataFrame, folder: str | Path) -> list[Path]:
    """The table of edits as ``edits.csv``."""
    path = _folder(folder) / "edits.csv"
    table.to_csv(path, index=False)
    return [path]


def export_session(session: EditSession, folder: str | Path) -> list[Path]:
    """The run as it is now in a new folder ``session-N``."""
    number = 1
    while (path := _folder(folder) / f"session-{number}").exists():
        number += 1
    session.save(path, follow=False)
    return [path]


def export_calls(model: StepperModel, folder: str | Path) -> list[Path]:
    """The script ``reproduce.py``, with ``stream.json`` where no call makes the stream."""
    script, stream_file = _folder(folder) / "reproduce.py", _folder(folder) / "stream.json"
    paths = [script]
    if needs_file(model.source):
        stream_file.write_text(model.source.model_dump_json(indent=1), encoding="utf-8")
        paths.append(stream_file)
    script.write_text(calls(model, stream_file.as_posix()), encoding="utf-8")
    return paths


def _folder(path: str | Path) -> Path:
    path = Path(path)
    path.mkdir(parents=True, exist_ok=True)
    return path
