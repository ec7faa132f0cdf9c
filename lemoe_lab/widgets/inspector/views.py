"""The pictures of the inspector: the map, and the way of each prompt through the steps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from ...adaptor.routing import BYPASS
from ..common.points import beside, group_look, note, whole
from ..common.routes import PromptRoute
from .model import LETTERS, RouteMap

GREY = "#888888"
IN_LEGEND = 10
NUMBERED = 24  # a way of so many steps has room for the numbers of experts
HIDDEN_SHARE = 0.5  # of the variance; a map that hides more says so
REACH = (12.0, 22.0, 33.0)  # how far a letter may stand from its star, in points
ROOM = 11.0  # so much around a letter is enough
DIRECTIONS = 16


def draw_map(ax: Axes, found: RouteMap, routes: Sequence[PromptRoute], step: int) -> None:
    """The learned edits in the colours of their experts, and the asked prompts as lettered stars.

    A thin line leads from a prompt to the edit whose anchor is nearest to it in the full space,
    dotted if the prompt is bypassed.
    """
    present = sorted(set(found.learned_by.tolist()))
    for expert in present:
        own = (found.learned_by == expert) & ~found.superseded
        look = group_look(expert)
        _plot(ax, found.edits[own & ~found.rerouted], **look)
        hollow = {"markerfacecolor": "none", "markeredgecolor": look["color"], "markeredgewidth": 1}
        _plot(ax, found.edits[own & found.rerouted], **{**look, **hollow})
    gone = {"marker": "x", "color": GREY, "markersize": 4.5, "linestyle": "none"}
    _plot(ax, found.edits[found.superseded], **gone)
    _draw_prompts(ax, found, routes)
    found.axes.label(ax)
    ax.margins(0.09)
    _map_legend(ax, present, routes)
    note(ax, _map_note(found, step))


def _plot(ax: Axes, points: np.ndarray, **look: object) -> None:
    if len(points):
        ax.plot(points[:, 0], points[:, 1], **look)


def _draw_prompts(ax: Axes, found: RouteMap, routes: Sequence[PromptRoute]) -> None:
    place = {edit: index for index, edit in enumerate(found.ids)}
    offsets = letter_offsets(found, _points_per_unit(ax, found))
    for number, (point, route) in enumerate(zip(found.prompts, routes, strict=True)):
        if route.nearest and route.nearest[0].edit.id in place:
            ends = np.stack([point, found.edits[place[route.nearest[0].edit.id]]])
            ax.plot(*ends.T, ":" if route.bypassed else "-", color=GREY, linewidth=1.1, zorder=2.4)
        colour = "white" if route.bypassed else group_look(route.expert)["color"]
        ax.plot(*point, "*", markersize=12.5, color=colour, markeredgecolor="#111111", zorder=4)
        line = {"arrowstyle": "-", "color": GREY, "linewidth": 0.6, "shrinkA": 4}
        look = {"ha": "center", "fontweight": "bold", "fontsize": 12, "zorder": 5}
        beside(ax, LETTERS[number], point, offsets[number], arrowprops=line, **look)


def letter_offsets(found: RouteMap, scale: np.ndarray) -> list[np.ndarray]:
    """Where to write the letter of each star, in points from it: where most room is.

    ``scale`` (2,) is how many points one unit of the map takes. Letters are placed one after the
    other, away from all stars and from the letters before.
    """
    angles = np.linspace(0, 2 * np.pi, DIRECTIONS, endpoint=False)
    ring = np.stack([np.cos(angles), np.sin(angles)], axis=1)  # (DIRECTIONS, 2)
    tried = np.concatenate([reach * ring for reach in REACH])
    stars = found.prompts * scale
    taken = list(stars)
    offsets = []
    for star in stars:
        room = np.linalg.norm((star + tried)[:, None] - np.array(taken), axis=2).min(1)
        room = np.minimum(room, ROOM)  # so that the nearest place with room is taken
        best = tried[room.argmax()]
        offsets.append(best)
        taken.append(star + best)
    return offsets


def _points_per_unit(ax: Axes, found: RouteMap) -> np.ndarray:
    """About how many points one unit of the map takes along each axis, (2,)."""
    everything = np.concatenate([found.edits, found.prompts])
    spans = np.ptp(everything, axis=0) if len(everything) else np.ones(2)
    inches = ax.get_position().size * ax.get_figure().bbox.size / ax.get_figure(root=True).dpi
    return 72 * inches / np.where(spans > 0, spans, 1) / 1.2


def _map_legend(ax: Axes, present: Sequence[int], routes: Sequence[PromptRoute]) -> None:
    used = {expert for route in routes for expert in route.candidates}
    named = present if len(present) <= IN_LEGEND else [e for e in present if e in used][:IN_LEGEND]
    handles = [Line2D([], [], label=str(expert), **group_look(expert)) for expert in named]
    if not handles:
        return
    title = "edits by the expert that learned them"
    if len(named) < len(present):
        title += f" ({len(present)} experts, named where a prompt goes)"
    place = {"loc": "lower left", "bbox_to_anchor": (0, 1.0), "borderaxespad": 0.2}
    tight = {"alignment": "left", "columnspacing": 1.0, "handletextpad": 0.2}
    ax.legend(handles=handles, title=title, ncols=IN_LEGEND, **place, **tight)


def _map_note(found: RouteMap, step: int) -> str:
    parts = [f"n = {len(found.ids)} edits after batch {step}"]
    if found.rerouted.any():
        parts.append("hollow: go elsewhere now")
    if found.superseded.any():
        parts.append("crosses: superseded")
    lines = ["; ".join(parts)]
    if sum(found.axes.shares) < HIDDEN_SHARE:
        lines.append("lines lead to the nearest anchor in the full space, not on the map")
    return "\n".join(lines)


def draw_paths(ax: Axes, paths: pd.DataFrame, step: int) -> None:
    """The expert of every asked prompt after every step; a dash is the plain network."""
    values = paths.to_numpy()
    for expert in np.unique(values):
        places = np.argwhere(values == expert)[:, ::-1]  # (n, 2): step, row
        if expert == BYPASS:
            _plot(ax, places, marker="_", color=GREY, linestyle="none", markersize=7)
        else:
            _plot(ax, places, **group_look(int(expert)))
    changes = np.argwhere(values[:, 1:] != values[:, :-1]) if len(values.T) <= NUMBERED else []
    for place, before in changes:
        if (expert := values[place, before + 1]) != BYPASS:
            beside(ax, expert, (before + 1, place), (6, 0), fontsize=9)
    ax.axvline(step, color=GREY, linewidth=9, alpha=0.18, zorder=0.5)
    ax.set_yticks(range(len(paths)), list(paths.index))
    ax.set(xlim=(-0.6, paths.shape[1] - 0.4), ylim=(len(paths) - 0.4, -0.6))
    ax.set_xlabel("batches applied")
    ax.xaxis.set_major_locator(whole(10))
    ax.tick_params(axis="y", length=0)
    note(ax, "numbers: expert from here on; looks as on the map; dash: plain network")
