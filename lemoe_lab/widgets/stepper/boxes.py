"""The lower half of the stepper: the table of edits, questions to the model, files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import ipywidgets

from ...edits import trimmed_prompt
from ..common.ask import Answer, answer_html, edit_html
from ..common.panel import button, control, escape, markup, row
from . import export
from .controls import Act
from .edit_table import EditTable
from .model import StepperModel

SUGGESTED = 200  # prompts offered while typing
INVITATION = "Type the beginning of a sentence, or pick the prompt of an edit, and press Enter."


class EditsBox:
    """The table of edits, and below it the edit that was opened."""

    def __init__(self, model: StepperModel, act: Act) -> None:
        self.model = model
        self.table = EditTable(lambda edit: act(lambda: self._show(edit)))
        self.details = markup("Click an edit, or press Enter on its row, to open it.")
        self.box = ipywidgets.VBox([self.table, self.details])
        self.follow()

    def follow(self) -> None:
        """Show every edit as it is now."""
        frame = self.model.history.edits()
        self.table.update(frame)
        if self.table.opened in set(frame["edit"]):
            if self.model.phase == "idle":
                self._show(self.table.opened)
        elif self.table.opened:
            self.table.opened, self.details.value = "", ""

    def _show(self, edit: str) -> None:
        self.details.value = edit_html(self.model.open(edit))


class AskBox:
    """Ask the model anything; teach it another answer."""

    def __init__(self, model: StepperModel, act: Act) -> None:
        self.model, self._act = model, act
        self.answer: Answer | None = None
        self.prompt = control(
            ipywidgets.Combobox,
            "Prompt",
            "520px",
            lambda _: self.ask(),
            placeholder="The prime minister of …",
        )
        self.target = control(
            ipywidgets.Text, "New target", "300px", placeholder="what it should say"
        )
        self.asked = button("Ask", "Ask without and with the edits", self.ask, "primary")
        self.teach = button(
            "Teach it", "Make it an edit and learn it as the next batch", self._teach
        )
        self.result = markup(INVITATION, "lemoe-answer")
        self.box = ipywidgets.VBox(
            [row(self.prompt, self.asked), self.result, row(self.target, self.teach)]
        )
        self.suggest()

    def suggest(self) -> None:
        """Offer the prompts of the stream's edits while typing."""
        edits = self.model.session.stream.edits[:SUGGESTED]
        self.prompt.options = tuple(dict.fromkeys(edit.prompt for edit in edits))

    def ask(self) -> None:
        """Ask what stands in the prompt field."""
        if self.prompt.value.strip():
            self._act(self._show)

    def follow(self) -> None:
        """Ask the last question again."""
        if self.answer and self.answer.prompt == trimmed_prompt(self.prompt.value):
            self._show()

    def _show(self) -> None:
        self.answer = self.model.ask(self.prompt.value)
        self.result.value = answer_html(self.answer)

    def _teach(self) -> None:
        self._act(lambda: self.model.teach(self.prompt.value, self.target.value))


class ExportBox:
    """Figure, table, session and calls as files."""

    def __init__(self, model: StepperModel, table: EditTable, folder: str, act: Act) -> None:
        self._act = act
        self.folder = control(ipywidgets.Text, "Folder", "300px", value=folder)
        self.figure = self._writing("Figure", lambda path: export.export_figure(model, path))
        self.table = self._writing("Table", lambda path: export.export_table(table.selection, path))
        self.session = self._writing("Session", lambda path: export.export_session(model, path))
        self.calls = self._writing("Python calls", lambda path: self._show_calls(model, path))
        self.written = markup("", "lemoe-status")
        self.text = control(
            ipywidgets.Textarea,
            "Calls",
            "auto",
            placeholder="the Python calls that lead to the present state",
        )
        self.text.layout.height = "150px"
        buttons = row(self.folder, self.figure, self.table, self.session, self.calls)
        self.box = ipywidgets.VBox([buttons, self.written, self.text])

    def _writing(self, label: str, write: Callable[[Path], Sequence[Path]]) -> ipywidgets.Button:
        def act() -> None:
            folder = Path(self.folder.value)
            folder.mkdir(parents=True, exist_ok=True)
            names = ", ".join(path.as_posix() for path in write(folder))
            self.written.value = escape(f"written: {names}")

        tooltip = f"Write the {label.lower()} into the folder"
        return button(label, tooltip, lambda: self._act(act))

    def _show_calls(self, model: StepperModel, folder: Path) -> list[Path]:
        paths = export.export_calls(model, folder)
        self.text.value = paths[0].read_text(encoding="utf-8")
        return paths
