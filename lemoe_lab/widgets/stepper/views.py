"""The live figures of the stepper: drawn once, then only their data change.

    view = live(ReliabilityCurve, "Reliability by batch")
    view.update(track)

A drawing knows its Axes and how to follow a track; the same drawings make the static face.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator

from ... import plots
from ...adaptor.routing import BYPASS
from ..common.figure_view import FigureView
from ..common.history import Track

SIZE = (3.6, 3.0)
GROUP_LOOKS = {  # colour, marker and its size by locality group; nested, so that equals all show
    "same_subject": ("#D55E00", "s", 10),
    "near": ("#0072B2", "o", 7.5),
    "far": ("#009E73", "^", 5),
    "text": ("#CC79A7", "D", 2.5),
}
NOT_ROUTED = "this editor sends\nno prompt anywhere"


class Drawing(Protocol):
    """Something on Axes that follows a track; returns whether labels may need other room."""

    def __init__(self, ax: Axes) -> None: ...

    def update(self, track: Track) -> bool: ...


class LiveView(FigureView):
    """A figure view with one drawing."""

    def __init__(self, drawing: type[Drawing], description: str) -> None:
        super().__init__(description, SIZE)
        self._kind = drawing
        self.clear()

    def clear(self) -> None:
        """Begin again, for another session."""
        self.figure.clear()
        with plots.style():
            self.drawing = self._kind(self.figure.subplots())
        self._relayout = True

    def update(self, track: Track) -> None:
        """Show the track as it is now."""
        with plots.style():
            changed = self.drawing.update(track)
        self.show(relayout=changed or self._relayout)
        self._relayout = False


class ReliabilityCurve:
    """Reliability of each batch: right after it was learned, and now."""

    def __init__(self, ax: Axes) -> None:
        self.ax = ax
        (self.immediate,) = ax.plot(
            [], [], "--o", markersize=8, markerfacecolor="none", label="right after"
        )
        (self.now,) = ax.plot([], [], "-o", markersize=4.5, label="now")
        _unit_axis(ax, "reliability")
        _legend(ax)

    def update(self, track: Track) -> bool:
        table, session = track.reliability(), track.session
        colour = plots.method_colour(session.editor.name)
        for line, column in ((self.immediate, "immediate"), (self.now, "now")):
            line.set_data(table["batch"], table[column])
            line.set_color(colour)
            line.set_markeredgecolor(colour)
        self.now.set_markerfacecolor(colour)
        self.ax.get_legend().legend_handles[0].set_color(colour)
        self.ax.get_legend().legend_handles[1].set_color(colour)
        return _batches_axis(self.ax, len(session.stream)) | _note(
            self.ax, f"n = {table['edits'].sum()} edits; scorer: exact match"
        )


class RoutingHeatmap:
    """Where the prompts of each batch go now: rows batches, columns experts, first the bypass."""

    def __init__(self, ax: Axes) -> None:
        self.ax = ax
        self.image = ax.imshow(
            [[np.nan]], cmap="cividis", vmin=0, vmax=1, aspect="auto", interpolation="nearest"
        )
        self.message = ax.text(0.5, 0.5, "", transform=ax.transAxes, ha="center", va="center")
        self.message.set_gid("caption")
        ax.set_xlabel("goes to expert")
        ax.set_ylabel("learned in batch")
        ax.spines[:].set_visible(False)
        ax.tick_params(length=0)
        ax.yaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))
        ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: "–" if x < 0 else f"{x + 1:.0f}"))
        bar = ax.figure.colorbar(self.image, ax=ax, fraction=0.05, pad=0.02)
        bar.outline.set_visible(False)
        bar.set_label("share of prompts")

    def update(self, track: Track) -> bool:
        routing, batches = track.routing(), len(track.session.stream)
        experts = self._experts(track, routing)
        grid = np.full((batches, experts + 1), np.nan)
        for batch, row in routing.iterrows():
            grid[batch - 1] = 0.0
            for expert, share in row.items():
                grid[batch - 1, expert - BYPASS] = share
        self.image.set_data(grid)
        self.image.set_extent((BYPASS - 0.5, experts - 0.5, batches + 0.5, 0.5))
        self.message.set_text(NOT_ROUTED if track.session.steps and routing.empty else "")
        ticks = MaxNLocator(nbins=7, integer=True, min_n_ticks=1).tick_values(1, max(2, experts))
        shown = [BYPASS, *(int(tick) - 1 for tick in ticks if 1 <= tick <= experts)]
        self.ax.xaxis.set_major_locator(FixedLocator(sorted(set(shown))))
        return _note(self.ax, "–: the plain network answers")

    @staticmethod
    def _experts(track: Track, routing: pd.DataFrame) -> int:
        most = 1 + max((int(expert) for expert in routing.columns), default=0)
        one_each = track.session.editor.experts_frozen
        return max(most, len(track.session.stream)) if one_each else most


class LocalityCurves:
    """How much else answers as before, asked right after each batch."""

    def __init__(self, ax: Axes) -> None:
        self.ax = ax
        self.lines = {}
        for group, (colour, marker, size) in GROUP_LOOKS.items():
            label = group.replace("_", " ")
            look = {"marker": marker, "markersize": size, "markerfacecolor": "none"}
            (self.lines[group],) = ax.plot([], [], color=colour, label=label, **look)
        _unit_axis(ax, "same as unedited")
        _legend(ax)

    def update(self, track: Track) -> bool:
        for group, line in self.lines.items():
            measured = [(step, at[group]) for step, at in track.locality.items() if group in at]
            line.set_data(*zip(*measured, strict=True) if measured else ([], []))
        return _batches_axis(self.ax, len(track.session.stream)) | _note(
            self.ax, "each batch's own locality prompts"
        )


def _unit_axis(ax: Axes, label: str) -> None:
    ax.set_ylim(-0.04, 1.06)
    ax.set_yticks(np.linspace(0, 1, 6))
    ax.spines["left"].set_bounds(0, 1)
    ax.grid(axis="y", color="#DDDDDD", linewidth=0.8)
    ax.set_ylabel(label)
    ax.set_xlabel("batch")
    ax.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))


def _legend(ax: Axes) -> None:
    ax.legend(
        loc="lower left",
        bbox_to_anchor=(-0.12, 1.0),
        ncols=2,
        borderaxespad=0.1,
        handlelength=1.5,
        columnspacing=1.2,
    )


def _batches_axis(ax: Axes, batches: int) -> bool:
    limits = (0.5, batches + 0.5)
    if ax.get_xlim() == limits:
        return False
    ax.set_xlim(limits)
    return True


def _note(ax: Axes, text: str) -> bool:
    """Write a caption below the Axes; whether there was none yet."""
    known = [note for note in ax.texts if note.get_gid() == "caption" and note.get_text()]
    known = [note for note in known if note.get_transform() is not ax.transAxes]
    if known:
        known[0].set_text(text)
        return False
    ax.annotate(
        text,
        xy=(0.5, 0),
        xycoords=("axes fraction", ax.xaxis.label),
        xytext=(0, -4),
        textcoords="offset points",
        va="top",
        ha="center",
        fontsize=10,
        color="#555555",
        annotation_clip=False,
        gid="caption",
    )
    return True


DRAWINGS = (ReliabilityCurve, RoutingHeatmap, LocalityCurves)
