"""Try orders: see the edits fall into batches, run an order, compare it with the last ones.

    ll.widgets.OrderPlayground(stream, host)

A run trains in short slices, so that the kernel answers clicks and cells in between; another order
can be planned meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import ipywidgets

from ...editors import Editor
from ...edits import EditStream
from ...host import Host
from ..common.choices import ORDERS
from ..common.elements import button, card, control, escape, markup, put, row, table_html
from ..common.figure_view import FigureView
from ..common.panel import Panel, StaticRow, static_views
from .model import SMALL, PlaygroundModel
from .views import draw_order, draw_runs, run_label, runs_shown

TITLE = "Order playground"
FORMING = 0.25  # seconds between two batches while they form
ORDER_SIZE, RUNS_WIDTH, RUN_HEIGHT = (9.6, 4.1), 9.6, 0.34  # inches
PLANNED = "Edits as points, coloured by batch, and the sizes of the batches"
COMPARED = "Reliability, generality and locality of the finished runs"
INVITATION = "<p class='lemoe-faint'>No run yet. Plan an order and press Run this order.</p>"
LEGEND = (
    "<p class='lemoe-faint'>seeds: of the order, of the editor; within and between: mean cosine "
    "similarity</p>"
)


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
        model = self.model = PlaygroundModel(stream, host, editor, edits)
        self._newest = 0  # the run that was last added
        self._forming: asyncio.Task | None = None
        self.facts, self.note, self.table = markup(""), markup("", "lemoe-status"), markup("")
        self.facts.add_class("lemoe-faint")
        self.view = FigureView(PLANNED, ORDER_SIZE)
        self.comparison = FigureView(COMPARED, (RUNS_WIDTH, 2.0))
        planning, running = self._planning(), self._running()
        compared = card("Runs", self.comparison, self.table, self._comparing())
        body = [self.facts, *planning, card("Edits and batches", self.view), running, compared]
        super().__init__(model, TITLE, body)
        model.on_event.append(self._hear_model)
        self._show_order()
        self._show_runs()
        self.follow()

    def _planning(self) -> list[ipywidgets.Widget]:
        def chosen(name: str) -> Callable[[object], None]:
            return lambda value: self.act(lambda: self.model.choose(**{name: value}))

        dropdown, slider, whole = ipywidgets.Dropdown, ipywidgets.IntSlider, ipywidgets.IntText
        self.planner = control(dropdown, "Order", "190px", chosen("planner"), options=ORDERS)
        self.batch_size = control(slider, "Batch size", "280px", chosen("batch_size"), min=1)
        self.seed = control(whole, "Order seed", "140px", chosen("seed"))
        self.edits = control(ipywidgets.BoundedIntText, "Edits", "120px", chosen("edits"), min=1)
        self.edits.max = len(self.model.source.edits)
        self.formed = control(slider, "Batches formed", "300px", self._form)
        self.form = button("Form batches", "Watch the batches form one by one", self.animate)
        choosing = row(self.planner, self.batch_size, self.seed, self.edits)
        return [choosing, row(self.formed, self.form)]

    def _running(self) -> ipywidgets.Widget:
        editors = list(self.model.specs)
        self.editor = control(ipywidgets.Dropdown, "Editor", "250px", options=editors)
        self.editor_seed = control(ipywidgets.IntText, "Editor seed", "140px")
        self.run = button(
            "Run this order", "Learn it with this editor", self._run, "primary", self.act
        )
        give_up = "Give this run up; earlier runs stay"
        self.stop = button("Stop", give_up, self.model.stop, "danger", self.act)
        self.bar = control(ipywidgets.FloatProgress, "Run", "230px", min=0, max=1)
        return row(self.editor, self.editor_seed, self.run, self.stop, self.bar, self.note)

    def _comparing(self) -> ipywidgets.Widget:
        dropdown, again = ipywidgets.Dropdown, "Plan the order of this run again"
        self.chosen = control(dropdown, "Finished run", "360px", lambda _: self._show_pin())
        self.pin = button("Pin", "Keep it when the others are cleared", self._pin, "", self.act)
        self.show = button("Show its order", again, self._show_again, "", self.act)
        forget = "Forget the runs that are not pinned"
        self.clear = button("Clear", forget, self.model.clear, "", self.act)
        return row(self.chosen, self.pin, self.show, self.clear)

    # Commands

    def act(self, command: Callable[[], object]) -> None:
        super().act(command)
        self._follow_order()

    async def finished(self) -> None:
        await super().finished()
        if self._forming:
            await self._forming

    def _form(self, batches: int) -> None:
        self.act(lambda: self.model.form(batches))

    def animate(self) -> None:
        """Let the batches form one by one; where no event loop runs they are formed at once."""
        if self._forming and not self._forming.done():
            self._forming.cancel()
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self._form(len(self.model.stream))
        else:
            self._forming = loop.create_task(self._form_slowly())

    async def _form_slowly(self) -> None:
        stream = self.model.stream
        for formed in range(len(stream) + 1):
            if self.model.stream is not stream:  # another order was planned meanwhile
                return
            self._form(formed)
            await asyncio.sleep(FORMING)

    def _run(self) -> None:
        self.model.run(self.editor.value, self.editor_seed.value)

    def _pin(self) -> None:
        self.model.pin(self.chosen.value, self.pin.description == "Pin")

    def _show_again(self) -> None:
        self.model.show(self.chosen.value)

    # What the page shows

    def _hear_model(self, event: str) -> None:
        if event == "planned":
            self._show_order()
        if event == "runs":
            self._show_runs()
        self.follow()

    def _follow_order(self) -> None:
        order, model = self.model.order, self.model
        put(self.planner, value=order.planner)
        put(self.seed, value=order.seed)
        put(self.edits, value=order.edits)
        put(self.batch_size, max=order.edits, value=order.batch_size)
        put(self.formed, max=len(model.stream), value=model.formed)

    def _show_order(self) -> None:
        self._follow_order()
        self.facts.value = escape(self._facts())
        self.view.draw(lambda figure: draw_order(figure, self.model))

    def _show_runs(self) -> None:
        table = self.model.table()
        self.table.value = table_html(runs_shown(table)) + LEGEND if len(table) else INVITATION
        kept, numbers = self.chosen.value, list(table["run"])
        options = [(run_label(run), run.run) for run in table.itertuples()]
        if numbers:
            known = kept in numbers and numbers[-1] == self._newest
            put(self.chosen, options=options, value=kept if known else numbers[-1])
            self._newest = numbers[-1]
            height = 1.25 + RUN_HEIGHT * len(table)
            self.comparison.figure.set_size_inches(RUNS_WIDTH, height)
            self.comparison.draw(lambda figure: draw_runs(figure, table))
        else:
            put(self.chosen, options=options)
        self.comparison.layout.display = None if numbers else "none"
        self._show_pin()

    def _show_pin(self) -> None:
        run = next((r for r in self.model.runs if r.number == self.chosen.value), None)
        for widget in (self.pin, self.show, self.clear):
            widget.disabled = run is None
        self.pin.description = "Unpin" if run and run.pinned else "Pin"

    def follow(self) -> None:
        running = self.model.running
        self.run.disabled, self.stop.disabled = running is not None, running is None
        self.bar.value = running.share if running else 0.0
        self.note.value = escape(running.doing if running else self._counted())

    def _facts(self) -> str:
        """One line on the planned order."""
        model, order, alike = self.model, self.model.order, self.model.similarity
        return (
            f"first {order.edits} of {len(model.source.edits)} edits of {model.source.name} on "
            f"{model.host.name}; {order.planner} order, seed {order.seed}; {len(model.stream)} "
            f"batches; similarity within {alike['within']:.3f}, between {alike['between']:.3f}"
        )

    def _counted(self) -> str:
        runs = len(self.model.runs)
        return f"{runs} finished run{'' if runs == 1 else 's'}"

    # Where there is no kernel

    def static_text(self) -> str:
        return f"{TITLE}: {self._facts()}; {self._counted()}"

    def static_rows(self) -> list[StaticRow]:
        runs = len(self.model.runs)
        compared = [static_views(1.3 + 0.36 * runs, self.comparison)] if runs else []
        return [static_views(4.6, self.view), *compared]
