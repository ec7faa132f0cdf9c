"""What moves along a run, one quantity of ``probes.drift`` in a figure."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from .bands import line_over_steps
from .style import GREY, axes_for, caption, legend_above, method_styles, style, with_method

LABELS = {
    "kl": "KL divergence from the\nunedited host, nats per token",
    "perplexity_ratio": "perplexity ratio,\nunedited : edited",
    "weight_change": "relative change of the weights\nsince a batch was learned",
    "value_cosine": "cosine of the routing value,\nnow and when it was learned",
    "margin": "lead of the own key\nover the best other",
}
NOTHING_MOVED = {"kl": 0, "perplexity_ratio": 1, "weight_change": 0, "value_cosine": 1, "margin": 0}
MEASURED = {
    "kl": "tokens of neutral text",
    "perplexity_ratio": "tokens of neutral text",
    "weight_change": "weights",
    "value_cosine": "prompts of a batch",
    "margin": "prompts of a batch",
}


@style()
def drift(frame: pd.DataFrame, ax: Axes | None = None, quantity: str = "kl") -> Axes:
    """One quantity after every batch, a colour per editor.

    ``frame`` comes from ``probes.drift``. Quantities that belong to a batch have a thin line for
    every batch and a thick one for the mean over the batches learned before. Runs of a single
    batch beside longer ones (batch mode) are drawn as a level line.
    """
    if quantity not in LABELS or quantity not in set(frame["quantity"]):
        raise ValueError(
            f"no quantity {quantity!r} in the frame; it has {', '.join(frame['quantity'].unique())}"
        )
    rows = with_method(frame[frame["quantity"] == quantity])
    ax = axes_for(ax, (8, 5))
    ax.axhline(NOTHING_MOVED[quantity], color=GREY, linewidth=1, linestyle=(0, (1, 3)))
    several, last = (rows["batch"] > 0).any(), rows["step"].max()
    for method, look in method_styles(rows).items():
        of_method = rows[rows["method"] == method]
        if several:
            _thin_lines(ax, of_method, look["color"])
            of_method = of_method[of_method["batch"] < of_method["step"]]
        line_over_steps(ax, of_method, last, method, look)
    ax.xaxis.set_major_locator(MaxNLocator(nbins=12, integer=True, min_n_ticks=1))
    ax.grid(axis="y", color="#DDDDDD", linewidth=0.8)
    ax.set_xlabel("batches learned")
    ax.set_ylabel(LABELS[quantity])
    legend_above(ax)
    note = "lines: mean over seeds; shaded: lowest to highest seed"
    caption(ax, rows, note, whiskers=False, count=_count(rows, quantity), measured=_lines(several))
    return ax


def _thin_lines(ax: Axes, rows: pd.DataFrame, colour: str) -> None:
    for _, of_batch in rows.groupby("batch"):
        mean = of_batch.groupby("step")["value"].mean()
        ax.plot(mean.index, mean, color=colour, linewidth=0.8, alpha=0.45, label="_batch")


def _lines(several: bool) -> str:
    return "thin: one batch, thick: mean over earlier batches" if several else ""


def _count(rows: pd.DataFrame, quantity: str) -> str:
    low, high = rows["n"].min(), rows["n"].max()
    span = f"{low:,}" if low == high else f"{low:,} to {high:,}"
    return f"n = {span} {MEASURED[quantity]}, {rows['step'].max()} batches"
