"""Two scores of every editor, and the way between them."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from .style import (
    GREY,
    SCORERS,
    axes_for,
    caption,
    legend_above,
    method_colour,
    over_seeds,
    shown,
    style,
    whisker,
    with_method,
)

HOLLOW = {"marker": "o", "markersize": 9, "markerfacecolor": "white", "markeredgewidth": 2}
SOLID = {"marker": "o", "markersize": 9}


@style()
def score_pairs(
    frame: pd.DataFrame, first: str, second: str, ax: Axes | None = None, score: str = "score"
) -> Axes:
    """A line for every editor from its ``first`` score (hollow) to its ``second`` one (solid).

    ``frame`` has a row per run with both columns, as ``probes.both_scorers`` (rows of one score)
    and ``probes.order`` return them. The editor with the best ``second`` score stands on top;
    ``score`` names the axis.
    """
    missing = [name for name in (first, second) if name not in frame]
    if missing:
        raise ValueError(f"the frame lacks {', '.join(missing)}; it has {', '.join(frame)}")
    rows = with_method(frame)
    best = rows.groupby("method", sort=False)[second].mean().sort_values(kind="stable").index[::-1]
    ax = axes_for(ax, (8, 1.4 + 0.4 * len(best)))
    for place, method in enumerate(best):
        of_method = rows[rows["method"] == method]
        colour = method_colour(of_method["editor"].iloc[0])
        start, end = (over_seeds(of_method, name) for name in (first, second))
        ax.plot([start[0], end[0]], [place, place], color=colour, linewidth=2.5, zorder=1)
        for (mean, low, high), look in ((start, HOLLOW), (end, SOLID)):
            whisker(ax, mean, low, high, place, horizontal=True)
            ax.plot(mean, place, color=colour, linestyle="", **look)
        ax.annotate(
            f"{shown(start[0])} to {shown(end[0])}",
            (1.04, place),
            xycoords=("axes fraction", "data"),
            va="center",
            fontsize=11,
        )
    ax.set_yticks(range(len(best)), best)
    ax.set_ylim(len(best) - 0.5, -0.5)
    ax.set_xlim(-0.03, 1.03)
    ax.set_xticks(np.linspace(0, 1, 6))
    ax.grid(axis="x", color="#DDDDDD", linewidth=0.8)
    ax.tick_params(axis="y", length=0)
    ax.set_xlabel(score)
    ends = ((first, HOLLOW), (second, SOLID))
    handles = [
        Line2D([], [], color=GREY, linestyle="", **look, label=name.replace("_", " "))
        for name, look in ends
    ]
    legend_above(ax, handles=handles)
    count = f"n = {rows['edits'].max():,} edits per run"
    both = {first, second} == set(SCORERS)
    measured = f"scorers: {' and '.join(SCORERS.values())}" if both else None
    caption(
        ax,
        rows,
        "points: mean over seeds; whiskers: lowest and highest seed",
        whiskers=False,
        count=count,
        measured=measured,
    )
    return ax
