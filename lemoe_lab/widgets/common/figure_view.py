"""A matplotlib figure as an image that is cheap to draw again and follows the theme.

    view = FigureView("Reliability by step", (6, 3))
    ax = view.figure.subplots()
    (line,) = ax.plot([0], [0])
    view.show()                                   # lays out once, then keeps the layout
    line.set_data(steps, values)
    view.show()                                   # some 20 ms
    view.replace(lambda ax: plots.routing_heatmap(frame, ax=ax))     # draws it anew

Draw in colours for a white page; on a dark page the view turns greys over and keeps the rest.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import anywidget
import numpy as np
import traitlets
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import QuadMesh
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.text import Text
from PIL import Image

from ...plots import style

DPI = 130
DARK = "#212121"  # of JupyterLab's dark theme
GREY_SPREAD = 0.08  # of red, green and blue; a colour with more of it means something


class FigureView(anywidget.AnyWidget):
    """One bare :class:`~matplotlib.figure.Figure`, drawn again and again into an image.

    Parameters
    ----------
    description
        What the image shows, read out in place of it.
    size
        Width and height in inches.
    """

    _esm = Path(__file__).parent / "figure_view.js"

    value = traitlets.Bytes(b"").tag(sync=True)  # the PNG file
    description = traitlets.Unicode().tag(sync=True)

    def __init__(self, description: str, size: tuple[float, float] = (6, 3.2)) -> None:
        super().__init__(description=description)
        self.theme = "light"
        self._laid_out = False
        with style():
            self.figure = Figure(figsize=size, dpi=DPI, layout="constrained")
        self._canvas = FigureCanvasAgg(self.figure)

    def show(self, relayout: bool = False) -> None:
        """Draw the figure as it is now; with ``relayout`` make room for new labels first."""
        with style():
            if relayout or not self._laid_out:
                self.figure.set_layout_engine("constrained")
                self._canvas.draw()
                self.figure.set_layout_engine("none")
                self._laid_out = True
            with wearing(self.figure, self.theme):
                self._canvas.draw()
        self.value = encoded(self._canvas)

    def replace(self, draw: Callable[[Axes], object]) -> None:
        """Clear the figure, let ``draw`` fill one new Axes, and show it."""
        self.figure.clear()
        with style():
            draw(self.figure.subplots())
        self.show(relayout=True)

    def use_theme(self, theme: str) -> None:
        """Wear ``"light"`` or ``"dark"`` from now on."""
        if theme == self.theme:
            return
        self.theme = theme
        if self.value:
            self.show()


def encoded(canvas: FigureCanvasAgg) -> bytes:
    """What was drawn last, as the bytes of a PNG file; half the time of drawing by ``savefig``."""
    buffer = io.BytesIO()
    Image.fromarray(np.asarray(canvas.buffer_rgba())).save(buffer, "png", compress_level=1)
    return buffer.getvalue()


@contextmanager
def wearing(figure: Figure, theme: str) -> Iterator[None]:
    """Paint the figure for a theme until the block ends.

    On the dark ground greys turn over: what was black on white becomes white on black. Other
    colours stay, and so do the numbers in the cells of a heatmap.
    """
    if theme == "light":
        yield
        return
    painted = [(put, colour) for artist in _paintable(figure) for put, colour in _colours(artist)]
    for put, colour in painted:
        put(inverted(colour))
    for ax in figure.axes:
        ax.tick_params(which="both", color=inverted("black"), labelcolor=inverted("black"))
    try:
        yield
    finally:
        for put, colour in painted:
            put(colour)
        for ax in figure.axes:
            ax.tick_params(which="both", color="black", labelcolor="black")


def inverted(colour: object) -> object:
    """The colour for a dark ground: white becomes the ground, black nearly white, hues stay."""
    red, green, blue, alpha = to_rgba(colour)
    if max(red, green, blue) - min(red, green, blue) > GREY_SPREAD:
        return colour
    lightness = (red + green + blue) / 3
    ground, ink = to_rgba(DARK), to_rgba("#F2F2F2")
    return (
        *(g * lightness + i * (1 - lightness) for g, i in zip(ground[:3], ink[:3], strict=True)),
        alpha,
    )


def _paintable(figure: Figure) -> list[Artist]:
    in_cells = {
        text
        for ax in figure.axes
        if ax.images or any(isinstance(artist, QuadMesh) for artist in ax.collections)
        for text in ax.texts
        if text.get_gid() != "caption"
    }
    found = figure.findobj(lambda a: isinstance(a, Text | Line2D | Patch))
    return [artist for artist in found if artist not in in_cells]


def _colours(artist: Artist) -> list[tuple[Callable[[object], None], object]]:
    """The colours of an artist with what sets them."""
    if isinstance(artist, Text):
        return [(artist.set_color, artist.get_color())]
    if isinstance(artist, Line2D):
        pairs = [
            (artist.set_color, artist.get_color()),
            (artist.set_markerfacecolor, artist.get_markerfacecolor()),
            (artist.set_markeredgecolor, artist.get_markeredgecolor()),
        ]
        return [
            (put, colour)
            for put, colour in pairs
            if not isinstance(colour, str) or colour not in ("none", "auto")
        ]
    return [
        (artist.set_facecolor, artist.get_facecolor()),
        (artist.set_edgecolor, artist.get_edgecolor()),
    ]
