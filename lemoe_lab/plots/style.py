"""The look of all figures: colours, fonts, captions, files.

with style():
    ax = axes_for(None, (8, 5))
caption(ax, frame)
save(ax, "figure")                            # figures/figure.png and .svg
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

from ..editors import preset_colours

# Editors bring their colours, in their presets: the eight of Okabe and Ito (2008) for the methods
# that most figures show, darker or greyer relatives, far apart in lightness, for the others.
METHOD_COLOURS = preset_colours() | {"LocFT at once": "#5B6F8A"}
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
LINE_STYLES = ("-", "--", ":", "-.")
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
CAPTION_SIZE = 10
DPI = 160


@contextmanager
def style() -> Iterator[None]:
    """The look of all figures, as a context manager or a decorator."""
    with mpl.rc_context(STYLE):
        yield


def method_colour(name: str) -> str:
    """The colour of an editor: the one it names, else one that always goes with its name."""
    named = METHOD_COLOURS | preset_colours()
    if name in named:
        return named[name]
    return OTHER_COLOURS[zlib.crc32(name.encode()) % len(OTHER_COLOURS)]


def caption(
    ax: Axes,
    frame: pd.DataFrame,
    note: str = "",
    whiskers: bool = True,
    count: str | None = None,
    measured: str | None = None,
) -> None:
    """Write how many edits, which seeds and which scorer ``frame`` holds under ``ax``.

    ``note`` stands below for several seeds. ``count`` and ``measured`` stand in for the number of
    edits and for the scorer of frames that hold something else.
    """
    counted = [
        _count(frame) if count is None else count,
        _seeds(frame),
        _scorer(frame) if measured is None else measured,
    ]
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
    checkout = Path(__file__).resolve().parents[2]
    return (checkout if (checkout / "pyproject.toml").exists() else Path.cwd()) / "figures"


def axes_for(ax: Axes | None, size: tuple[float, float]) -> Axes:
    if ax is None:
        return plt.subplots(figsize=size)[1]
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def with_method(frame: pd.DataFrame) -> pd.DataFrame:
    """``frame`` with a column ``method``: the editor, with the order where it has several."""
    if frame.empty:
        raise ValueError("nothing to draw: the frame has no rows")
    orders = frame.groupby("editor")["order"].transform("nunique")
    named = frame["editor"] + " (" + frame["order"].astype(str) + ")"
    return frame.assign(method=frame["editor"].where(orders == 1, named))


def chosen_metric(frame: pd.DataFrame, metric: str, group: str | None) -> pd.DataFrame:
    rows = frame[frame["metric"] == metric]
    if group is not None:
        rows = rows[rows["group"] == group]
    if rows.empty:
        held = frame[["metric", "group"]].drop_duplicates().agg(" ".join, axis=1).str.strip()
        raise ValueError(
            f"no rows of metric {metric!r}, group {group!r}; the frame has {', '.join(held)}"
        )
    return with_method(rows)


def over_seeds(rows: pd.DataFrame, column: str) -> tuple[float, float, float]:
    """Mean, lowest and highest over seeds of the mean over edits."""
    by_seed = rows.groupby("seed")[column].mean()
    return by_seed.mean(), by_seed.min(), by_seed.max()


def whisker(ax: Axes, mean: float, low: float, high: float, at: float, *, horizontal: bool) -> None:
    if not high > low:
        return
    span = [[mean - low], [high - mean]]
    where = {"x": mean, "y": at, "xerr": span} if horizontal else {"x": at, "y": mean, "yerr": span}
    ax.errorbar(**where, fmt="none", ecolor="#333333", elinewidth=1.3, capsize=3)


def method_styles(rows: pd.DataFrame) -> dict[str, dict[str, object]]:
    """How to draw the line of every method in ``rows``, which come from :func:`with_method`.

    The colour is the editor's; several orders of one editor differ in the line style. Each line is
    thinner than the one before, so that lines in the same place are all seen.
    """
    looks: dict[str, dict[str, object]] = {}
    methods = rows["method"].nunique()
    for editor, of_editor in rows.groupby("editor", sort=False):
        for place, method in enumerate(of_editor["method"].unique()):
            finer = len(looks) / max(1, methods - 1)
            looks[method] = {
                "color": method_colour(editor),
                "linestyle": LINE_STYLES[place % len(LINE_STYLES)],
                "linewidth": 2.8 - 1.3 * finer,
                "marker": "o",
                "markersize": 7.5 - 3.0 * finer,
            }
    return looks


def legend_above(ax: Axes, **keywords: object) -> None:
    labels = [handle.get_label() for handle in keywords.get("handles", [])]
    labels = labels or ax.get_legend_handles_labels()[1]
    column = max(2.0, 0.085 * max(map(len, labels)))  # inches
    ax.legend(
        loc="lower left",
        bbox_to_anchor=(0, 1.01),
        ncols=max(1, int(inches_across(ax) / column)),
        borderaxespad=0,
        handlelength=1.6,
        columnspacing=1.4,
        **keywords,
    )


def inches_across(ax: Axes) -> float:
    """About how wide ``ax`` is before the layout is settled."""
    width, height = ax.get_position().size * ax.get_figure(root=True).get_size_inches()
    return width if ax.get_aspect() == "auto" else min(width, height)


def _characters_across(ax: Axes) -> int:
    """About how many characters of a caption fit below ``ax``."""
    return max(20, int(inches_across(ax) * 72 / (0.5 * CAPTION_SIZE)))


def tint(colour: str) -> tuple[float, ...]:
    """The colour, mostly white."""
    return tuple(0.3 * part + 0.7 for part in to_rgb(colour))


def shown(value: float) -> str:
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
