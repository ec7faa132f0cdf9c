"""What all panels share: a frame with style and keyboard, safe text, and a static face.

    class Greeting(Panel):
        def __init__(self):
            self.button = button("Greet", "Say hello", self.greet)
            super().__init__("Greeting", [self.button], keys={"space": self.greet})

        def static_figure(self):
            return sheet("Greeting", width=4, height=1)

In JupyterLab a panel is live. Executed headless, and on pages that show saved notebooks, its output
falls back to a picture and a text with the same content: ``static_figure`` and ``static_text``.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import anywidget
import ipywidgets
import traitlets
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from .figure_view import FigureView
from .one_thread import on_this_thread

HERE = Path(__file__).parent
STATIC_DPI = 110
KEYS = ("space", "left", "right")


class Frame(anywidget.AnyWidget):
    """Invisible part of a panel: brings the style sheet, the keyboard, names and the theme.

    ``wanted_keys`` are those that the panel wants while it, and no input inside it, has the focus;
    a press arrives as the message ``{"key": name}``. ``theme`` follows the page.
    """

    _esm = HERE / "frame.js"
    _css = HERE / "style.css"

    label = traitlets.Unicode().tag(sync=True)
    wanted_keys = traitlets.List(traitlets.Unicode()).tag(sync=True)
    theme = traitlets.Enum(("light", "dark"), "light").tag(sync=True)


class Panel(ipywidgets.VBox):
    """A titled box of widgets.

    Parameters
    ----------
    title
        The accessible name and the heading.
    children
        The widgets below the heading, top to bottom.
    keys
        What to do at ``space``, ``left`` and ``right`` while the panel has the focus.
    """

    def __init__(
        self,
        title: str,
        children: Sequence[ipywidgets.Widget],
        keys: Mapping[str, Callable[[], None]] | None = None,
    ) -> None:
        self._keys = dict(keys or {})
        unknown = set(self._keys) - set(KEYS)
        if unknown:
            raise ValueError(f"a panel listens to {', '.join(KEYS)}, not to {sorted(unknown)}")
        self.heading = title
        self.frame = Frame(label=title, wanted_keys=list(self._keys))
        self.frame.on_msg(on_this_thread(self._hear))
        head = markup(f"<h3>{escape(title)}</h3>", "lemoe-heading")
        super().__init__([self.frame, head, *children])
        self.add_class("lemoe-panel")
        self.frame.observe(on_this_thread(lambda change: self._use_theme(change.new)), "theme")

    def press(self, key: str) -> None:
        """What happens when ``key`` is pressed in the focused panel."""
        self._keys[key]()

    def _hear(self, _frame: Frame, content: dict, _buffers: list) -> None:
        if isinstance(content, dict) and content.get("key") in self._keys:
            self.press(content["key"])

    # Pictures

    def figure_views(self) -> list[FigureView]:
        """All figures inside this panel, at any depth."""
        return [w for w in descendants(self) if isinstance(w, FigureView)]

    def _use_theme(self, theme: str) -> None:
        for view in self.figure_views():
            view.use_theme(theme)

    def static_figure(self) -> Figure:
        """What a saved notebook shows in place of the panel."""
        raise NotImplementedError(f"{type(self).__name__} must draw its static_figure()")

    def static_text(self) -> str:
        """One line for readers without pictures."""
        return self.heading

    def _repr_mimebundle_(self, **keywords: object) -> dict:
        bundle = super()._repr_mimebundle_(**keywords)
        bundle["image/png"] = base64.b64encode(png(self.static_figure())).decode()
        bundle["text/plain"] = self.static_text()
        return bundle


def png(figure: Figure, dpi: int = STATIC_DPI) -> bytes:
    """The figure as the bytes of a PNG file; the same figure gives the same bytes."""
    FigureCanvasAgg(figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    return buffer.getvalue()


def sheet(title: str, width: float = 10, height: float = 6, **keywords: object) -> Figure:
    """A bare figure with a title at its left, for static faces."""
    figure = Figure(figsize=(width, height), layout="constrained", **keywords)
    figure.suptitle(plain(title), x=0.01, ha="left", fontsize=14, fontweight="bold")
    return figure


def descendants(box: ipywidgets.Widget) -> list[ipywidgets.Widget]:
    """The widgets inside a box, at any depth."""
    found = []
    for child in getattr(box, "children", ()):
        found += [child, *descendants(child)]
    return found


# Text is data


def escape(text: object) -> str:
    """Text for an HTML widget: shown as it is, never run."""
    return html.escape(str(text))


def plain(text: object) -> str:
    """Text for matplotlib: dollar signs are dollar signs, not formulas."""
    return str(text).replace("$", r"\$")


def shortened(text: str, width: int) -> str:
    """The text, cut with an ellipsis to ``width`` characters."""
    return text if len(text) <= width else text[: width - 1].rstrip() + "…"


def markup(html_text: str, css_class: str = "") -> ipywidgets.HTML:
    """An HTML widget; every piece of data in ``html_text`` must have gone through ``escape``."""
    widget = ipywidgets.HTML(html_text)
    if css_class:
        widget.add_class(css_class)
    return widget


# Controls with names


def button(
    label: str, tooltip: str, on_click: Callable[[], None], style: str = ""
) -> ipywidgets.Button:
    """A labelled button; ``style`` is "", "primary" or "danger"."""
    widget = ipywidgets.Button(description=label, tooltip=tooltip, button_style=style)
    widget.layout.width = "auto"
    widget.on_click(on_this_thread(lambda _: on_click()))
    return widget


def row(*children: ipywidgets.Widget) -> ipywidgets.HBox:
    """Widgets side by side that wrap to the next line where the page is narrow."""
    box = ipywidgets.HBox(list(children))
    box.add_class("lemoe-row")
    return box


def card(title: str, *children: ipywidgets.Widget) -> ipywidgets.VBox:
    """A titled group of widgets inside a panel."""
    box = ipywidgets.VBox([markup(f"<h4>{escape(title)}</h4>", "lemoe-heading"), *children])
    box.add_class("lemoe-card")
    return box
