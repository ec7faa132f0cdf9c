"""What all panels share: a frame with style and keyboard, controls, safe text, a static view.

    class Greeting(Panel):
        def __init__(self):
            self.name = control(ipywidgets.Text, "Name", "200px", lambda _: self.greet())
            super().__init__(model, "Greeting", [self.name], keys={"space": self.greet})

        def static_parts(self):
            return [(1.0, lambda part: draw_table(part, self.greeted, {"name": 1}))]

In JupyterLab a panel is live. Executed headless, and on pages that show saved notebooks, its output
falls back to a picture and a text with the same content: ``static_parts`` and ``static_text``.
"""

from __future__ import annotations

import asyncio
import base64
import html
import io
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import anywidget
import ipywidgets
import pandas as pd
import traitlets
from matplotlib.figure import Figure, SubFigure

from ... import plots
from ...session import EditSession
from .background import Model, on_this_thread
from .figure_view import FigureView, Paint

HERE = Path(__file__).parent
STATIC_DPI, STATIC_WIDTH = 110, 12.5
LINE = 125  # characters of a heading across a static view
SLICE, PAUSE = 0.1, 0.003  # seconds of work, and of rest for the kernel's other duties


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
    """A titled box of widgets, top to bottom, that show and command a model.

    ``keys`` says what to do at ``space``, ``left`` and ``right`` while the panel has the focus.
    """

    def __init__(
        self,
        model: Model,
        title: str,
        children: Sequence[ipywidgets.Widget],
        keys: Mapping[str, Callable[[], None]] | None = None,
    ) -> None:
        self._keys = dict(keys or {})
        self.model, self.heading = model, title
        self._task: asyncio.Task | None = None
        self.frame = Frame(label=title, wanted_keys=list(self._keys))
        self.frame.on_msg(on_this_thread(self._hear))
        self.frame.observe(on_this_thread(lambda change: self._use_theme(change.new)), "theme")
        head = markup(f"<h3>{escape(title)}</h3>", "lemoe-heading")
        self.error = markup("", "lemoe-error")
        super().__init__([self.frame, head, self.error, *children])
        self.add_class("lemoe-panel")

    # Commands, and the work that they leave

    def act(self, command: Callable[[], object]) -> None:
        """Run a command of the model, show its error, start the work it asks for.

        Work goes on in slices on the kernel's event loop; a plain script waits for it.
        """
        self.error.value = ""
        self._guarded(command)
        if not self.model.busy or (self._task and not self._task.done()):
            return
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self._guarded(self.model.wait)
        else:
            self._task = loop.create_task(self._work())

    async def finished(self) -> None:
        """Wait until nothing is due: for the cell after one that started something."""
        if self._task:
            await self._task

    async def _work(self) -> None:
        while self._guarded(lambda: self.model.tick(SLICE)):
            await asyncio.sleep(PAUSE)

    def _guarded(self, work: Callable[[], object]) -> object:
        try:
            return work()
        except Exception as error:
            self.error.value = escape(str(error) or type(error).__name__)
            return False
        finally:
            self.follow()

    def follow(self) -> None:
        """Show what the model is doing."""

    def press(self, key: str) -> None:
        """What happens when ``key`` is pressed in the focused panel."""
        self._keys[key]()

    def _hear(self, _frame: Frame, content: dict, _buffers: list) -> None:
        if isinstance(content, dict) and content.get("key") in self._keys:
            self.press(content["key"])

    def _use_theme(self, theme: str) -> None:
        for view in descendants(self):
            if isinstance(view, FigureView):
                view.use_theme(theme)

    # Where there is no kernel

    def static_text(self) -> str:
        """One line for readers without pictures; the heading of the picture."""
        return self.heading

    def static_parts(self) -> list[tuple[float, Paint]]:
        """What a saved notebook shows instead, top to bottom: inches, and a drawing."""
        return []

    def static_figure(self) -> Figure:
        """The static view: heading and parts as one picture."""
        text, parts = self.static_text(), self.static_parts()
        heights = [height for height, _ in parts]
        lines = textwrap.wrap(plain(text), LINE)
        with plots.style():
            size = (STATIC_WIDTH, 0.3 + 0.25 * len(lines) + sum(heights))
            figure = Figure(size, layout="constrained")
            figure.suptitle("\n".join(lines), x=0.01, ha="left", fontsize=11, fontweight="bold")
            if parts:
                rooms = figure.subfigures(len(parts), 1, height_ratios=heights, squeeze=False)
                for room, (_, paint) in zip(rooms[:, 0], parts, strict=True):
                    paint(room)
        return figure

    def _repr_mimebundle_(self, **keywords: object) -> dict:
        bundle = super()._repr_mimebundle_(**keywords)
        buffer = io.BytesIO()
        metadata = {"Software": None}  # so that the same panel gives the same bytes
        self.static_figure().savefig(buffer, format="png", dpi=STATIC_DPI, metadata=metadata)
        bundle["image/png"] = base64.b64encode(buffer.getvalue()).decode()
        bundle["text/plain"] = self.static_text()
        return bundle


def descendants(box: ipywidgets.Widget) -> list[ipywidgets.Widget]:
    """The widgets inside a box, at any depth."""
    return [w for child in getattr(box, "children", ()) for w in (child, *descendants(child))]


def facts(session: EditSession) -> str:
    """Which run this is, in a line."""
    return (
        f"{session.editor.name} on {session.host.name}; {len(session.stream.edits)} edits of "
        f"{session.stream.name} in {session.stream.order} order; seed {session.editor.config.seed}"
    )


# Text is data


def escape(text: object) -> str:
    """Text for an HTML widget: shown as it is, never run."""
    return html.escape(str(text))


def code(text: str) -> str:
    """Text in a frame of its own, escaped."""
    return f"<code class='lemoe-text'>{escape(text)}</code>"


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


# Tables, their cells written by ``number`` or taken as they are


def number(value: float | None, form: str = ".3f") -> str:
    """A number as tables show it; a dash for what was not measured."""
    return "–" if value is None or pd.isna(value) else f"{value:{form}}".replace("-", "−")


def table_html(table: pd.DataFrame) -> str:
    """A table as safe HTML."""
    with pd.option_context("display.max_colwidth", None):
        return table.to_html(index=False, border=0, classes="lemoe-table", justify="left")


def draw_table(part: SubFigure, table: pd.DataFrame, widths: Mapping[str, float]) -> None:
    """The columns named in ``widths``, which are shares of the width; texts are cut to fit."""
    ax = part.subplots()
    ax.axis("off")
    room = 160  # characters across at this size of letters
    cells = [
        [plain(shortened(str(row[name]), int(room * share))) for name, share in widths.items()]
        for row in table.to_dict("records")
    ]
    drawn = ax.table(
        cells or [[""] * len(widths)],
        colLabels=list(widths),
        colWidths=list(widths.values()),
        cellLoc="left",
        colLoc="left",
        edges="horizontal",
        bbox=(0, 0, sum(widths.values()), 1),
    )
    drawn.auto_set_font_size(False)
    drawn.set_fontsize(10)
    for cell in drawn.get_celld().values():
        cell.PAD = 0.02
        cell.set_edgecolor("#DDDDDD")


# Controls with names


def button(
    label: str, tooltip: str, on_click: Callable[[], None], style: str = ""
) -> ipywidgets.Button:
    """A labelled button; ``style`` is "", "primary", "warning" or "danger"."""
    widget = ipywidgets.Button(description=label, tooltip=tooltip, button_style=style)
    widget.layout.width = "auto"
    widget.on_click(on_this_thread(lambda _: on_click()))
    return widget


def control(
    kind: type[ipywidgets.Widget],
    label: str,
    width: str,
    on_value: Callable[[object], object] | None = None,
    **keywords: object,
) -> ipywidgets.Widget:
    """An input with its label; ``on_value`` is called with what a person enters."""
    widget = kind(description=label, **keywords)
    widget.style.description_width, widget.layout.width = "initial", width
    widget.put_by_us = False
    if widget.has_trait("continuous_update"):
        widget.continuous_update = False

    def react(change: dict) -> None:
        if not widget.put_by_us:
            on_value(change["new"])

    if on_value:
        widget.observe(on_this_thread(react), "value")
    return widget


def put(widget: ipywidgets.Widget, **state: object) -> None:
    """Show this in a :func:`control`, which does not react to it."""
    widget.put_by_us = True
    try:
        for name, value in state.items():
            setattr(widget, name, value)
    finally:
        widget.put_by_us = False


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
