"""Scores over the number of edits: one line per editor."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullLocator

from .bands import mean_line
from .style import axes_for, caption, method_styles, over_seeds, style, with_method

LABELS = {
    "average": "mean of reliability,\ngenerality and locality",
    "reliability": "reliability of all edits so far",
    "generality": "generality (rewordings)",
    "locality": "locality (other prompts)",
}
APART = 0.042  # share of the axis's height between two names


@style()
def scaling(
    frame: pd.DataFrame, ax: Axes | None = None, score: str = "average", legend: bool = True
) -> Axes:
    """One score over the edits learned so far, a colour per editor, names at the lines' ends.

    ``frame`` comes from ``probes.scaling``; ``score`` is one of its scores. Lines are means over
    seeds, shaded from the lowest to the highest.
    """
    if score not in LABELS:
        raise ValueError(f"score must be one of {', '.join(LABELS)}, not {score!r}")
    rows = with_method(frame)
    ax = axes_for(ax, (10, 6))
    ends: dict[str, float] = {}
    looks = method_styles(rows)
    for method, look in looks.items():
        of_method = rows[rows["method"] == method]
        mean_line(ax, of_method, "edits", score, label=method, **look)
        at_end = of_method[of_method["edits"] == of_method["edits"].max()]
        ends[method] = over_seeds(at_end, score)[0]
    ax.set_xscale("log")
    ticks = sorted(rows["edits"].unique())
    ax.set_xticks(ticks)
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    ax.set_ylim(-0.02, 1.02)
    ax.grid(axis="y", color="#DDDDDD", linewidth=0.8)
    ax.set_xlabel("edits learned")
    ax.set_ylabel(LABELS[score])
    if legend:
        _names_at_ends(ax, ends, looks)
    most = rows["edits"].max()
    note = "lines: mean over seeds; shaded: lowest to highest seed"
    caption(ax, rows, note, whiskers=False, count=f"n = up to {most:,} edits per run")
    return ax


def _names_at_ends(ax: Axes, ends: dict[str, float], looks: dict[str, dict]) -> None:
    """The name of every line beside its end, moved apart where they would overlap."""
    from sklearn.isotonic import isotonic_regression  # takes a second, which only who draws pays

    order = sorted(ends, key=ends.__getitem__)
    steps = APART * np.arange(len(order))
    # As near to the ends as names can be that keep their order and their distance.
    places = isotonic_regression(np.array([ends[method] for method in order]) - steps)
    places = places.clip(0.0, max(0.0, 1.0 - steps[-1])) + steps
    for method, place in zip(order, places, strict=True):
        ax.annotate(
            method,
            xy=(1, ends[method]),
            xycoords=("axes fraction", "data"),
            xytext=(1.06, place),
            textcoords=("axes fraction", "data"),
            va="center",
            fontsize=11,
            color="black",
            arrowprops={
                "arrowstyle": "-",
                "color": looks[method]["color"],
                "linewidth": 2,
                "relpos": (0, 0.5),
                "shrinkB": 4,
            },
            annotation_clip=False,
        )
