"""Lines of means with a band from the lowest to the highest seed."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes

BAND = {"alpha": 0.15, "linewidth": 0}
LOWEST_TO_HIGHEST = ("pi", 100)


def mean_line(
    ax: Axes, rows: pd.DataFrame, x: str, y: str, *, color: str, band: bool = True, **look: object
) -> None:
    """The mean over seeds of the means of ``y`` at every ``x``; ``rows`` have a column ``seed``.

    ``look`` are properties of a matplotlib line; its markers have an edge in ``color``.
    """
    import seaborn  # takes a second, which only who draws should pay

    by_seed = rows.groupby([x, "seed"], as_index=False)[y].mean()
    spread = LOWEST_TO_HIGHEST if band else None
    look |= {"color": color, "markeredgecolor": color}
    seaborn.lineplot(by_seed, x=x, y=y, errorbar=spread, err_kws=BAND, legend=False, ax=ax, **look)


def line_over_steps(
    ax: Axes, rows: pd.DataFrame, last: int, label: str, look: dict[str, object]
) -> None:
    """The mean of ``value`` over seeds after every step, with its band.

    A run of one batch beside longer ones, with steps up to ``last``, is a level line.
    """
    steps = rows["step"].unique()
    if len(steps) == 1 and steps[0] == 1 < last:
        by_seed = rows.groupby("seed")["value"].mean()
        ax.axhline(by_seed.mean(), label=label, **look | {"marker": ""})
        ax.axhspan(by_seed.min(), by_seed.max(), color=look["color"], **BAND)
    elif len(steps):
        mean_line(ax, rows, "step", "value", label=label, **look)
