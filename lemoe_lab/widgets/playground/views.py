"""What the playground shows: edits as points, batches as colours, runs side by side.

draw_order(figure, model)
draw_runs(figure, model.table())
runs_html(model.table())
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import MaxNLocator

from ... import plots
from ..common.panel import escape, plain
from ..common.points import group_look, note
from .model import PlaygroundModel

GREY, FAINT = "#777777", "#BBBBBB"
FEW_BATCHES = 16  # so many have room for a marker and a number each
THIN = 6  # a bar is never thicker than with so many batches
MEASURES = {
    "reliability": "final reliability",
    "generality": "generality",
    "locality": "locality",
}
NUMBERS = {
    "within": "within",
    "between": "between",
    "immediate": "immediate",
    "reliability": "final",
    "generality": "generality",
    "locality": "locality",
}


def draw_order(figure: Figure | SubFigure, model: PlaygroundModel) -> None:
    """The map of the edits coloured by batch, beside it the batches with their sizes."""
    left, right = figure.subplots(1, 2, width_ratios=[2.6, 1])
    _draw_points(left, model)
    _draw_batches(right, model)


def _draw_points(ax: Axes, model: PlaygroundModel) -> None:
    axes, places = model.map()
    for batch in model.stream:
        points = np.stack([places[edit.id] for edit in batch])  # (n, 2)
        waiting = {"marker": "o", "markersize": 5, "color": FAINT, "linestyle": "none"}
        formed = batch.step <= model.formed
        look = group_look(batch.step - 1) if formed else waiting
        ax.plot(points[:, 0], points[:, 1], **{**look, "zorder": 2 + formed})
    axes.label(ax)
    ax.set_xticks([])
    ax.set_yticks([])
    ax.margins(0.07)
    alike = model.similarity
    note(
        ax,
        f"n = {len(places)} edits, mean prompt embeddings; {order_label(model)}\n"
        f"mean cosine similarity within batches {_shown(alike['within'])}, "
        f"between {_shown(alike['between'])}",
    )


def order_label(model: PlaygroundModel) -> str:
    """The order in words, its seed included."""
    order = model.order
    return f"{order.planner} order, seed {order.seed}"


def _draw_batches(ax: Axes, model: PlaygroundModel) -> None:
    table = model.batches()
    few, widest = len(table) <= FEW_BATCHES, table["edits"].max()
    for row in table.itertuples():
        formed = row.batch <= model.formed
        look = group_look(row.batch - 1)
        ax.barh(row.batch, row.edits, height=0.72, color=look["color"] if formed else FAINT)
        if few:
            if formed:
                sign = {"color": "white", "markeredgecolor": "none", "markersize": 8}
                ax.plot(0.08 * widest, row.batch, **{**look, **sign})
            text = f"{row.edits}" + ("" if np.isnan(row.within) else f" · {_shown(row.within)}")
            ax.annotate(
                text, (row.edits, row.batch), xytext=(4, 0), textcoords="offset points", va="center"
            )
    ax.set_ylim(max(len(table), THIN) + 0.6, 0.4)
    ax.set_xlim(0, widest * (1.75 if few else 1.05))
    ticks = MaxNLocator(nbins=9, integer=True, min_n_ticks=1).tick_values(1, len(table))
    ax.set_yticks([int(tick) for tick in ticks if 1 <= tick <= len(table)])
    ax.xaxis.set_major_locator(MaxNLocator(nbins=3, integer=True, min_n_ticks=1))
    ax.set_ylabel("batch")
    ax.set_xlabel("edits")
    note(ax, "size · similarity inside" if few else f"{len(table)} batches")


def draw_runs(figure: Figure | SubFigure, table: pd.DataFrame) -> None:
    """Reliability, generality and locality of every run; a ring is the reliability right after."""
    panels = figure.subplots(1, len(MEASURES), sharey=True)
    rows = range(len(table))
    for ax, (measure, label) in zip(panels, MEASURES.items(), strict=True):
        for place, run in zip(rows, table.itertuples(), strict=True):
            colour = plots.method_colour(run.editor)
            if measure == "reliability":
                ring = {"markersize": 11, "markerfacecolor": "none", "markeredgewidth": 1.3}
                ax.plot(run.immediate, place, "o", color=colour, clip_on=False, **ring)
            value = getattr(run, measure)
            ax.plot(value, place, "o", color=colour, markersize=7, clip_on=False)
            ax.annotate(
                _shown(value),
                (value, place),
                xytext=(-9 if value > 0.5 else 9, 0),
                textcoords="offset points",
                ha="right" if value > 0.5 else "left",
                va="center",
                fontsize=10,
            )
        ax.set_xlim(-0.03, 1.03)
        ax.set_xticks([0, 0.5, 1])
        ax.grid(axis="x", color="#DDDDDD", linewidth=0.8)
        ax.set_xlabel(label)
        ax.tick_params(axis="y", length=0)
        ax.spines["left"].set_visible(False)
    panels[0].set_yticks(rows, [plain(run_label(run)) for run in table.itertuples()])
    panels[0].set_ylim(len(table) - 0.4, -0.6)
    figure.supxlabel(runs_note(table), x=0.01, ha="left", fontsize=10, color="#555555")


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


def runs_html(table: pd.DataFrame) -> str:
    """The table of runs as safe HTML."""
    if table.empty:
        return "<p class='lemoe-faint'>No run yet. Plan an order and press Run this order.</p>"
    names = ("run", "order", "editor", "edits", "seeds", *NUMBERS.values(), "seconds")
    head = "".join(f"<th>{name}</th>" for name in names)
    rows = "".join(_row(run) for run in table.to_dict("records"))
    note = "seeds: of the order, of the editor; within and between: mean cosine similarity"
    return (
        f"<table class='lemoe-table'><tr>{head}</tr>{rows}</table><p class='lemoe-faint'>{note}</p>"
    )


def _row(run: dict[str, object]) -> str:
    texts = (
        f"{run['run']}{' pinned' if run['pinned'] else ''}",
        f"{run['order']} × {run['batch_size']}",
        run["editor"],
        run["edits"],
        f"{run['order_seed']}, {run['editor_seed']}",
    )
    numbers = [*(_shown(run[name]) for name in NUMBERS), _shown(run["seconds"], 1)]
    cells = [f"<td>{escape(text)}</td>" for text in texts]
    cells += [f"<td class='number'>{number}</td>" for number in numbers]
    return f"<tr>{''.join(cells)}</tr>"


def _shown(value: float, digits: int = 2) -> str:
    return "–" if np.isnan(value) else f"{value:.{digits}f}".replace("-", "−")
