"""The static face of the playground: the same content as a picture."""

from __future__ import annotations

from matplotlib.figure import Figure

from ... import plots
from ..common.panel import plain
from .model import PlaygroundModel
from .views import draw_order, draw_runs

WIDTH, MAP_HEIGHT, ROW_HEIGHT = 12.5, 4.6, 0.36  # inches


def face(title: str, model: PlaygroundModel, facts: str) -> Figure:
    """Heading, map with batches, and the finished runs if there are any."""
    table = model.table()
    heights = [0.8, MAP_HEIGHT]
    if len(table):
        heights.append(1.3 + ROW_HEIGHT * len(table))
    with plots.style():
        figure = Figure(figsize=(WIDTH, sum(heights)), layout="constrained")
        parts = figure.subfigures(len(heights), 1, height_ratios=heights)
        parts[0].text(0.01, 0.9, plain(title), va="top", fontsize=15, fontweight="bold")
        parts[0].text(0.01, 0.4, plain(facts), va="top", fontsize=11)
        draw_order(parts[1], model)
        if len(table):
            draw_runs(parts[2], table)
    return figure
