"""The same edits in many orders: how far apart they end, and whether alike batches help."""

from __future__ import annotations

import textwrap

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from ..probes import order_summary, similarity_correlation
from .style import GREY, axes_for, caption, inches_across, method_colour, style

MARKERS = {
    "random": "o",
    "given": "o",
    "topic": "^",
    "k-means": "s",
    "hierarchical": "D",
    "mixed": "X",
}
OTHER_MARKERS = ("v", "P", "*", "<", ">", "p", "h")
SIZES = {"o": 7.0, "s": 6.4, "D": 6.2, "^": 8.0, "X": 8.4}  # that look alike
POINT_HEIGHT, POINT_WIDTH = 0.033, 0.1  # in the units of the violins' axes
HALF_WIDTH = 0.36
VALUES = {
    "reliability": "final reliability",
    "immediate": "immediate reliability",
    "generality_light": "final generality, light rewordings",
    "generality_strong": "final generality, strong rewordings",
    "locality_same_subject": "final locality, same subject",
    "locality_near": "final locality, near",
    "locality_far": "final locality, far",
    "locality_text": "final locality, text",
}
SIMILARITIES = {
    "within": "similarity of two edits in one batch",
    "between": "similarity of two edits in different batches",
}


@style()
def order_violin(
    frame: pd.DataFrame,
    ax: Axes | None = None,
    value: str = "reliability",
    *,
    summary: pd.DataFrame | None = None,
) -> Axes:
    """One violin per editor over the orders, and every order as a point.

    ``frame`` comes from ``probes.order``; ``value`` is one of its columns. Means and spreads are
    those of ``summary``, by default ``probes.order_summary(frame, value)``.
    """
    summary = order_summary(_known(frame, value), value) if summary is None else summary
    names = list(summary["editor"])
    ax = axes_for(ax, (max(6, 1.5 + 1.7 * len(names)), 5))
    markers = _markers(frame)
    for place, row in summary.iterrows():
        runs = frame[frame["editor"] == row["editor"]].dropna(subset=value)
        colour = method_colour(row["editor"])
        if row["spread"] > POINT_HEIGHT and row["orders"] > 2:
            _violin(ax, runs[value].to_numpy(float), place, colour)
        ax.hlines(row["mean"], place - HALF_WIDTH, place + HALF_WIDTH, color=GREY, linewidth=1.2)
        aside = place + side_by_side(runs[value].to_numpy(float))
        for at, order, height in zip(aside, runs["order"], runs[value], strict=True):
            _point(ax, at, height, markers[order], colour)
        ax.annotate(
            f"spread\n{row['spread']:.2f}",
            (place, 1.0),
            xytext=(0, 8),
            textcoords="offset points",
            ha="center",
            va="bottom",
            fontsize=11,
        )
    width = max(9, int(inches_across(ax) / len(names) * 9))
    ax.set_xticks(range(len(names)), [textwrap.fill(name, width) for name in names])
    ax.set_xlim(-0.6, len(names) - 0.4)
    ax.tick_params(axis="x", length=0)
    ax.set_ylim(-0.02, 1.17)
    ax.set_yticks(np.linspace(0, 1, 6))
    ax.spines["left"].set_bounds(0, 1)
    ax.grid(axis="y", color="#DDDDDD", linewidth=0.8)
    ax.set_ylabel(VALUES.get(value, value))
    if len(markers) > 1:
        _legend_in_columns(ax, *([handle] for handle in _marker_legend(markers)))
    caption(ax, frame, count=_orders(frame))
    return ax


@style()
def similarity_scatter(
    frame: pd.DataFrame,
    ax: Axes | None = None,
    similarity: str = "within",
    value: str = "reliability",
    *,
    correlation: pd.DataFrame | None = None,
) -> Axes:
    """How alike the edits of a batch are against how the run ends; a point per run.

    ``frame`` comes from ``probes.order``. The legend gives Spearman's rho of every editor with its
    95% bootstrap interval over the orders: those of ``correlation``, by default
    ``probes.similarity_correlation(frame, value)``.
    """
    rows = _known(_known(frame, value), similarity)
    correlation = similarity_correlation(rows, value) if correlation is None else correlation
    table = correlation[correlation["similarity"] == similarity].set_index("editor")
    ax = axes_for(ax, (8, 5.5))
    markers = _markers(rows)
    methods = []
    for editor, runs in rows.groupby("editor", sort=False):
        colour = method_colour(editor)
        for order, x, y in runs[["order", similarity, value]].itertuples(index=False):
            _point(ax, x, y, markers[order], colour)
        label = f"{editor}:  {_rho(table.loc[editor])}"
        methods.append(
            Line2D([], [], linestyle="none", marker="o", markersize=8, color=colour, label=label)
        )
    ax.set_ylim(-0.02, 1.04)
    ax.set_yticks(np.linspace(0, 1, 6))
    ax.grid(axis="y", color="#DDDDDD", linewidth=0.8)
    ax.margins(x=0.06)
    ax.set_xlabel(f"{SIMILARITIES[similarity]} (mean cosine)")
    ax.set_ylabel(VALUES.get(value, value))
    _legend_in_columns(ax, methods, _marker_legend(markers) if len(markers) > 1 else [])
    caption(ax, rows, count=_orders(rows))
    return ax


def _known(frame: pd.DataFrame, column: str) -> pd.DataFrame:
    """The rows that have a value in ``column``."""
    if column not in frame or frame[column].isna().all():
        raise ValueError(
            f"the frame has no {column!r}; it comes from probes.order and has "
            f"{', '.join(frame.columns)}"
        )
    return frame.dropna(subset=column)


def _markers(frame: pd.DataFrame) -> dict[str, str]:
    """A marker for every order in the frame."""
    orders = list(frame["order"].unique())
    others = [order for order in orders if order not in MARKERS]
    extra = {order: OTHER_MARKERS[i % len(OTHER_MARKERS)] for i, order in enumerate(others)}
    return {order: MARKERS.get(order) or extra[order] for order in orders}


def _marker_legend(markers: dict[str, str]) -> list[Line2D]:
    return [
        Line2D(
            [],
            [],
            linestyle="none",
            marker=marker,
            markersize=SIZES.get(marker, 7),
            color=GREY,
            label=order,
        )
        for order, marker in markers.items()
    ]


def _legend_in_columns(ax: Axes, *columns: list[Line2D]) -> None:
    """A legend above ``ax`` with one column for every list of handles that is not empty."""
    columns = tuple(column for column in columns if column)
    height = max(map(len, columns))
    nothing = Line2D([], [], linestyle="none", label=" ")
    ax.legend(
        handles=[h for column in columns for h in [*column, *[nothing] * (height - len(column))]],
        loc="lower left",
        bbox_to_anchor=(0, 1.01),
        ncols=len(columns),
        borderaxespad=0,
        handletextpad=0.3,
        columnspacing=1.2,
    )


def _violin(ax: Axes, values: np.ndarray, place: int, colour: str) -> None:
    import seaborn  # takes a second, which only who draws should pay

    seaborn.violinplot(
        x=np.full(len(values), place),
        y=values,
        orient="x",
        native_scale=True,
        width=2 * HALF_WIDTH,
        cut=0,  # no run ends beyond the best and the worst
        inner=None,  # the points are drawn one by one
        color=colour,
        saturation=1,
        linewidth=1,
        linecolor=colour,
        alpha=0.25,
        ax=ax,
    )


def _point(ax: Axes, x: float, y: float, marker: str, colour: str) -> None:
    ax.plot(
        x,
        y,
        linestyle="none",
        marker=marker,
        markersize=SIZES.get(marker, 7),
        color=colour,
        markeredgecolor="white",
        markeredgewidth=0.6,
    )


def side_by_side(values: np.ndarray) -> np.ndarray:
    """Offsets (n,) from the middle that keep points of nearly equal values (n,) apart."""
    offsets = np.zeros(len(values))
    placed: list[int] = []
    steps = [sign * step for step in range(len(values)) for sign in (1, -1)]
    for index in np.argsort(values, kind="stable"):
        near = [i for i in placed if values[index] - values[i] < POINT_HEIGHT]
        taken = {round(offsets[i]) for i in near}
        offsets[index] = next(step for step in steps if step not in taken)
        placed.append(index)
    return offsets * min(POINT_WIDTH, HALF_WIDTH / max(1, np.abs(offsets).max()))


def _rho(row: pd.Series) -> str:
    if np.isnan(row["rho"]):
        return "ρ undefined, all orders end alike" if row["orders"] > 2 else "ρ undefined"
    return f"ρ = {row['rho']:.2f} [{row['low']:.2f}, {row['high']:.2f}]"


def _orders(frame: pd.DataFrame) -> str:
    runs = frame.groupby("editor").size()
    several = f"{runs.min()}" if runs.min() == runs.max() else f"{runs.min()} to {runs.max()}"
    edits, batches = frame["edits"].max(), frame["batches"].max()
    return f"n = {several} runs per editor, each {edits:,} edits in {batches} batches"
