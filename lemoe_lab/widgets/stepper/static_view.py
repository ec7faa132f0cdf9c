"""The static face of the stepper: the same content as a picture."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from ... import plots
from ..common.ask import Answer
from ..common.history import STATES, expert_name
from ..common.panel import plain, shortened
from .controls import status_html
from .export import draw_all
from .model import StepperModel
from .views import DRAWINGS

STATE_COLOURS = {
    "learned": "#009E73",
    "forgotten": "#D55E00",
    "rerouted": "#CC79A7",
    "missed": "#E69F00",
    "superseded": "#999999",
    "not yet": "#FFFFFF",
}
ROWS = 8
COLUMNS = {"state": 0.03, "batch": 0.13, "prompt": 0.18, "target": 0.62, "route": 0.93}
HEADS = {"state": "state", "batch": "batch", "prompt": "prompt", "target": "new target"}


def face(title: str, model: StepperModel, table: pd.DataFrame, answer: Answer | None) -> Figure:
    """Heading, figures, the first rows of the table as it is sorted now, the last answer."""
    session = model.session
    with plots.style():
        figure = Figure(figsize=(12.5, 7.4 if answer else 6.4), layout="constrained")
        heights = [0.5, 3.3, 2.4, 1.0] if answer else [0.5, 3.3, 2.4]
        parts = figure.subfigures(len(heights), 1, height_ratios=heights)
        head = f"{session.editor.name} on {session.host.name}, {session.stream.order} order"
        _lines(parts[0], [(title, 15, "bold"), (f"{head}; {status_html(model)}", 11, "normal")])
        draw_all(model.track, list(parts[1].subplots(1, len(DRAWINGS))))
        _table(parts[2].subplots(), table)
        if answer:
            _answer(parts[3].subplots(), answer)
    return figure


def _lines(part: SubFigure, lines: Sequence[tuple[str, int, str]]) -> None:
    for place, (text, size, weight) in enumerate(lines):
        at = 0.95 - place * 0.55
        part.text(0.01, at, plain(text), va="top", fontsize=size, fontweight=weight)


def _table(ax: Axes, frame: pd.DataFrame) -> None:
    shown = frame.head(ROWS)
    ax.set(xlim=(0, 1), ylim=(len(shown) + 0.6, -0.9))
    ax.axis("off")
    for column, at in COLUMNS.items():
        ax.text(at, -0.4, HEADS.get(column, "goes to"), color="#555555", va="center", fontsize=10)
    for line, row in enumerate(shown.itertuples()):
        y = line + 0.5
        colour = STATE_COLOURS[row.state]
        ax.plot(0.018, y, "o", color=colour, markeredgecolor="#777777", markersize=7)
        for column, at in COLUMNS.items():
            text = plain(shortened(str(getattr(row, column)), 62 if column == "prompt" else 44))
            ax.text(at, y, text, va="center", fontsize=10)
        ax.axhline(line + 1, color="#E4E4E4", linewidth=0.7)
    counts = frame["state"].value_counts()
    summary = ", ".join(f"{counts[state]} {state}" for state in STATES if state in counts)
    ax.text(0, len(shown) + 0.55, f"{len(frame)} edits: {summary}", color="#555555", fontsize=10)


def _answer(ax: Axes, answer: Answer) -> None:
    ax.axis("off")
    ax.set(xlim=(0, 1), ylim=(0, 1))
    route = "" if answer.route is None else f"; expert {expert_name(answer.route.expert)}"
    if answer.route is not None and answer.route.bypassed:
        route = "; no expert: the plain network"
    lines = [
        f"Asked: {shortened(answer.prompt, 110)}",
        f"unedited: {shortened(answer.base, 60)}",
        f"after {answer.step} batches: {shortened(answer.edited, 60)}{route}",
    ]
    for place, text in enumerate(lines):
        ax.text(0, 0.9 - place * 0.4, plain(text), va="top", fontsize=11)
