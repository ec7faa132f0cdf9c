"""Try orders: see the edits fall into batches, run an order, compare it with the last ones.

    ll.widgets.OrderPlayground(stream, host)

A run trains in short slices, so that the kernel answers clicks and cells in between; another order
can be planned meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import ipywidgets
from matplotlib.figure import Figure

from ... import plots
from ...editors import Editor
from ...edits import EditStream
from ...host import Host
from ..common.figure_view import FigureView
from ..common.one_thread import on_this_thread
from ..common.panel import Panel, button, card, escape, markup, row
from ..common.worker import Worker
from .model import SMALL, Event, PlaygroundModel
from .static_view import face
from .views import draw_order, draw_runs, run_label, runs_html

TITLE = "Order playground"
FORMING = 0.25  # seconds between two batches while they form
ORDER_SIZE, RUNS_WIDTH, RUN_HEIGHT = (9.6, 4.1), 9.6, 0.34  # inches
PLANNED = "Edits as points, coloured by batch, and the sizes of the batches"
COMPARED = "Reliability, generality and locality of the finished runs"


class OrderPlayground(Panel):
    """A map of edits, planners to choose from, runs and their comparison.

    Parameters
    ----------
    stream, host
        The edits, and the model whose embeddings place them on the map and that learns them. A
        run needs the host free of other sessions; planning does not.
    editor
        Offered first, with its settings; the other editors are offered with their defaults.
    edits
        A run learns so many of the stream's first edits unless another number is chosen.
    """

    def __init__(
        self, stream: EditStream, host: Host, editor: Editor | None = None, edits: int = SMALL
    ) -> None:
        self.model = PlaygroundModel(stream, host, editor, edits)
        self._following = False
        self._newest = 0  # the run that was last added
        self._forming: asyncio.Task | None = None
        self.worker = Worker(
            self.model.tick,
            self.model.wait,
            lambda: self.model.running is not None,
            self._show_progress,
        )
        self.error = self.worker.error
        self.facts = markup("", "lemoe-faint")
        self._make_planning()
        self._make_running()
        self.view = FigureView(PLANNED, ORDER_SIZE)
        self.comparison = FigureView(COMPARED, (RUNS_WIDTH, 2.0))
        self.table = markup("")
        super().__init__(TITLE, self._layout())
        self.model.on_event.append(self._hear_model)
        self._show_order()
        self._show_runs()
        self._show_progress()

    def _make_planning(self) -> None:
        order, available = self.model.order, len(self.model.source.edits)
        self.planner = ipywidgets.Dropdown(options=self.model.planners, description="Order")
        self.batch_size = ipywidgets.IntSlider(min=1, max=order.edits, description="Batch size")
        self.edits = ipywidgets.BoundedIntText(min=1, max=available, description="Edits")
        self.seed = ipywidgets.IntText(description="Order seed")
        self.formed = ipywidgets.IntSlider(min=0, max=1, description="Batches formed")
        self.form = button("Form batches", "Watch the batches form one by one", self.animate)
        for control, width, wanted in (
            (self.planner, "190px", "planner"),
            (self.batch_size, "280px", "batch_size"),
            (self.edits, "120px", "edits"),
            (self.seed, "140px", "seed"),
        ):
            _named(control, width)
            control.observe(on_this_thread(self._chooser(wanted)), "value")
        _named(self.formed, "300px")
        self.formed.observe(on_this_thread(self._form), "value")

    def _make_running(self) -> None:
        self.editor = ipywidgets.Dropdown(options=list(self.model.specs), description="Editor")
        self.editor_seed = ipywidgets.IntText(description="Editor seed")
        self.run = button("Run this order", "Learn it with this editor", self._run, "primary")
        self.stop = button("Stop", "Give this run up; earlier runs stay", self._stop, "danger")
        self.bar = ipywidgets.FloatProgress(min=0, max=1, description="Run")
        self.note = markup("", "lemoe-status")
        self.chosen = ipywidgets.Dropdown(description="Finished run")
        self.pin = button("Pin", "Keep it when the others are cleared", self._pin)
        self.show = button("Show its order", "Plan the order of this run again", self._show_run)
        self.clear = button("Clear", "Forget the runs that are not pinned", self._clear)
        for control, width in (
            (self.editor, "250px"),
            (self.editor_seed, "140px"),
            (self.bar, "230px"),
            (self.chosen, "360px"),
        ):
            _named(control, width)
        self.chosen.observe(on_this_thread(lambda _: self._show_pin()), "value")

    def _layout(self) -> list[ipywidgets.Widget]:
        return [
            self.facts,
            row(self.planner, self.batch_size, self.seed, self.edits),
            row(self.formed, self.form),
            self.error,
            card("Edits and batches", self.view),
            row(self.editor, self.editor_seed, self.run, self.stop, self.bar, self.note),
            card(
                "Runs",
                self.comparison,
                self.table,
                row(self.chosen, self.pin, self.show, self.clear),
            ),
        ]

    # Commands

    def act(self, command: Callable[[], object]) -> None:
        """Run a command of the model, show its error, start the work it asks for."""
        self.worker.act(command)
        self._follow_order()

    async def finished(self) -> None:
        """Wait until nothing runs or forms: for the cell after one that started something."""
        await self.worker.finished()
        if self._forming:
            await self._forming

    def _chooser(self, wanted: str) -> Callable[[dict], None]:
        def choose(change: dict) -> None:
            if not self._following:
                self.act(lambda: self.model.choose(**{wanted: change["new"]}))

        return choose

    def _form(self, change: dict) -> None:
        if not self._following:
            self.act(lambda: self.model.form(change["new"]))

    def animate(self) -> None:
        """Let the batches form one by one; where no event loop runs they are formed at once."""
        if self._forming and not self._forming.done():
            self._forming.cancel()
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self.act(lambda: self.model.form(len(self.model.stream)))
        else:
            self._forming = loop.create_task(self._form_slowly())

    async def _form_slowly(self) -> None:
        stream = self.model.stream
        for formed in range(len(stream) + 1):
            if self.model.stream is not stream:  # another order was planned meanwhile
                return
            self.act(lambda formed=formed: self.model.form(formed))
            await asyncio.sleep(FORMING)

    def _run(self) -> None:
        self.act(lambda: self.model.run(self.editor.value, self.editor_seed.value))

    def _stop(self) -> None:
        self.act(self.model.stop)

    def _pin(self) -> None:
        number = self.chosen.value
        self.act(lambda: self.model.pin(number, self.pin.description == "Pin"))

    def _show_run(self) -> None:
        self.act(lambda: self.model.show(self.chosen.value))

    def _clear(self) -> None:
        self.act(self.model.clear)

    # What the page shows

    def _hear_model(self, event: Event) -> None:
        if event == "planned":
            self._show_order()
        if event == "runs":
            self._show_runs()
        self._show_progress()

    def _follow_order(self) -> None:
        order, model = self.model.order, self.model
        self._following = True
        self.planner.value, self.seed.value = order.planner, order.seed
        self.edits.value = order.edits
        self.batch_size.max, self.batch_size.value = order.edits, order.batch_size
        self.formed.max, self.formed.value = len(model.stream), model.formed
        self._following = False

    def _show_order(self) -> None:
        self._follow_order()
        self.facts.value = escape(facts(self.model))
        _redraw(self.view, lambda figure: draw_order(figure, self.model))

    def _show_runs(self) -> None:
        table = self.model.table()
        self.table.value = runs_html(table)
        kept = self.chosen.value
        self.chosen.options = [(run_label(run), run.run) for run in table.itertuples()]
        if len(table):
            numbers = list(table["run"])
            known = kept in numbers and numbers[-1] == self._newest
            self.chosen.value = kept if known else numbers[-1]
            self._newest = numbers[-1]
            height = 1.25 + RUN_HEIGHT * len(table)
            self.comparison.figure.set_size_inches(RUNS_WIDTH, height)
            _redraw(self.comparison, lambda figure: draw_runs(figure, table))
        self.comparison.layout.display = None if len(table) else "none"
        self._show_pin()

    def _show_pin(self) -> None:
        run = next((r for r in self.model.runs if r.number == self.chosen.value), None)
        for control in (self.pin, self.show, self.clear):
            control.disabled = run is None
        self.pin.description = "Unpin" if run and run.pinned else "Pin"

    def _show_progress(self) -> None:
        running = self.model.running
        self.run.disabled, self.stop.disabled = running is not None, running is None
        self.bar.value = running.share if running else 0.0
        self.note.value = escape(running.doing if running else counted(self.model))

    # Where there is no kernel

    def static_figure(self) -> Figure:
        return face(TITLE, self.model, facts(self.model))

    def static_text(self) -> str:
        return f"{TITLE}: {facts(self.model)}; {counted(self.model)}"


def facts(model: PlaygroundModel) -> str:
    """One line on the planned order."""
    order, alike = model.order, model.similarity
    return (
        f"first {order.edits} of {len(model.source.edits)} edits of {model.source.name} on "
        f"{model.host.name}; {order.planner} order, seed {order.seed}; {len(model.stream)} "
        f"batches; similarity within {alike['within']:.3f}, between {alike['between']:.3f}"
    )


def counted(model: PlaygroundModel) -> str:
    """How many runs are in the table."""
    return f"{len(model.runs)} finished run{'' if len(model.runs) == 1 else 's'}"


def _redraw(view: FigureView, draw: Callable[[Figure], None]) -> None:
    view.figure.clear()
    with plots.style():
        draw(view.figure)
    view.show(relayout=True)


def _named(control: ipywidgets.Widget, width: str) -> None:
    control.style.description_width = "initial"
    control.layout.width = width
