"""Figures: a tidy DataFrame in, matplotlib Axes out.

    ax = immediate_vs_final(probes.forgetting(sessions))
    save(ax, "immediate_vs_final")                # figures/immediate_vs_final.png and .svg

Every function draws on ``ax``, or on a new figure if there is none, and returns the Axes. Every
figure says under its axes how many edits, which seeds and which scorer it shows. A method has the
same colour in all of them.
"""

from __future__ import annotations

import os
import textwrap
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

# The eight colours of Okabe and Ito (2008) for the methods that most figures show.
METHOD_COLOURS = {
    "LEMoE scoped": "#0072B2",
    "LEMoE KV anchor": "#56B4E9",
    "LEMoE KV anchor, literal": "#CC79A7",
    "MoE adaptor": "#D55E00",
    "one expert": "#E69F00",
    "FineTune": "#000000",
    "ROME": "#009E73",
    "GRACE": "#F0E442",
    # The other editors: darker or greyer relatives, far apart in lightness.
    "MEMIT": "#00563F",
    "AlphaEdit": "#7FD1B9",
    "FineTuneEWC": "#6E6E6E",
    "LocFT": "#B0B0B0",
    "WISE": "#8C3D00",
    "UltraEdit": "#004166",
    "MEND": "#7A3F62",
    "DEFER": "#8F8500",
}
# For any other name: Paul Tol's muted scheme, also safe for colour-blind readers.
OTHER_COLOURS = (
    "#332288",
    "#88CCEE",
    "#44AA99",
    "#117733",
    "#999933",
    "#DDCC77",
    "#CC6677",
    "#882255",
    "#AA4499",
)
SCORERS = {"generated": "generated (exact match)", "teacher_forced": "teacher-forced tokens"}
GROUP_LABELS = {
    "same_subject": "same subject",
    "near": "near",
    "far": "far",
    "text": "text\n(perplexity ratio)",
}
GREY = "#555555"
STYLE = {
    "font.size": 12,
    "axes.titlesize": 13,
    "axes.labelsize": 12,
    "xtick.labelsize": 11,
    "ytick.labelsize": 11,
    "legend.fontsize": 11,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "figure.constrained_layout.use": True,
    "svg.hashsalt": "lemoe-lab",
}
RING = {"marker": "o", "markersize": 9, "markerfacecolor": "none"}
DOT = {"marker": "o", "markersize": 5}
CAPTION_SIZE = 10
DPI = 160


@contextmanager
def style() -> Iterator[None]:
    """The look of all figures, as a context manager or a decorator."""
    with mpl.rc_context(STYLE):
        yield


def method_colour(name: str) -> str:
    """The colour of an editor: fixed for the known names, derived from the name for others."""
    if name in METHOD_COLOURS:
        return METHOD_COLOURS[name]
    return OTHER_COLOURS[zlib.crc32(name.encode()) % len(OTHER_COLOURS)]


@style()
def immediate_vs_final(
    frame: pd.DataFrame,
    ax: Axes | None = None,
    metric: str = "reliability",
    group: str | None = None,
) -> Axes:
    """Two bars per editor: right after its batch, and after the last one.

    ``frame`` comes from ``probes.forgetting``.
    """
    rows = _chosen(frame, metric, group)
    names = list(rows["method"].unique())
    ax = _axes(ax, (8, 1.5 + 0.95 * len(names)))
    height = 0.38
    for place, name in enumerate(names):
        colour = method_colour(rows.loc[rows["method"] == name, "editor"].iloc[0])
        for phase, offset, face in (
            ("immediate", -height / 2, _tint(colour)),
            ("final", height / 2, colour),
        ):
            mean, low, high = _over_seeds(rows[rows["method"] == name], phase)
            ax.barh(place + offset, mean, height * 0.94, color=face, edgecolor=colour, label=phase)
            _whisker(ax, mean, low, high, place + offset, horizontal=True)
            ax.annotate(
                f"{phase}  {_shown(mean)}",
                (np.nan_to_num(high), place + offset),
                xytext=(5, 0),
                textcoords="offset points",
                va="center",
                fontsize=11,
            )
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(names) - 0.45, -0.55)
    ax.set_xlim(0, 1.22)
    ax.set_xticks(np.linspace(0, 1, 6))
    ax.spines["bottom"].set_bounds(0, 1)
    ax.tick_params(axis="y", length=0)
    ax.set_xlabel(metric if group is None else f"{metric}, {group}")
    caption(ax, rows, "bars: mean over seeds")
    return ax


@style()
def forgetting_matrix(frame: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Reliability of every batch after every later step, mean over seeds; one editor.

    ``frame`` comes from ``probes.forgetting_matrix``.
    """
    rows = _labelled(frame)
    names = list(rows["method"].unique())
    if len(names) != 1:
        raise ValueError(
            f"one heatmap shows one editor in one order, the frame has {', '.join(names)}; "
            "filter it and draw each on its own ax"
        )
    ax = _axes(ax, (7, 6))
    table = rows.pivot_table(index="measured_after", columns="batch", values="value")
    steps = range(1, int(table.index.max()) + 1)
    table = table.reindex(index=steps, columns=steps)  # (T, T)
    image = ax.imshow(
        table.to_numpy(),
        cmap="cividis",
        vmin=0,
        vmax=1,
        extent=(0.5, len(steps) + 0.5, len(steps) + 0.5, 0.5),
        interpolation="nearest",
    )
    if _inches_across(ax) / len(steps) >= 0.36:  # room for "0.00" in a cell
        for (step, batch), value in table.stack().dropna().items():
            ax.text(
                batch,
                step,
                _shown(value),
                ha="center",
                va="center",
                fontsize=10,
                color="black" if value > 0.55 else "white",
            )
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(MaxNLocator(nbins=12, integer=True, min_n_ticks=1))
        axis.set_tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.set_xlabel("learned in batch")
    ax.set_ylabel("measured after batch")
    ax.set_title(names[0], loc="left")
    beside = ax.inset_axes((1.04, 0, 0.05, 1))
    bar = ax.figure.colorbar(image, cax=beside, label="reliability")
    bar.outline.set_visible(False)
    caption(ax, rows, "cells: mean over seeds" if rows["seed"].nunique() > 1 else "")
    return ax


@style()
def locality(frame: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """What else stayed as it was: a cluster of bars per locality group, a bar per editor.

    ``frame`` comes from ``probes.locality``.
    """
    rows = _labelled(frame)
    names = list(rows["method"].unique())
    groups = [group for group in GROUP_LABELS if group in set(rows["group"])]
    ax = _axes(ax, (float(np.clip(1 + 0.6 * len(names) * len(groups), 8, 16)), 5))
    width = 0.84 / len(names)
    crowded = _inches_across(ax) * width / len(groups) < 0.42
    for index, name in enumerate(names):
        of_name = rows[rows["method"] == name]
        colour = method_colour(of_name["editor"].iloc[0])
        for place, group in enumerate(groups):
            at = place - 0.42 + (index + 0.5) * width
            mean, low, high = _over_seeds(of_name[of_name["group"] == group], "value")
            ax.bar(
                at,
                mean,
                width * 0.92,
                color=colour,
                label=name if place == 0 else f"_{name}",
            )
            _whisker(ax, mean, low, high, at, horizontal=False)
            ax.annotate(
                _shown(mean),
                (at, np.nan_to_num(high)),
                xytext=(0, 3),
                textcoords="offset points",
                ha="center",
                va="bottom",
                rotation="vertical" if crowded else "horizontal",
                fontsize=10,
            )
    ax.set_xticks(range(len(groups)), [GROUP_LABELS[group] for group in groups])
    ax.tick_params(axis="x", length=0)
    ax.set_ylim(0, 1.16 if crowded else 1.08)
    ax.set_yticks(np.linspace(0, 1, 6))
    ax.spines["left"].set_bounds(0, 1)
    ax.set_ylabel("same as the unedited host\nafter the last batch")
    _legend_above(ax)
    caption(ax, rows, "bars: mean over seeds")
    return ax


@style()
def reliability_over_batches(frame: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Immediate (dashed) and final (solid) reliability of each batch, a colour per editor.

    ``frame`` comes from ``probes.forgetting``.
    """
    rows = _chosen(frame, "reliability", None)
    names = list(rows["method"].unique())
    ax = _axes(ax, (8, 5))
    handles = []
    for name in names:
        of_name = rows[rows["method"] == name]
        colour = method_colour(of_name["editor"].iloc[0])
        by_seed = of_name.groupby(["batch", "seed"])[["immediate", "final"]].mean()
        by_batch = by_seed.groupby("batch")
        mean, low, high = by_batch.mean(), by_batch.min(), by_batch.max()
        ax.plot(
            mean.index,
            mean["immediate"],
            color=colour,
            linestyle="--",
            **RING,
            label=f"{name}, immediate",
        )
        ax.plot(mean.index, mean["final"], color=colour, **DOT, label=f"{name}, final")
        if rows["seed"].nunique() > 1:
            ax.fill_between(
                mean.index, low["final"], high["final"], color=colour, alpha=0.15, linewidth=0
            )
        handles.append(Patch(color=colour, label=name))
    handles.append(Line2D([], [], color=GREY, linestyle="--", **RING, label="immediate"))
    handles.append(Line2D([], [], color=GREY, **DOT, label="final"))
    ax.xaxis.set_major_locator(MaxNLocator(nbins=12, integer=True, min_n_ticks=1))
    ax.set_ylim(-0.02, 1.04)
    ax.set_yticks(np.linspace(0, 1, 6))
    ax.grid(axis="y", color="#DDDDDD", linewidth=0.8)
    ax.set_xlabel("batch")
    ax.set_ylabel("reliability")
    _legend_above(ax, handles=handles)
    shaded = "lines: mean over seeds; shaded: lowest to highest seed of final"
    caption(ax, rows, shaded if rows["seed"].nunique() > 1 else "", whiskers=False)
    return ax


def caption(ax: Axes, frame: pd.DataFrame, note: str = "", whiskers: bool = True) -> None:
    """Write how many edits, which seeds and which scorer ``frame`` holds under ``ax``."""
    counted = [_count(frame), _seeds(frame), _scorer(frame)]
    lines = ["; ".join(part for part in counted if part)]
    if "superseded" in frame and frame["superseded"].any():
        replaced = frame[frame["superseded"]].groupby(["editor", "order", "seed"])["edit"].nunique()
        lines.append(f"superseded edits ({_span(replaced)}) count in immediate only")
    if note and frame["seed"].nunique() > 1:
        is_bar = whiskers and "bars" in note
        lines.append(f"{note}, whiskers: lowest and highest seed" if is_bar else note)
    for old in [text for text in ax.texts if text.get_gid() == "caption"]:
        old.remove()
    ax.annotate(
        "\n".join(textwrap.fill(line, _characters_across(ax)) for line in lines),
        xy=(0, 0),
        xycoords=("axes fraction", ax.xaxis.label),
        xytext=(0, -6),
        textcoords="offset points",
        va="top",
        fontsize=CAPTION_SIZE,
        color=GREY,
        annotation_clip=False,
        gid="caption",
    )


def save(drawing: Figure | Axes, name: str, folder: str | Path | None = None) -> tuple[Path, Path]:
    """Write ``name``.png and ``name``.svg into ``folder``; the same drawing gives the same bytes.

    Without ``folder`` they go to ``LEMOE_LAB_FIGURES``, else to the checkout's ``figures/``.
    """
    figure = drawing if isinstance(drawing, Figure) else drawing.get_figure(root=True)
    folder = figures_folder() if folder is None else Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    png, svg = folder / f"{name}.png", folder / f"{name}.svg"
    with style():
        figure.savefig(png, dpi=DPI, bbox_inches="tight", metadata={"Software": None})
        figure.savefig(svg, bbox_inches="tight", metadata={"Date": None, "Creator": None})
    return png, svg


def figures_folder() -> Path:
    """``LEMOE_LAB_FIGURES`` if set, else ``figures/`` of the checkout or the working directory."""
    override = os.environ.get("LEMOE_LAB_FIGURES")
    if override:
        return Path(override)
    checkout = Path(__file__).resolve().parent.parent
    return (checkout if (checkout / "pyproject.toml").exists() else Path.cwd()) / "figures"


def _axes(ax: Axes | None, size: tuple[float, float]) -> Axes:
    if ax is None:
        return plt.subplots(figsize=size)[1]
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def _labelled(frame: pd.DataFrame) -> pd.DataFrame:
    """``frame`` with a column ``method``: the editor, with the order where it has several."""
    if frame.empty:
        raise ValueError("nothing to draw: the frame has no rows")
    orders = frame.groupby("editor")["order"].transform("nunique")
    named = frame["editor"] + " (" + frame["order"].astype(str) + ")"
    return frame.assign(method=frame["editor"].where(orders == 1, named))


def _chosen(frame: pd.DataFrame, metric: str, group: str | None) -> pd.DataFrame:
    rows = frame[frame["metric"] == metric]
    if group is not None:
        rows = rows[rows["group"] == group]
    if rows.empty:
        held = frame[["metric", "group"]].drop_duplicates().agg(" ".join, axis=1).str.strip()
        raise ValueError(
            f"no rows of metric {metric!r}, group {group!r}; the frame has {', '.join(held)}"
        )
    return _labelled(rows)


def _over_seeds(rows: pd.DataFrame, column: str) -> tuple[float, float, float]:
    """Mean, lowest and highest over seeds of the mean over edits."""
    by_seed = rows.groupby("seed")[column].mean()
    return by_seed.mean(), by_seed.min(), by_seed.max()


def _whisker(
    ax: Axes, mean: float, low: float, high: float, at: float, *, horizontal: bool
) -> None:
    if not high > low:
        return
    span = [[mean - low], [high - mean]]
    where = {"x": mean, "y": at, "xerr": span} if horizontal else {"x": at, "y": mean, "yerr": span}
    ax.errorbar(**where, fmt="none", ecolor="#333333", elinewidth=1.3, capsize=3)


def _legend_above(ax: Axes, **keywords: object) -> None:
    ax.legend(
        loc="lower left",
        bbox_to_anchor=(0, 1.01),
        ncols=max(1, int(_inches_across(ax) / 2.0)),
        borderaxespad=0,
        handlelength=1.6,
        columnspacing=1.4,
        **keywords,
    )


def _inches_across(ax: Axes) -> float:
    """About how wide ``ax`` is before the layout is settled."""
    width, height = ax.get_position().size * ax.get_figure(root=True).get_size_inches()
    return width if ax.get_aspect() == "auto" else min(width, height)


def _characters_across(ax: Axes) -> int:
    """About how many characters of a caption fit below ``ax``."""
    return max(20, int(_inches_across(ax) * 72 / (0.5 * CAPTION_SIZE)))


def _tint(colour: str) -> tuple[float, ...]:
    """The colour, mostly white."""
    return tuple(0.3 * part + 0.7 for part in to_rgb(colour))


def _shown(value: float) -> str:
    return "not measured" if np.isnan(value) else f"{value:.2f}"


def _span(counts: pd.Series) -> str:
    low, high = counts.min(), counts.max()
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _count(frame: pd.DataFrame) -> str:
    runs = ["editor", "order", "seed"]
    if "edit" in frame:
        counts = frame.groupby(runs)["edit"].nunique()
    else:
        counts = frame.drop_duplicates([*runs, "batch"]).groupby(runs)["edits"].sum()
    batches = frame.groupby(runs)["batch"].nunique()
    each = " per seed" if frame["seed"].nunique() > 1 else ""
    plural = "" if batches.max() == 1 else "es"
    return f"n = {_span(counts)} edits in {_span(batches)} batch{plural}{each}"


def _seeds(frame: pd.DataFrame) -> str:
    seeds = sorted(frame["seed"].unique())
    if len(seeds) > 3 and seeds == list(range(seeds[0], seeds[-1] + 1)):
        return f"seeds {seeds[0]} to {seeds[-1]}"
    return f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"


def _scorer(frame: pd.DataFrame) -> str:
    prompts = frame[frame["group"] != "text"] if "group" in frame else frame
    names = (prompts if len(prompts) else frame)["scorer"].unique()
    return f"scorer: {' and '.join(SCORERS.get(name, name) for name in names)}"
