"""The static face of the inspector: the same content as a picture."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ... import plots
from ..common.history import expert_name
from ..common.panel import plain, shortened
from .model import LETTERS, InspectorModel
from .routes import PromptRoute, summary
from .views import draw_map, draw_paths

COLUMNS = {"": 0.0, "prompt": 0.03, "before": 0.5, "now": 0.575, "what would change it": 0.65}


def face(title: str, model: InspectorModel, facts: str) -> Figure:
    """Heading, map, way through the steps, and the table of asked prompts."""
    with plots.style():
        if model.refusal:
            figure = Figure(figsize=(11, 1.2), layout="constrained")
            _heading(figure, title, model.refusal)
            return figure
        asked = max(1, len(model.asked))
        heights = [0.8, 4.6, 0.45 + 0.52 * asked]
        figure = Figure(figsize=(12.5, sum(heights)), layout="constrained")
        parts = figure.subfigures(3, 1, height_ratios=heights)
        _heading(parts[0], title, facts)
        left, right = parts[1].subplots(1, 2, width_ratios=[1.15, 1])
        after = model.routes()
        draw_map(left, model.map(), after, model.step)
        draw_paths(right, model.paths(), model.step)
        before = model.routes(model.step - 1) if model.step else None
        _table(parts[2].subplots(), model, before, after)
    return figure


def _heading(part: Figure, title: str, text: str) -> None:
    part.text(0.01, 0.9, plain(title), va="top", fontsize=15, fontweight="bold")
    part.text(0.01, 0.4, plain(text), va="top", fontsize=11)


def _table(
    ax: Axes, model: InspectorModel, before: list[PromptRoute] | None, after: list[PromptRoute]
) -> None:
    ax.set(xlim=(0, 1), ylim=(max(1, len(after)), -0.9))
    ax.axis("off")
    for name, at in COLUMNS.items():
        ax.text(at, -0.45, name, color="#555555", va="center", fontsize=10)
    for line, (letter, one, route) in enumerate(zip(LETTERS, model.asked, after, strict=False)):
        earlier = expert_name(before[line].expert) if before else ""
        cells = (letter, shortened(one.prompt, 74), earlier, expert_name(route.expert))
        for (name, at), text in zip(COLUMNS.items(), (*cells, summary(route)), strict=True):
            weight = "bold" if name in ("", "now") else "normal"
            ax.text(at, line + 0.32, plain(text), va="center", fontsize=10, fontweight=weight)
        ax.text(0.03, line + 0.72, plain(one.kind), va="center", fontsize=9, color="#555555")
        ax.axhline(line + 1, color="#E4E4E4", linewidth=0.7)
