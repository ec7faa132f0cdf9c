"""What was learned and what is left of it: immediate, final, the whole matrix, locality."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from .bands import LOWEST_TO_HIGHEST, mean_line
from .cells import ROOM_FOR_A_NUMBER, bar_beside, draw_cells, middles
from .style import (
    GREY,
    GROUP_LABELS,
    axes_for,
    caption,
    chosen_metric,
    inches_across,
    legend_above,
    method_colour,
    over_seeds,
    shown,
    style,
    tint,
    whisker,
    with_method,
)

RING = {"marker": "o", "markersize": 9, "markerfacecolor": "none"}
DOT = {"marker": "o", "markersize": 5}


@style()
def immediate_vs_final(
    frame: pd.DataFrame,
    ax: Axes | None = None,
    metric: str = "reliability",
    group: str | None = None,
) -> Axes:
    """Two bars per editor: right after its batch, and after the last one.

    ``frame`` comes from ``probes.forgetting``.
    """
    rows = chosen_metric(frame, metric, group)
    names = list(rows["method"].unique())
    ax = axes_for(ax, (8, 1.5 + 0.95 * len(names)))
    height = 0.38
    for place, name in enumerate(names):
        colour = method_colour(rows.loc[rows["method"] == name, "editor"].iloc[0])
        for phase, offset, face in (
            ("immediate", -height / 2, tint(colour)),
            ("final", height / 2, colour),
        ):
            mean, low, high = over_seeds(rows[rows["method"] == name], phase)
            ax.barh(place + offset, mean, height * 0.94, color=face, edgecolor=colour, label=phase)
            whisker(ax, mean, low, high, place + offset, horizontal=True)
            ax.annotate(
                f"{phase}  {shown(mean)}",
                (np.nan_to_num(high), place + offset),
                xytext=(5, 0),
                textcoords="offset points",
                va="center",
                fontsize=11,
            )
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(names) - 0.45, -0.55)
    ax.set_xlim(0, 1.22)
    ax.set_xticks(np.linspace(0, 1, 6))
    ax.spines["bottom"].set_bounds(0, 1)
    ax.tick_params(axis="y", length=0)
    ax.set_xlabel(metric if group is None else f"{metric}, {group}")
    caption(ax, rows, "bars: mean over seeds")
    return ax


@style()
def forgetting_matrix(frame: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Reliability of every batch after every later step, mean over seeds; one editor.

    ``frame`` comes from ``probes.forgetting_matrix``.
    """
    rows = with_method(frame)
    names = list(rows["method"].unique())
    if len(names) != 1:
        raise ValueError(
            f"one heatmap shows one editor in one order, the frame has {', '.join(names)}; "
            "filter it and draw each on its own ax"
        )
    ax = axes_for(ax, (7, 6))
    ax.set_aspect("equal")
    table = rows.pivot_table(index="measured_after", columns="batch", values="value")
    steps = range(1, int(table.index.max()) + 1)
    table = table.reindex(index=steps, columns=steps)  # (T, T)
    cell = inches_across(ax) / len(steps)
    numbers = table.map(lambda value: "" if np.isnan(value) else shown(value))
    mesh = draw_cells(ax, table, numbers if cell >= ROOM_FOR_A_NUMBER else None, square=True)
    ax.set_xticks(*middles(steps, cell))
    ax.set_yticks(*middles(steps, cell))
    ax.set_xlabel("learned in batch")
    ax.set_ylabel("measured after batch")
    ax.set_title(names[0], loc="left")
    bar_beside(ax, mesh, "reliability")
    caption(ax, rows, "cells: mean over seeds" if rows["seed"].nunique() > 1 else "")
    return ax


@style()
def locality(frame: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """What else stayed as it was: a cluster of bars per locality group, a bar per editor.

    ``frame`` comes from ``probes.locality``.
    """
    rows = with_method(frame)
    names = list(rows["method"].unique())
    groups = [group for group in GROUP_LABELS if group in set(rows["group"])]
    ax = axes_for(ax, (float(np.clip(1 + 0.6 * len(names) * len(groups), 8, 16)), 5))
    width = 0.84 / len(names)
    crowded = inches_across(ax) * width / len(groups) < 0.42
    for index, name in enumerate(names):
        of_name = rows[rows["method"] == name]
        colour = method_colour(of_name["editor"].iloc[0])
        for place, group in enumerate(groups):
            at = place - 0.42 + (index + 0.5) * width
            mean, low, high = over_seeds(of_name[of_name["group"] == group], "value")
            ax.bar(
                at,
                mean,
                width * 0.92,
                color=colour,
                label=name if place == 0 else f"_{name}",
            )
            whisker(ax, mean, low, high, at, horizontal=False)
            ax.annotate(
                shown(mean),
                (at, np.nan_to_num(high)),
                xytext=(0, 3),
                textcoords="offset points",
                ha="center",
                va="bottom",
                rotation="vertical" if crowded else "horizontal",
                fontsize=10,
            )
    ax.set_xticks(range(len(groups)), [GROUP_LABELS[group] for group in groups])
    ax.tick_params(axis="x", length=0)
    ax.set_ylim(0, 1.16 if crowded else 1.08)
    ax.set_yticks(np.linspace(0, 1, 6))
    ax.spines["left"].set_bounds(0, 1)
    ax.set_ylabel("same as the unedited host\nafter the last batch")
    legend_above(ax)
    caption(ax, rows, "bars: mean over seeds")
    return ax


@style()
def reliability_over_batches(frame: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Immediate (dashed) and final (solid) reliability of each batch, a colour per editor.

    ``frame`` comes from ``probes.forgetting``.
    """
    rows = chosen_metric(frame, "reliability", None)
    names = list(rows["method"].unique())
    ax = axes_for(ax, (8, 5))
    handles = []
    for name in names:
        of_name = rows[rows["method"] == name]
        colour = method_colour(of_name["editor"].iloc[0])
        for phase, look in (("immediate", {"linestyle": "--"} | RING), ("final", DOT)):
            shaded = phase == "final" and rows["seed"].nunique() > 1
            band = LOWEST_TO_HIGHEST if shaded else None
            label = f"{name}, {phase}"
            mean_line(ax, of_name, "batch", phase, band=band, label=label, color=colour, **look)
        handles.append(Patch(color=colour, label=name))
    handles.append(Line2D([], [], color=GREY, linestyle="--", **RING, label="immediate"))
    handles.append(Line2D([], [], color=GREY, **DOT, label="final"))
    ax.xaxis.set_major_locator(MaxNLocator(nbins=12, integer=True, min_n_ticks=1))
    ax.set_ylim(-0.02, 1.04)
    ax.set_yticks(np.linspace(0, 1, 6))
    ax.grid(axis="y", color="#DDDDDD", linewidth=0.8)
    ax.set_xlabel("batch")
    ax.set_ylabel("reliability")
    legend_above(ax, handles=handles)
    shaded = "lines: mean over seeds; shaded: lowest to highest seed of final"
    caption(ax, rows, shaded if rows["seed"].nunique() > 1 else "", whiskers=False)
    return ax
