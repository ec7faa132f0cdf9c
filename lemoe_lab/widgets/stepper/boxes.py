"""The lower half of the stepper: the table of edits, questions to the model, files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import ipywidgets

from ...edits import trimmed_prompt
from ..common.answers import answer_html, edit_html
from ..common.ask import Answer
from ..common.one_thread import on_this_thread
from ..common.panel import button, escape, markup, row
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
        self.details = markup(
            "Click an edit, or press Enter on its row, to open it.", "lemoe-faint"
        )
        self.box = ipywidgets.VBox([self.table, self.details])
        self.follow()

    def follow(self) -> None:
        """Show every edit as it is now."""
        frame = self.model.track.edits()
        self.table.update(frame)
        if self.table.opened in set(frame["edit"]):
            if self.model.phase == "idle":
                self._show(self.table.opened)
        elif self.table.opened:
            self.table.opened, self.details.value = "", ""

    def _show(self, edit: str) -> None:
        opened = self.model.open(edit)
        self.details.remove_class("lemoe-faint")
        self.details.value = edit_html(
            opened.edit, opened.state, opened.base, opened.edited, opened.path
        )


class AskBox:
    """Ask the model anything; teach it another answer."""

    def __init__(self, model: StepperModel, act: Act) -> None:
        self.model, self._act = model, act
        self.answer: Answer | None = None
        self.prompt = ipywidgets.Combobox(
            description="Prompt", placeholder="The prime minister of …", continuous_update=False
        )
        self.target = ipywidgets.Text(
            description="New target", placeholder="what it should say", continuous_update=False
        )
        for field, width in ((self.prompt, "520px"), (self.target, "300px")):
            field.style.description_width = "initial"
            field.layout.width = width
        self.prompt.observe(on_this_thread(lambda _: self.ask()), "value")
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
        self.model, self._act = model, act
        self.folder = ipywidgets.Text(folder, description="Folder", continuous_update=False)
        self.folder.style.description_width = "initial"
        self.figure = self._button("Figure", lambda: export.export_figure(model, self.path))
        self.table = self._button("Table", lambda: export.export_table(table.selection, self.path))
        self.session = self._button(
            "Session", lambda: export.export_session(model.session, self.path)
        )
        self.calls = self._button("Python calls", self._write_calls)
        self.written = markup("", "lemoe-status")
        self.text = ipywidgets.Textarea(
            description="Calls", placeholder="the Python calls that lead to the present state"
        )
        self.text.style.description_width = "initial"
        self.text.layout.width, self.text.layout.height = "auto", "150px"
        buttons = row(self.folder, self.figure, self.table, self.session, self.calls)
        self.box = ipywidgets.VBox([buttons, self.written, self.text])

    @property
    def path(self) -> Path:
        """Where files go."""
        return Path(self.folder.value)

    def _button(self, label: str, write: Callable[[], Sequence[Path]]) -> ipywidgets.Button:
        return button(label, f"Write the {label.lower()} into the folder", self._writer(write))

    def _writer(self, write: Callable[[], Sequence[Path]]) -> Callable[[], None]:
        def act() -> None:
            names = ", ".join(path.as_posix() for path in write())
            self.written.value = escape(f"written: {names}")

        return lambda: self._act(act)

    def _write_calls(self) -> list[Path]:
        paths = export.export_calls(self.model, self.path)
        self.text.value = paths[0].read_text(encoding="utf-8")
        return paths
