"""Where prompts go: the expert that learned an edit against the one that answers it later."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from .. import probes
from ..probes.routing import at_step, prompts_of
from .bands import line_over_steps
from .cells import ROOM_FOR_A_NUMBER, bar_beside, draw_cells, middles
from .style import (
    axes_for,
    caption,
    inches_across,
    legend_above,
    method_styles,
    shown,
    style,
    with_method,
)

PROMPTS = {
    "": "routes of own prompts",
    "light": "routes of light rewordings",
    "strong": "routes of strong rewordings",
}
# Inches: what a cell must measure for a frame in it, and how far in the frame lies.
ROOM_FOR_A_FRAME, FRAME_MARGIN = 0.15, 0.012
ROOM_FOR_A_WORD = 0.42  # between the tick labels of two columns
LEAST_NUMBER = 0.005  # a zero is dark enough, and NaN is nothing


@style()
def routing_heatmap(
    frame: pd.DataFrame,
    ax: Axes | None = None,
    group: str = "",
    step: int | None = None,
    colour_bar: bool = True,
    *,
    matrix: pd.DataFrame | None = None,
) -> Axes:
    """Expert at training against expert at inference, rows sum to 1; one editor in one order.

    ``frame`` comes from ``probes.routing``; ``group`` and ``step`` choose the prompts and the time
    as in ``probes.routing_matrix``, which also makes the ``matrix`` that is drawn, if none is
    passed. Framed cells: the expert that learned the edit answers it.
    Rows of experts that learned nothing stay empty. Of several heatmaps side by side only the
    last one needs its ``colour_bar``.
    """
    table = probes.routing_matrix(frame, group, step) if matrix is None else matrix
    experts = len(table)
    bypassed = "bypass" in table
    ax = axes_for(ax, (7 + 0.6 * bypassed, 6))
    ax.set_aspect("equal")
    ax.set_anchor("NW")  # titles of unequal heatmaps side by side stay on one line
    cell = inches_across(ax) / len(table.columns)
    numbers = table.map(lambda share: shown(share) if share >= LEAST_NUMBER else "")
    mesh = draw_cells(ax, table, numbers if cell >= ROOM_FOR_A_NUMBER else None, square=True)
    ax.add_patch(Rectangle((0, 0), experts, experts, fill=False, edgecolor="#BBBBBB"))
    if bypassed:
        ax.axvline(experts, color="white", linewidth=4)  # past the experts
        ax.add_patch(Rectangle((experts, 0), 1, experts, fill=False, edgecolor="#BBBBBB"))
    if cell >= ROOM_FOR_A_FRAME:
        _frame_diagonal(ax, experts, FRAME_MARGIN / cell)
    _label_experts(ax, experts, bypassed, cell)
    if colour_bar:
        bar_beside(ax, mesh, "share of prompts")
    rows = prompts_of(frame, group)
    rows = rows if step is None else at_step(rows, step)
    ax.set_title("{editor} ({order})".format(**rows.iloc[0]), loc="left")
    caption(ax, rows, "cells: all seeds together", whiskers=False, measured=PROMPTS[group])
    return ax


@style()
def routing_consistency(
    frame: pd.DataFrame,
    ax: Axes | None = None,
    group: str = "",
    *,
    consistency: pd.DataFrame | None = None,
) -> Axes:
    """Share of the edits so far that still go to the expert that learned them, batch after batch.

    ``frame`` comes from ``probes.routing``, and what is drawn is ``consistency``, by default
    ``probes.routing_consistency(frame, group)``. Runs of a single batch beside longer ones (batch
    mode) are drawn as a level line.
    """
    rows = with_method(frame)
    table = probes.routing_consistency(frame, group) if consistency is None else consistency
    table = table.merge(rows[["editor", "order", "method"]].drop_duplicates())
    ax = axes_for(ax, (8, 5))
    last = table["step"].max()
    for method, look in method_styles(rows).items():
        line_over_steps(ax, table[table["method"] == method], last, method, look)
    ax.xaxis.set_major_locator(MaxNLocator(nbins=12, integer=True, min_n_ticks=1))
    ax.set_ylim(-0.02, 1.04)
    ax.set_yticks(np.linspace(0, 1, 6))
    ax.grid(axis="y", color="#DDDDDD", linewidth=0.8)
    ax.set_xlabel("batches learned")
    ax.set_ylabel("edits at the expert\nthat learned them")
    legend_above(ax)
    note = "lines: mean over seeds; shaded: lowest to highest seed"
    caption(ax, prompts_of(frame, group), note, whiskers=False, measured=PROMPTS[group])
    return ax


def _frame_diagonal(ax: Axes, experts: int, margin: float) -> None:
    side = 1 - 2 * margin
    for expert in range(experts):
        corner = (expert + margin, expert + margin)
        ax.add_patch(Rectangle(corner, side, side, fill=False, edgecolor="white", zorder=3))


def _label_experts(ax: Axes, experts: int, bypassed: bool, cell: float) -> None:
    places, numbers = middles(range(experts), cell)
    ax.set_yticks(places, numbers)
    if bypassed:
        beside = experts + 0.5
        room = (beside - places) * cell > ROOM_FOR_A_WORD
        kept = [number for number, fits in zip(numbers, room, strict=True) if fits]
        ax.set_xticks([*places[room], beside], [*kept, "bypass"])
    else:
        ax.set_xticks(places, numbers)
    ax.set_xlabel("expert at inference")
    ax.set_ylabel("expert at training")
