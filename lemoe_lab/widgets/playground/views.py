"""What the playground shows: edits as points, batches as colours, runs side by side."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from ... import plots
from ..common.elements import number, plain
from ..common.points import beside, group_look, inked, note, whole
from .model import PlaygroundModel

GREY, GRID = "#AAAAAA", "#88888855"  # seen on both grounds
FEW_BATCHES = 16  # so many have room for a marker and a number each
THIN = 6  # a bar is never thicker than with so many batches
MEASURES = ("reliability", "generality", "locality")
NUMBERS = {name: name for name in ("within", "between", "immediate", *MEASURES)}
NUMBERS["reliability"] = "final"


def draw_order(figure: Figure | SubFigure, model: PlaygroundModel) -> None:
    """The map of the edits coloured by batch, beside it the batches with their sizes."""
    left, right = figure.subplots(1, 2, width_ratios=[2.6, 1])
    _draw_points(left, model)
    _draw_batches(right, model)


def _draw_points(ax: Axes, model: PlaygroundModel) -> None:
    axes, places = model.map()
    for batch in model.stream:
        points = np.stack([places[edit.id] for edit in batch])  # (n, 2)
        waiting = {"marker": "o", "markersize": 5, "color": GREY, "linestyle": "none"}
        formed = batch.step <= model.formed
        look = group_look(batch.step - 1) if formed else waiting
        ax.plot(points[:, 0], points[:, 1], **{**look, "zorder": 2 + formed})
    axes.label(ax)
    ax.margins(0.07)
    alike, order = model.similarity, model.order
    note(
        ax,
        f"n = {len(places)} edits, mean prompt embeddings; {order.planner} order, "
        f"seed {order.seed}\nmean cosine similarity within batches {_shown(alike['within'])}, "
        f"between {_shown(alike['between'])}",
    )


def _draw_batches(ax: Axes, model: PlaygroundModel) -> None:
    table = model.batches()
    few, widest = len(table) <= FEW_BATCHES, table["edits"].max()
    for row in table.itertuples():
        formed = row.batch <= model.formed
        look = group_look(row.batch - 1)
        ax.barh(row.batch, row.edits, height=0.72, color=look["color"] if formed else GREY)
        if few:
            if formed:
                look |= {"color": look["markeredgecolor"], "markeredgecolor": "none"}
                ax.plot(0.08 * widest, row.batch, **look)
            text = f"{row.edits}" + ("" if np.isnan(row.within) else f" · {_shown(row.within)}")
            beside(ax, text, (row.edits, row.batch), (4, 0), fontsize=12)
    ax.set(ylim=(max(len(table), THIN) + 0.6, 0.4), ylabel="batch")
    ax.set(xlim=(0, widest * (1.75 if few else 1.05)), xlabel="edits")
    ticks = whole(9).tick_values(1, len(table))
    ax.set_yticks([int(tick) for tick in ticks if 1 <= tick <= len(table)])
    ax.xaxis.set_major_locator(whole(3))
    note(ax, "size · similarity inside" if few else f"{len(table)} batches")


def draw_runs(figure: Figure | SubFigure, table: pd.DataFrame) -> None:
    """Reliability, generality and locality of every run; a ring is the reliability right after."""
    panels = figure.subplots(1, len(MEASURES), sharey=True)
    rows = range(len(table))
    colours = [inked(plots.method_colour(editor)) for editor in table["editor"]]
    for ax, measure in zip(panels, MEASURES, strict=True):
        if measure == "reliability":
            ring = {"s": 121, "facecolors": "none", "edgecolors": colours, "clip_on": False}
            ax.scatter(table["immediate"], rows, **ring)
        ax.scatter(table[measure], rows, s=49, c=colours, clip_on=False)
        for place, value in enumerate(table[measure]):
            side = {"by": (-9, 0), "ha": "right"} if value > 0.5 else {"by": (9, 0), "ha": "left"}
            beside(ax, _shown(value), (value, place), **side)
        label = "final reliability" if measure == "reliability" else measure
        ax.set(xlim=(-0.03, 1.03), xticks=[0, 0.5, 1], xlabel=label)
        ax.grid(axis="x", color=GRID, linewidth=0.8)
        ax.tick_params(axis="y", length=0)
        ax.spines["left"].set_visible(False)
    panels[0].set_yticks(rows, [plain(run_label(run)) for run in table.itertuples()])
    panels[0].set_ylim(len(table) - 0.4, -0.6)
    figure.supxlabel(runs_note(table), x=0.01, ha="left", fontsize=10, alpha=0.75)


def run_label(run: object) -> str:
    """Number, order, batch size and editor of a run."""
    return f"{run.run}: {run.order} × {run.batch_size}, {run.editor}"


def runs_note(table: pd.DataFrame) -> str:
    """The caption of the runs: how many edits, which seeds, which scorer."""
    seeds = sorted(set(table["order_seed"]) | set(table["editor_seed"]))
    seeded = f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"
    counts = sorted(table["edits"].unique())
    edits = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return (
        f"n = {edits} edits a run, {seeded}; scorer: exact match; ring: right after each batch"
        "\ngenerality: light and strong rewordings; locality: same subject, near and far"
    )


def runs_shown(table: pd.DataFrame) -> pd.DataFrame:
    """The table of runs as the page shows it."""
    pinned = table["pinned"].map({True: " pinned", False: ""})
    texts = {
        "run": table["run"].astype(str) + pinned,
        "order": table["order"] + " × " + table["batch_size"].astype(str),
        "editor": table["editor"],
        "edits": table["edits"],
        "seeds": table["order_seed"].astype(str) + ", " + table["editor_seed"].astype(str),
    }
    numbers = {label: [_shown(value) for value in table[name]] for name, label in NUMBERS.items()}
    return pd.DataFrame({**texts, **numbers, "seconds": table["seconds"].map("{:.1f}".format)})


def _shown(value: float) -> str:
    return number(value, ".2f")
