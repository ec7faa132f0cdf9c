"""All scores of all editors at a glance: one row per method, one column per score."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from .cells import draw_cells
from .style import axes_for, caption, shown, style, with_method

COLUMNS = {
    "immediate": "immediate\nreliability",
    "reliability": "final\nreliability",
    "generality_light": "generality\nlight",
    "generality_strong": "generality\nstrong",
    "locality_same_subject": "locality\nsame subject",
    "locality_near": "locality\nnear",
    "locality_far": "locality\nfar",
    "locality_text": "text\n(ratio)",
}


@style()
def score_table(frame: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """A heatmap with its numbers: mean over the runs of each editor and order.

    ``frame`` comes from ``probes.order``; scores that it lacks have no column.
    """
    rows = with_method(frame)
    columns = [name for name in COLUMNS if name in rows]
    table = rows.groupby("method", sort=False)[columns].mean()  # (methods, scores)
    ax = axes_for(ax, (3.2 + 1.15 * len(columns), 1.4 + 0.42 * len(table)))
    draw_cells(ax, table, table.map(shown), size=11)
    ax.set_xticks(np.arange(len(columns)) + 0.5, [COLUMNS[name] for name in columns])
    ax.set_yticks(np.arange(len(table)) + 0.5, table.index)
    ax.xaxis.tick_top()
    ax.tick_params(length=0)
    ax.set(xlabel="", ylabel="")
    sizes = f"n = {rows['edits'].max():,} edits in {rows['batches'].max()} batches per run"
    note = "cells: mean over runs" if len(rows) > len(table) else ""
    caption(ax, rows, note, whiskers=False, count=sizes)
    return ax
