"""The figures of the stepper: on the page, in files and in the static view."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from ... import plots
from ...adaptor.routing import BYPASS
from ..common.history import History
from ..common.points import inked, note, whole

GROUP_LOOKS = {  # colour, marker and its size by locality group; nested, so that equals all show
    "same_subject": ("#D55E00", "s", 10),
    "near": ("#0072B2", "o", 7.5),
    "far": ("#009E73", "^", 5),
    "text": ("#CC79A7", "D", 2.5),
}
NOT_ROUTED = "this editor sends\nno prompt anywhere"
GRID = "#88888855"  # seen on both grounds


def draw_reliability(ax: Axes, history: History) -> None:
    """Reliability of each batch: right after it was learned, and now."""
    table = history.reliability()
    colour = inked(plots.method_colour(history.session.editor.name))
    ring = {"markersize": 8, "markerfacecolor": "none", "label": "right after"}
    ax.plot(table["batch"], table["immediate"], "--o", color=colour, **ring)
    ax.plot(table["batch"], table["now"], "-o", color=colour, markersize=4.5, label="now")
    _over_batches(ax, history, "reliability")
    note(ax, f"n = {table['edits'].sum()} edits; scorer: exact match")


def draw_routes(ax: Axes, history: History) -> None:
    """Where the prompts of each batch go now: rows batches, columns experts, first the bypass."""
    routing, batches = history.routing(), len(history.session.stream)
    experts = 1 + max((int(expert) for expert in routing.columns), default=0)
    if history.session.editor.experts_frozen:  # one for each batch
        experts = max(experts, batches)
    grid = np.full((batches, experts + 1), np.nan)
    shares = routing.reindex(columns=range(BYPASS, experts), fill_value=0.0)
    grid[routing.index.astype(int) - 1] = shares.to_numpy()
    extent = (BYPASS - 0.5, experts - 0.5, batches + 0.5, 0.5)
    look = {"cmap": "cividis", "vmin": 0, "vmax": 1, "aspect": "auto", "interpolation": "nearest"}
    image = ax.imshow(grid, extent=extent, **look)
    if history.session.steps and routing.empty:
        ax.text(0.5, 0.5, NOT_ROUTED, transform=ax.transAxes, ha="center", va="center")
    ax.set(xlabel="goes to expert", ylabel="learned in batch")
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)
    ax.yaxis.set_major_locator(whole(8))
    ticks = [int(t) for t in whole(7).tick_values(0, max(1, experts - 1)) if 0 <= t < experts]
    ax.set_xticks([BYPASS, *ticks], ["–", *ticks])
    bar = ax.figure.colorbar(image, ax=ax, fraction=0.05, pad=0.02, label="share of prompts")
    bar.outline.set_visible(False)
    note(ax, "–: the plain network answers")


def draw_locality(ax: Axes, history: History) -> None:
    """How much else answers as before, asked right after each batch."""
    for group, (colour, marker, size) in GROUP_LOOKS.items():
        measured = [(step, at[group]) for step, at in history.locality.items() if group in at]
        look = {"marker": marker, "markersize": size, "markerfacecolor": "none"}
        points = np.array(measured).reshape(-1, 2).T
        ax.plot(*points, color=colour, label=group.replace("_", " "), **look)
    _over_batches(ax, history, "same as unedited")
    note(ax, "each batch's own locality prompts")


VIEWS: dict[str, tuple[Callable[[Axes, History], None], str]] = {  # what draws, and what it shows
    "Reliability": (draw_reliability, "Reliability of each batch, then and now"),
    "Routes": (draw_routes, "Experts that the prompts of each batch go to"),
    "Locality": (draw_locality, "Share of other answers that stayed as they were"),
}


def draw_all(figure: Figure | SubFigure, history: History) -> None:
    """All of them side by side."""
    for ax, (draw, _) in zip(figure.subplots(1, len(VIEWS)), VIEWS.values(), strict=True):
        draw(ax, history)


def _over_batches(ax: Axes, history: History, label: str) -> None:
    ax.set(ylim=(-0.04, 1.06), yticks=np.linspace(0, 1, 6), ylabel=label)
    ax.set(xlim=(0.5, len(history.session.stream) + 0.5), xlabel="batch")
    ax.spines["left"].set_bounds(0, 1)
    ax.grid(axis="y", color=GRID, linewidth=0.8)
    ax.xaxis.set_major_locator(whole(8))
    place = {"loc": "lower left", "bbox_to_anchor": (-0.12, 1.0), "borderaxespad": 0.1}
    ax.legend(ncols=2, handlelength=1.5, columnspacing=1.2, **place)
