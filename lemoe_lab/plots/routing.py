"""Where prompts go: the expert that learned an edit against the one that answers it later."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from .. import probes
from .look import (
    axes_for,
    caption,
    inches_across,
    legend_above,
    line_over_steps,
    method_looks,
    shown,
    style,
    with_method,
)

PROMPTS = {
    "": "routes of own prompts",
    "light": "routes of light rewordings",
    "strong": "routes of strong rewordings",
}
# Inches: what a cell must measure for a number or a frame in it, and how far in the frame lies.
ROOM_FOR_A_NUMBER, ROOM_FOR_A_FRAME, FRAME_MARGIN = 0.36, 0.15, 0.012
ROOM_FOR_A_WORD = 0.42  # between the tick labels of two columns


@style()
def routing_heatmap(
    frame: pd.DataFrame,
    ax: Axes | None = None,
    group: str = "",
    step: int | None = None,
    colour_bar: bool = True,
) -> Axes:
    """Expert at training against expert at inference, rows sum to 1; one editor in one order.

    ``frame`` comes from ``probes.routing``; ``group`` and ``step`` choose the prompts and the time
    as in ``probes.routing_matrix``. Framed cells: the expert that learned the edit answers it.
    Rows of experts that learned nothing stay empty. Of several heatmaps side by side only the
    last one needs its ``colour_bar``.
    """
    table = probes.routing_matrix(frame, group, step)
    experts = len(table)
    bypassed = "bypass" in table
    ax = axes_for(ax, (7 + 0.6 * bypassed, 6))
    look = {"cmap": "cividis", "vmin": 0, "vmax": 1, "interpolation": "nearest"}
    places, right, bottom = [float(i) for i in range(experts)], experts - 0.5, experts - 0.5
    square = table[range(experts)].to_numpy()
    image = ax.imshow(square, extent=(-0.5, right, bottom, -0.5), **look)
    _border(ax, -0.5, right, bottom)
    if bypassed:
        width = max(0.75, 0.06 * experts)
        left = right + 0.4 * width
        right = left + width
        places.append((left + right) / 2)
        ax.imshow(table[["bypass"]].to_numpy(), extent=(left, right, bottom, -0.5), **look)
        _border(ax, left, right, bottom)
    ax.set_xlim(-0.5, right)
    ax.set_ylim(bottom, -0.5)
    ax.set_anchor("NW")  # titles of unequal heatmaps side by side stay on one line
    cell = inches_across(ax) / (right + 0.5)
    if cell >= ROOM_FOR_A_FRAME:
        _frame_diagonal(ax, experts, FRAME_MARGIN / cell)
    if cell >= ROOM_FOR_A_NUMBER:
        _write_shares(ax, table, places)
    _label_experts(ax, places, bypassed, cell)
    if colour_bar:
        _draw_colour_bar(ax, image)
    rows = _counted(frame, group)
    if step is not None:
        rows = rows[rows["step"] == step]
    ax.set_title("{editor} ({order})".format(**rows.iloc[0]), loc="left")
    caption(ax, rows, "cells: all seeds together", whiskers=False, measured=PROMPTS[group])
    return ax


@style()
def routing_consistency(frame: pd.DataFrame, ax: Axes | None = None, group: str = "") -> Axes:
    """Share of the edits so far that still go to the expert that learned them, batch after batch.

    ``frame`` comes from ``probes.routing``. Runs of a single batch beside longer ones (batch mode)
    are drawn as a level line.
    """
    rows = with_method(frame)
    table = probes.routing_consistency(frame, group)
    table = table.merge(rows[["editor", "order", "method"]].drop_duplicates())
    ax = axes_for(ax, (8, 5))
    last = table["step"].max()
    for method, look in method_looks(rows).items():
        line_over_steps(ax, table[table["method"] == method], last, method, look)
    ax.xaxis.set_major_locator(MaxNLocator(nbins=12, integer=True, min_n_ticks=1))
    ax.set_ylim(-0.02, 1.04)
    ax.set_yticks(np.linspace(0, 1, 6))
    ax.grid(axis="y", color="#DDDDDD", linewidth=0.8)
    ax.set_xlabel("batches learned")
    ax.set_ylabel("edits at the expert\nthat learned them")
    legend_above(ax)
    note = "lines: mean over seeds; shaded: lowest to highest seed"
    caption(ax, _counted(frame, group), note, whiskers=False, measured=PROMPTS[group])
    return ax


def _counted(frame: pd.DataFrame, group: str) -> pd.DataFrame:
    return frame[(frame["group"] == group) & ~frame["superseded"]]


def _border(ax: Axes, left: float, right: float, bottom: float) -> None:
    size = (right - left, bottom + 0.5)
    ax.add_patch(Rectangle((left, -0.5), *size, fill=False, edgecolor="#BBBBBB"))


def _frame_diagonal(ax: Axes, experts: int, margin: float) -> None:
    side = 1 - 2 * margin
    for expert in range(experts):
        corner = (expert - 0.5 + margin, expert - 0.5 + margin)
        ax.add_patch(Rectangle(corner, side, side, fill=False, edgecolor="white", zorder=3))


def _write_shares(ax: Axes, table: pd.DataFrame, places: list[float]) -> None:
    for row, shares in enumerate(table.to_numpy()):
        for place, share in zip(places, shares, strict=True):
            if share >= 0.005:  # a zero is dark enough, and NaN is nothing
                colour = "black" if share > 0.55 else "white"
                text = shown(share)
                ax.text(place, row, text, ha="center", va="center", fontsize=10, color=colour)


def _label_experts(ax: Axes, places: list[float], bypassed: bool, cell: float) -> None:
    experts = len(places) - bypassed
    numbers = list(range(0, experts, int(np.ceil(0.28 / cell))))
    ax.set_yticks(numbers, map(str, numbers))
    if bypassed:
        numbers = [i for i in numbers if (places[-1] - i) * cell > ROOM_FOR_A_WORD]
        ax.set_xticks([*numbers, places[-1]], [*map(str, numbers), "bypass"])
    else:
        ax.set_xticks(numbers, map(str, numbers))
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.set_xlabel("expert at inference")
    ax.set_ylabel("expert at training")


def _draw_colour_bar(ax: Axes, image: object) -> None:
    beside = ax.inset_axes((1.04, 0, 0.05, 1))
    bar = ax.figure.colorbar(image, cax=beside, label="share of prompts")
    bar.outline.set_visible(False)
