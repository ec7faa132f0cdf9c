"""A matplotlib figure as an image that is cheap to draw again and follows the theme.

view = FigureView("Reliability by step", (6, 3))
view.draw(lambda figure: figure.subplots().plot(steps, values))
view.use_theme("dark")                        # draws the same again
"""

from __future__ import annotations

import io
from collections.abc import Callable

import ipywidgets
import matplotlib as mpl
import traitlets
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure, SubFigure

from ...plots import style

DPI = 130
GROUND, INK = "#212121", "#f2f2f2"  # of JupyterLab's dark theme
DARK = dict.fromkeys(("figure.facecolor", "axes.facecolor"), GROUND) | dict.fromkeys(
    ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK
)
Paint = Callable[[Figure | SubFigure], object]


class FigureView(ipywidgets.Image):
    """One bare :class:`~matplotlib.figure.Figure`, drawn again and again into an image.

    Parameters
    ----------
    description
        What the image shows, read out in place of it.
    size
        Width and height in inches.
    """

    description = traitlets.Unicode("").tag(sync=True)  # the page wants one beside a tooltip

    def __init__(self, description: str, size: tuple[float, float] = (6, 3.2)) -> None:
        super().__init__(format="png", tooltip=description)
        self.add_class("lemoe-figure")
        self.theme = "light"
        self.paint: Paint | None = None  # what was drawn last
        with style():
            self.figure = Figure(figsize=size, dpi=DPI, layout="constrained")
        self._canvas = FigureCanvasAgg(self.figure)

    def draw(self, paint: Paint) -> None:
        """Clear the figure, let ``paint`` fill it in the colours of the theme, and show it.

        What means something has a colour of its own; all else takes matplotlib's settings.
        """
        self.paint = paint
        with style(), mpl.rc_context(DARK if self.theme == "dark" else {}):
            self.figure.clear()
            self.figure.set_facecolor(mpl.rcParams["figure.facecolor"])
            paint(self.figure)
            buffer = io.BytesIO()
            self._canvas.print_png(buffer, pil_kwargs={"compress_level": 1})
        self.value = buffer.getvalue()

    def use_theme(self, theme: str) -> None:
        """Wear ``"light"`` or ``"dark"`` from now on."""
        self.theme = theme
        if self.paint:
            self.draw(self.paint)
