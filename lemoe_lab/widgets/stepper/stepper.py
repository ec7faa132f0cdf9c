"""Step through the edits of a session, live.

    ll.widgets.EditStepper(session)

Space plays and pauses, the arrow keys step and undo while the panel has the focus. A batch trains
in short slices, so that the kernel answers clicks, questions and cells in between.
"""

from __future__ import annotations

from collections.abc import Callable

import ipywidgets
from matplotlib.figure import Figure

from ...session import EditSession
from ..common.panel import Panel, card, escape, markup, row
from ..common.worker import Worker
from .boxes import AskBox, EditsBox, ExportBox
from .controls import ChoiceBox, Transport, status_html
from .model import Event, StepperModel
from .static_view import face
from .views import LiveView, LocalityCurves, ReliabilityCurve, RoutingHeatmap

TITLE = "Edit stepper"


class EditStepper(Panel):
    """Transport, live views, table of edits, questions and export for one session.

    Parameters
    ----------
    session
        An open session. Reset closes it and makes another one on the same host:
        ``stepper.model.session`` is always the present one.
    folder
        Where exported files go unless another folder is typed in.
    """

    def __init__(self, session: EditSession, folder: str = "edit_stepper") -> None:
        self.model = StepperModel(session)
        self.facts = markup("", "lemoe-faint")
        self.transport = Transport(self.model, self.act)
        self.worker = Worker(
            self.model.tick,
            self.model.wait,
            lambda: self.model.phase == "training",
            self.transport.follow,
        )
        self.error = self.worker.error
        self.choice = ChoiceBox(self.model, self.act)
        self.views = {
            "Reliability": LiveView(ReliabilityCurve, "Reliability of each batch, then and now"),
            "Routes": LiveView(RoutingHeatmap, "Experts that the prompts of each batch go to"),
            "Locality": LiveView(LocalityCurves, "Share of other answers that stayed as they were"),
        }
        self.edits = EditsBox(self.model, self.act)
        self.ask = AskBox(self.model, self.act)
        self.export = ExportBox(self.model, self.edits.table, folder, self.act)
        self.tabs = ipywidgets.Tab([self.edits.box, self.ask.box, self.export.box])
        self.tabs.titles = ("Edits", "Ask the model", "Export")
        self.tabs.selected_index = 0
        figures = row(*(card(title, view) for title, view in self.views.items()))
        figures.add_class("lemoe-figures")
        body = [
            self.facts,
            self.transport.box,
            self.choice.box,
            self.error,
            figures,
            self.tabs,
        ]
        keys = {"space": self._space, "left": self._left, "right": self._right}
        super().__init__(TITLE, body, keys)
        self.model.on_event.append(self._hear_model)
        self._show_facts()
        self._show_views()

    # Commands

    def act(self, command: Callable[[], object]) -> None:
        """Run a command of the model, show its error, start the work it asks for."""
        self.worker.act(command)

    async def finished(self) -> None:
        """Wait until nothing is being learned: for the cell after one that started something."""
        await self.worker.finished()

    def _space(self) -> None:
        self.act(self.model.toggle)

    def _left(self) -> None:
        self.act(self.model.undo)

    def _right(self) -> None:
        self.act(self.model.redo if self.model.can_redo else self.model.step)

    # What the page shows

    def _hear_model(self, event: Event) -> None:
        self.transport.follow()
        if event == "progress":
            return
        if event == "remade":
            for view in self.views.values():
                view.clear()
            self.choice.follow()
        if event in ("remade", "grown"):
            self.ask.suggest()
        self._show_facts()
        self._show_views()
        self.edits.follow()
        self.ask.follow()

    def _show_facts(self) -> None:
        session = self.model.session
        self.facts.value = escape(
            f"{session.editor.name} on {session.host.name}; {len(session.stream.edits)} edits of "
            f"{session.stream.name} in {session.stream.order} order; seed {self.model.choice.seed}"
        )

    def _show_views(self) -> None:
        for view in self.views.values():
            view.update(self.model.track)

    # Where there is no kernel

    def static_figure(self) -> Figure:
        return face(TITLE, self.model, self.edits.table.selection, self.ask.answer)

    def static_text(self) -> str:
        session = self.model.session
        return f"{TITLE}: {session.editor.name} on {session.host.name}; " + status_html(self.model)
