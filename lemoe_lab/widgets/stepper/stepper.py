"""Step through the edits of a session, live.

    ll.widgets.EditStepper(session)

Space plays and pauses, the arrow keys step and undo while the panel has the focus. A batch trains
in short slices, so that the kernel answers clicks, questions and cells in between.
"""

from __future__ import annotations

import ipywidgets
import pandas as pd

from ...session import EditSession
from ..common.elements import card, escape, markup, row
from ..common.figure_view import FigureView
from ..common.history import STATES
from ..common.panel import Panel, StaticRow, facts, static_table, static_views
from ..common.routes import explain
from .boxes import AskBox, EditsBox, ExportBox
from .controls import ChoiceBox, Controls, status
from .model import StepperModel
from .views import VIEWS

TITLE = "Edit stepper"
VIEW_SIZE = (3.6, 3.0)
STATIC_ROWS = 8
STATIC_COLUMNS = {"state": 0.1, "batch": 0.06, "prompt": 0.45, "target": 0.29, "route": 0.1}

ANSWERED = {"asked": 0.4, "unedited": 0.15, "now": 0.15, "route": 0.3}


class EditStepper(Panel):
    """Controls, live views, table of edits, questions and export for one session.

    Parameters
    ----------
    session
        An open session. Reset closes it and makes another one on the same host:
        ``stepper.model.session`` is always the present one.
    folder
        Where exported files go unless another folder is typed in.
    """

    def __init__(self, session: EditSession, folder: str = "edit_stepper") -> None:
        model = self.model = StepperModel(session)
        self.facts = markup("", "lemoe-faint")
        self.controls = Controls(model, self.act)
        self.choice = ChoiceBox(model, self.act)
        self.views = {name: FigureView(shows, VIEW_SIZE) for name, (_, shows) in VIEWS.items()}
        self.edits = EditsBox(model, self.act)
        self.ask = AskBox(model, self.act)
        self.export = ExportBox(model, self.edits.table, folder, self.act)
        self.tabs = ipywidgets.Tab([self.edits.box, self.ask.box, self.export.box])
        self.tabs.titles = ("Edits", "Ask the model", "Export")
        self.tabs.selected_index = 0
        figures = row(*(card(title, view) for title, view in self.views.items()))
        figures.add_class("lemoe-figures")
        body = [self.facts, self.controls.box, self.choice.box, figures, self.tabs]
        keys = {
            "space": lambda: self.act(model.toggle),
            "left": lambda: self.act(model.undo),
            "right": lambda: self.act(model.redo if model.can_redo else model.step),
        }
        super().__init__(model, TITLE, body, keys)
        model.on_event.append(self._hear_model)
        self._show()

    def follow(self) -> None:
        self.controls.follow()

    # What the page shows

    def _hear_model(self, event: str) -> None:
        self.controls.follow()
        if event == "progress":
            return
        if event == "remade":
            self.choice.follow()
        if event in ("remade", "grown"):
            self.ask.suggest()
        self._show()
        self.edits.follow()
        self.ask.follow()

    def _show(self) -> None:
        self.facts.value = escape(facts(self.model.session))
        history = self.model.history
        for view, (draw, _) in zip(self.views.values(), VIEWS.values(), strict=True):
            view.draw(lambda figure, draw=draw: draw(figure.subplots(), history))

    # Where there is no kernel

    def static_text(self) -> str:
        return f"{TITLE}: {facts(self.model.session)}; {status(self.model)}"

    def static_rows(self) -> list[StaticRow]:
        table, answer = self.edits.table.selection, self.ask.answer
        counts = table["state"].value_counts()
        counted = ", ".join(f"{counts[state]} {state}" for state in STATES if state in counts)
        title = f"{len(table)} edits: {counted}"
        rows = [static_views(3.3, *self.views.values())]
        rows.append(static_table(table.head(STATIC_ROWS), STATIC_COLUMNS, title))
        if answer:
            route = explain(answer.route)[0] if answer.route else "none"
            said = [(answer.prompt, answer.base, answer.edited, route)]
            rows.append(static_table(pd.DataFrame(said, columns=list(ANSWERED)), ANSWERED))
        return rows
