"""Points on a map: many dimensions seen in two, and a look of its own for every group.

    axes = principal_axes(points)                 # (N, d)
    axes.project(other_points)                    # (M, 2)
    group_look(3)                                 # colour and marker of group 3

The same points give the same map on every machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

# Okabe and Ito without their yellow, which is lost on white.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000")
# One more than there are colours: colour and shape together tell 56 groups apart.
SIZES = {"o": 7.0, "s": 6.3, "^": 7.6, "D": 5.8, "v": 7.6, "P": 8.0, "X": 8.0, "p": 8.2}
MARKERS = tuple(SIZES)


@dataclass(frozen=True)
class Axes2:
    """Two directions in a space of d dimensions."""

    mean: np.ndarray  # (d,)
    directions: np.ndarray  # (2, d), rows of length 1
    shares: tuple[float, float]  # of the variance along each

    def project(self, points: np.ndarray) -> np.ndarray:
        """Where points (M, d) lie on the map, (M, 2)."""
        return (points - self.mean) @ self.directions.T

    def label(self, ax: Axes) -> None:
        """Name the axes of a map, with the share of the variance along each."""
        names = [f"principal component {i} ({share:.0%})" for i, share in enumerate(self.shares, 1)]
        ax.set(xlabel=names[0], ylabel=names[1], xticks=[], yticks=[])


def principal_axes(points: np.ndarray) -> Axes2:
    """The two directions along which ``points`` (N, d) vary most.

    A map is never mirrored by chance. Directions that the points do not have (fewer than three
    points, or all alike) are zero.
    """
    from sklearn.decomposition import PCA  # takes a second, which only who draws pays

    width = points.shape[1]
    directions, shares = np.zeros((2, width)), np.zeros(2)
    mean = points.mean(0) if len(points) else np.zeros(width)
    count = min(2, len(points) - 1, width)
    if count > 0 and (points != points[0]).any():
        found = PCA(count, svd_solver="full").fit(points)
        directions[:count], shares[:count] = found.components_, found.explained_variance_ratio_
    return Axes2(mean, directions, (float(shares[0]), float(shares[1])))


def note(ax: Axes, text: str) -> None:
    """Write a caption below ``ax``."""
    ax.annotate(
        text,
        xy=(0, 0),
        xycoords=("axes fraction", ax.xaxis.label),
        xytext=(0, -5),
        textcoords="offset points",
        va="top",
        fontsize=10,
        alpha=0.75,
        annotation_clip=False,
    )


def beside(
    ax: Axes, text: object, at: Sequence[float], by: Sequence[float], **look: object
) -> None:
    """Write ``text`` so many points (2,) right of and above a place."""
    look = {"va": "center", "fontsize": 10} | look
    ax.annotate(str(text), at, xytext=by, textcoords="offset points", **look)


def whole(most: int) -> MaxNLocator:
    """At most so many ticks, at whole numbers."""
    return MaxNLocator(nbins=most, integer=True, min_n_ticks=1)


def group_look(group: int) -> dict[str, object]:
    """Colour, marker and its size for group 0, 1, ...; 56 of them differ."""
    marker = MARKERS[group % len(MARKERS)]
    return {
        "color": inked(COLOURS[group % len(COLOURS)]),
        "marker": marker,
        "markersize": SIZES[marker],
        "markeredgecolor": mpl.rcParams["axes.facecolor"],
        "markeredgewidth": 0.5,
        "linestyle": "none",
    }


def inked(colour: str) -> str:
    """The colour, for black the ink of the theme that is drawn for."""
    return mpl.rcParams["text.color"] if colour == "#000000" else colour
