"""What all panels share: a frame with style and keyboard, controls, safe text, a static view.

    class Greeting(Panel):
        def __init__(self):
            self.name = control(ipywidgets.Text, "Name", "200px", lambda _: self.greet())
            super().__init__(model, "Greeting", [self.name], keys={"space": self.greet})

        def static_rows(self):
            return [static_table(self.greeted, {"name": 1})]

In JupyterLab a panel is live. Executed headless, and on pages that show saved notebooks, its output
falls back to a picture and a text with the same content: ``static_rows`` and ``static_text``.
"""

from __future__ import annotations

import asyncio
import base64
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
from .elements import escape, markup, plain, shortened
from .figure_view import FigureView, Paint

HERE = Path(__file__).parent
STATIC_DPI, STATIC_WIDTH = 110, 12.5
LINE, ACROSS = 125, 170  # characters of the heading and of a table across a static view
StaticRow = tuple[float, Paint]  # across a static view: inches of height, and what draws it
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
        self.model = model
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
        raise NotImplementedError

    def static_rows(self) -> list[StaticRow]:
        """What a saved notebook shows instead, top to bottom."""
        raise NotImplementedError

    def static_figure(self) -> Figure:
        """The static view: heading and rows as one picture."""
        rows, lines = self.static_rows(), textwrap.wrap(plain(self.static_text()), LINE)
        heights = [height for height, _ in rows]
        with plots.style():
            size = (STATIC_WIDTH, 0.3 + 0.25 * len(lines) + sum(heights))
            figure = Figure(size, layout="constrained")
            figure.suptitle("\n".join(lines), x=0.01, ha="left", fontsize=11, fontweight="bold")
            if rows:
                parts = figure.subfigures(len(rows), 1, height_ratios=heights, squeeze=False)
                for part, (_, paint) in zip(parts[:, 0], rows, strict=True):
                    paint(part)
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


def static_views(height: float, *views: FigureView) -> StaticRow:
    """What these views show, side by side."""

    def paint(part: SubFigure) -> None:
        rooms = part.subfigures(1, len(views), squeeze=False)[0]
        for room, view in zip(rooms, views, strict=True):
            view.paint(room)

    return height, paint


def static_table(table: pd.DataFrame, widths: Mapping[str, float], title: str = "") -> StaticRow:
    """The columns named in ``widths``, which are shares of the width; texts are cut to fit."""

    def paint(part: SubFigure) -> None:
        part.suptitle(title, x=0.01, ha="left", fontsize=10)
        ax = part.subplots()
        ax.axis("off")
        rows = table[list(widths)].astype(str)
        for name, share in widths.items():
            rows[name] = [plain(shortened(text, int(ACROSS * share))) for text in rows[name]]
        look = {"cellLoc": "left", "colLoc": "left", "edges": "horizontal", "bbox": (0, 0, 1, 1)}
        cells = rows.to_numpy() if len(rows) else [[""] * len(widths)]
        shares = list(widths.values())
        drawn = ax.table(cells, colLabels=list(widths), colWidths=shares, **look)
        drawn.auto_set_font_size(False)
        drawn.set_fontsize(10)
        for cell in drawn.get_celld().values():
            cell.PAD = 0.02
            cell.set_edgecolor("#DDDDDD")

    return 0.35 + 0.3 * max(1, len(table)), paint
