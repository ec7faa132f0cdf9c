"""Lines of means with a band: from the lowest to the highest seed, or an interval over facts."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes

BAND = {"alpha": 0.15, "linewidth": 0}
LOWEST_TO_HIGHEST = ("pi", 100)
BOOTSTRAP_INTERVAL = ("ci", 95)


def mean_line(
    ax: Axes,
    rows: pd.DataFrame,
    x: str,
    y: str,
    *,
    color: str,
    over: str = "seed",
    band: tuple[str, int] | None = LOWEST_TO_HIGHEST,
    **look: object,
) -> None:
    """The mean of ``y`` at every ``x`` over the values of a column, each of which counts once.

    ``band`` is a seaborn ``errorbar``; ``look`` are properties of a matplotlib line, whose markers
    have an edge in ``color``.
    """
    import seaborn  # takes a second, which only who draws should pay

    means = rows.groupby([x, over], as_index=False)[y].mean()
    look |= {"color": color, "markeredgecolor": color, "legend": False, "seed": 0}
    seaborn.lineplot(means, x=x, y=y, errorbar=band, err_kws=BAND, ax=ax, **look)


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
