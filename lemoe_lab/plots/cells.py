"""Heatmaps: a table of numbers from 0 upwards, every cell with its colour and perhaps its number.

mesh = draw_cells(ax, table, table.map(shown))
bar_beside(ax, mesh, "reliability")
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh

ROOM_FOR_A_NUMBER = 0.36  # inches; what a cell must measure for "0.00" in it
ROOM_FOR_A_LABEL = 0.28


def draw_cells(
    ax: Axes,
    table: pd.DataFrame,
    numbers: pd.DataFrame | None = None,
    highest: float = 1.0,
    square: bool = False,
    size: float = 10,
) -> QuadMesh:
    """Draw ``table`` (rows, columns): cell (r, c) lies between c and c + 1, r and r + 1, downwards.

    ``numbers`` holds what is written into the cells, "" for nothing. Missing values stay white.
    Ticks are the caller's.
    """
    import seaborn  # takes a second, which only who draws should pay

    seaborn.heatmap(
        table,
        vmin=0,
        vmax=highest,
        cmap="cividis",
        annot=False if numbers is None else numbers,
        fmt="",
        annot_kws={"fontsize": size},
        cbar=False,
        square=square,
        xticklabels=False,
        yticklabels=False,
        ax=ax,
    )
    ax.tick_params(length=0)
    (mesh,) = (artist for artist in ax.collections if isinstance(artist, QuadMesh))
    return mesh


def middles(labels: Sequence[object], inches: float) -> tuple[np.ndarray, list[str]]:
    """Ticks in the middle of cells of so many inches, and their labels: as many as have room."""
    every = max(1, int(np.ceil(ROOM_FOR_A_LABEL / inches)))
    return np.arange(len(labels))[::every] + 0.5, [str(label) for label in labels[::every]]


def bar_beside(ax: Axes, mesh: QuadMesh, label: str, width: float = 0.05) -> None:
    """What the colours mean, right of ``ax``; ``width`` is a share of that of ``ax``."""
    beside = ax.inset_axes((1.04, 0, width, 1))
    bar = ax.figure.colorbar(mesh, cax=beside, label=label)
    bar.outline.set_visible(False)
