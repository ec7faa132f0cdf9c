"""The lower half of the stepper: the table of edits, questions to the model, files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path

import ipywidgets
from matplotlib.figure import Figure

from ... import plots
from ...edits import trimmed_prompt
from ..common.ask import Answer, answer_html, edit_html
from ..common.elements import Act, button, control, escape, markup, row
from ..common.panel import facts
from .edit_table import EditTable
from .model import StepperModel
from .reproduce import almanac_call, calls
from .views import draw_all

FIGURE_SIZE = (14, 4.2)
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
        self.prompt = control(ipywidgets.Combobox, "Prompt", "520px", lambda _: self.ask())
        self.prompt.placeholder = "The prime minister of …"
        self.target = control(ipywidgets.Text, "New target", "300px")
        self.target.placeholder = "what it should say"
        self.asked = button("Ask", "Ask without and with the edits", self.ask, "primary")
        learn = "Make it an edit and learn it as the next batch"
        self.teach = button("Teach it", learn, self._teach, "", act)
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
        self.model.teach(self.prompt.value, self.target.value)


class ExportBox:
    """Figure, table, session and calls as files in a folder."""

    def __init__(self, model: StepperModel, table: EditTable, folder: str, act: Act) -> None:
        self.model, self._edits, self._act = model, table, act
        self.folder = control(ipywidgets.Text, "Folder", "300px", value=folder)
        self.figure = self._writing("Figure", self._write_figure)
        self.table = self._writing("Table", self._write_table)
        self.session = self._writing("Session", self._write_session)
        self.calls = self._writing("Python calls", self._write_calls)
        self.written = markup("", "lemoe-status")
        what = "the Python calls that lead to the present state"
        self.text = control(ipywidgets.Textarea, "Calls", "auto", placeholder=what)
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
        return button(label, tooltip, act, "", self._act)

    def _write_figure(self, folder: Path) -> Sequence[Path]:
        model = self.model
        with plots.style():
            figure = Figure(figsize=FIGURE_SIZE, layout="constrained")
            draw_all(figure, model.history)
            figure.suptitle(f"{facts(model.session)}; {model.steps} of {model.batches} batches")
        return plots.save(figure, "edit_stepper", folder)

    def _write_table(self, folder: Path) -> Sequence[Path]:
        """The rows that pass the filter."""
        self._edits.selection.to_csv(folder / "edits.csv", index=False)
        return [folder / "edits.csv"]

    def _write_session(self, folder: Path) -> Sequence[Path]:
        """The run as it is now, in a new folder."""
        paths = (folder / f"session-{number}" for number in count(1))
        path = next(path for path in paths if not path.exists())
        self.model.session.save(path, follow=False)
        return [path]

    def _write_calls(self, folder: Path) -> Sequence[Path]:
        """A script, with the stream where no call makes it."""
        source, paths = self.model.source, [folder / "reproduce.py"]
        if almanac_call(source) is None:
            paths.append(folder / "stream.json")
            paths[1].write_text(source.model_dump_json(indent=1), encoding="utf-8")
        self.text.value = calls(self.model, (folder / "stream.json").as_posix())
        paths[0].write_text(self.text.value, encoding="utf-8")
        return paths
