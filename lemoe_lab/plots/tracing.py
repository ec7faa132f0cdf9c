"""Which layers carry a fact: what of it comes back when one part of the host is restored."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from ..probes.tracing import PARTS, TOKENS, WHOLE, Part
from .bands import BOOTSTRAP_INTERVAL, mean_line
from .cells import ROOM_FOR_A_NUMBER, bar_beside, draw_cells, middles
from .style import GREY, LINE_STYLES, axes_for, caption, inches_across, legend_above, shown, style

PART_COLOURS = {"state": "#332288", "ffn": "#117733", "attention": "#CC6677"}
PART_LABELS = {"state": "layer output", "ffn": "FFN", "attention": "attention"}
DOTTED = {"color": GREY, "linewidth": 1, "linestyle": (0, (1, 3))}


@style()
def causal_tracing(
    table: pd.DataFrame,
    ax: Axes | None = None,
    part: Part = "state",
    colour_bar: bool = True,
) -> Axes:
    """Mean indirect effect of one part of every layer (columns) at every group of tokens (rows).

    ``table`` comes from ``probes.causal_tracing``. The colours end at the total effect: there
    the whole answer is back. Negative effects have the colour of none. Of several heatmaps side by
    side only the last one needs its ``colour_bar``.
    """
    rows = _of_part(_of_one_host(table), part)
    by_fact = rows.groupby(["token", "layer", "fact"])["effect"].mean()
    cells = by_fact.groupby(["token", "layer"]).mean().unstack("layer")
    cells = cells.reindex([token for token in TOKENS if token in cells.index])
    total = _total_effect(rows)
    ax = axes_for(ax, (max(6.0, 3 + 0.7 * len(cells.columns)), 4.6))
    room = inches_across(ax) / len(cells.columns)
    numbers = cells.map(lambda value: shown(round(value, 2) + 0.0))  # never -0.00
    mesh = draw_cells(ax, cells, numbers if room >= ROOM_FOR_A_NUMBER else None, max(total, 1e-9))
    ax.set_xticks(*middles(cells.columns, room))
    ax.set_yticks(np.arange(len(cells)) + 0.5, cells.index)
    ax.set_xlabel(_layers(rows, part))
    ax.set_ylabel("restored at")
    ax.set_title(f"{PART_LABELS[part]} restored", loc="left")
    if cells.index[0] == WHOLE and len(cells) > 1:
        ax.axhline(1, color="white", linewidth=3)  # several tokens above, one at a time below
    if colour_bar:
        bar_beside(ax, mesh, "mean indirect effect", width=0.04)
    _caption(ax, rows, f"total effect {shown(total)}")
    return ax


@style()
def tracing_by_layer(
    table: pd.DataFrame,
    ax: Axes | None = None,
    tokens: Sequence[str] = ("last prompt", "last subject"),
) -> Axes:
    """Mean indirect effect over layers: a colour per part, a line style per token.

    ``table`` comes from ``probes.causal_tracing``; ``tokens`` are some of its groups, up to four.
    Shaded: 95% bootstrap interval over facts. The grey line is the total effect: there the
    whole answer is back.
    """
    lines = dict(zip(tokens, LINE_STYLES, strict=False))
    for token in tokens:
        if token not in lines or token not in set(table["token"]):
            held = ", ".join(repr(name) for name in table["token"].unique())
            raise ValueError(f"tokens must be up to {len(LINE_STYLES)} of {held}, not {token!r}")
    rows = _of_one_host(table)[table["token"].isin(lines)]
    ax = axes_for(ax, (8, 5))
    total = _total_effect(rows)
    ax.axhline(total, **DOTTED)
    shown_parts = [part for part in PARTS if part in set(rows["part"])]
    over_facts = {"over": "fact", "band": BOOTSTRAP_INTERVAL, "marker": "o", "markersize": 5}
    for part in shown_parts:
        for token, line in lines.items():
            chosen = rows[(rows["part"] == part) & (rows["token"] == token)]
            look = {"color": PART_COLOURS[part], "linestyle": line} | over_facts
            mean_line(ax, chosen, "layer", "effect", label=f"{PART_LABELS[part]}, {token}", **look)
    ax.xaxis.set_major_locator(MaxNLocator(nbins=16, integer=True, min_n_ticks=1))
    ax.grid(axis="y", color="#DDDDDD", linewidth=0.8)
    ax.set_xlabel(_layers(rows, *shown_parts))
    ax.set_ylabel("mean indirect effect\non the answer's probability")
    parts = [Line2D([], [], color=PART_COLOURS[p], label=PART_LABELS[p]) for p in shown_parts]
    places = [Line2D([], [], color=GREY, linestyle=lines[t], label=f"at the {t}") for t in lines]
    legend_above(ax, handles=[*parts, *places, Line2D([], [], **DOTTED, label="total effect")])
    _caption(ax, rows, "shaded: 95% bootstrap interval over facts")
    return ax


def _of_one_host(table: pd.DataFrame) -> pd.DataFrame:
    hosts = table["host"].unique()
    if len(hosts) != 1:
        raise ValueError(
            f"one figure shows one host, the table has {', '.join(hosts) or 'no rows'}; filter it"
        )
    return table


def _of_part(table: pd.DataFrame, part: str) -> pd.DataFrame:
    rows = table[table["part"] == part]
    if rows.empty:
        held = ", ".join(table["part"].unique()) or "no rows"
        raise ValueError(f"no part {part!r} in the table; it has {held}")
    return rows


def _total_effect(rows: pd.DataFrame) -> float:
    """Mean over facts, each counted once."""
    by_fact = rows.groupby("fact")[["clean", "corrupted"]].mean()
    return float((by_fact["clean"] - by_fact["corrupted"]).mean())


def _layers(rows: pd.DataFrame, *parts: str) -> str:
    window = rows["window"].max()
    if window == 1 or set(parts) == {"state"}:
        return "layer"
    return f"layer (FFN and attention: the middle of {window} restored together)"


def _caption(ax: Axes, rows: pd.DataFrame, last: str) -> None:
    facts, samples = rows["fact"].nunique(), rows["samples"].max()
    count = f"n = {facts:,} facts, {samples} draws of noise each ({rows['noise'].max():g} sd)"
    caption(ax, rows, count=count, measured=f"host: {rows['host'].iloc[0]}; {last}")
