"""The controls of the stepper: moving through the stream, choosing, and the running batch.

They hold no state of their own: each calls the model and shows what the model says.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import ipywidgets

from ..common.choices import Choice
from ..common.one_thread import on_this_thread
from ..common.panel import button, escape, markup, row
from .model import StepperModel

SPEEDS = {"full": 0.0, "1 s pauses": 1.0, "3 s pauses": 3.0}  # seconds between two batches
Act = Callable[[Callable[[], object]], None]  # runs a command, shows its error, starts the work
WIDE, NARROW = "250px", "130px"


class Transport:
    """Play, step, undo, redo, abandon, a slider over the batches, the speed."""

    def __init__(self, model: StepperModel, act: Act) -> None:
        self.model, self._act = model, act
        self._following = False
        self.play = button("Play", "Learn batch after batch (space)", self._run(model.toggle))
        self.play.button_style = "primary"
        self.step = button("Step", "Learn one batch (right arrow)", self._run(model.step))
        self.undo = button("Undo", "Take the last batch back (left arrow)", self._run(model.undo))
        self.redo = button("Redo", "Apply it again, without training", self._run(model.redo))
        self.abandon = button(
            "Abandon batch",
            "Forget the running batch; those before it stay",
            self._run(model.abandon),
        )
        self.slider = ipywidgets.IntSlider(
            min=0, max=model.batches, description="Batch", continuous_update=False
        )
        self.slider.style.description_width = "initial"
        self.slider.layout.width = "235px"
        self.slider.observe(on_this_thread(self._jump), "value")
        self.speed = ipywidgets.Dropdown(options=list(SPEEDS), description="Speed")
        self.speed.style.description_width = "initial"
        self.speed.layout.width = "150px"
        self.speed.observe(on_this_thread(self._change_speed), "value")
        self.bar = ipywidgets.FloatProgress(min=0, max=1, description="Training")
        self.bar.style.description_width = "initial"
        self.bar.layout.width = WIDE
        self.note = markup("", "lemoe-status")
        buttons = (self.play, self.step, self.undo, self.redo, self.abandon)
        self.box = ipywidgets.VBox(
            [
                row(*buttons, self.slider, self.speed),
                row(self.bar, self.note),
            ]
        )
        self.follow()

    def _run(self, command: Callable[[], object]) -> Callable[[], None]:
        return lambda: self._act(command)

    def _jump(self, change: dict) -> None:
        if not self._following:
            self._act(lambda: self.model.jump(change["new"]))
            self.follow()

    def _change_speed(self, change: dict) -> None:
        self.model.delay = SPEEDS[change["new"]]

    def follow(self) -> None:
        """Show what the model is doing."""
        model, phase = self.model, self.model.phase
        self.play.description = "Pause" if phase == "training" else "Play"
        self.play.disabled = phase == "idle" and not model.can_learn
        self.step.disabled = phase == "training" or not model.can_learn
        self.undo.disabled, self.redo.disabled = not model.can_undo, not model.can_redo
        self.abandon.disabled = model.progress is None
        self._following = True
        self.slider.max, self.slider.value = model.batches, model.steps
        self._following = False
        self.bar.value = model.progress.share if model.progress else 0.0
        self.note.value = status_html(model)


def status_html(model: StepperModel) -> str:
    """One line on the running batch, or on the whole run."""
    progress = model.progress
    if progress is None:
        table = model.track.reliability()
        counted = f"{model.steps} of {model.batches} batches applied"
        if table.empty:
            return escape(f"{counted}; nothing learned yet")
        weights = table["edits"] / table["edits"].sum()
        immediate, now = ((table[name] * weights).sum() for name in ("immediate", "now"))
        return escape(f"{counted}; reliability right after {immediate:.2f}, now {now:.2f}")
    parts = [f"batch {progress.batch}"]
    if progress.steps:
        parts.append(f"optimiser step {progress.step} of at most {progress.steps}")
    if not math.isnan(progress.loss):
        parts.append(f"loss {progress.loss:.3f}")
    if progress.reliability is not None:
        parts.append(f"says {progress.reliability:.0%} of its targets")
    return escape(("held: " if model.phase == "held" else "") + ", ".join(parts))


class ChoiceBox:
    """Editor, planner, batch size and seed for the next reset."""

    def __init__(self, model: StepperModel, act: Act) -> None:
        self.model = model
        self.editor = ipywidgets.Dropdown(options=list(model.specs), description="Editor")
        self.planner = ipywidgets.Dropdown(options=list(model.planners), description="Order")
        self.batch_size = ipywidgets.IntText(description="Batch size")
        self.seed = ipywidgets.IntText(description="Seed")
        for control, width in (
            (self.editor, WIDE),
            (self.planner, "170px"),
            (self.batch_size, NARROW),
            (self.seed, NARROW),
        ):
            control.style.description_width = "initial"
            control.layout.width = width
        self.reset = button(
            "Reset",
            "Start again with these choices; the present session ends",
            lambda: act(lambda: model.reset(self.choice)),
            "warning",
        )
        self.box = row(self.editor, self.planner, self.batch_size, self.seed, self.reset)
        self.follow()

    @property
    def choice(self) -> Choice:
        """What is chosen now."""
        return Choice(self.editor.value, self.planner.value, self.batch_size.value, self.seed.value)

    def follow(self) -> None:
        """Show what the present session was made with."""
        choice = self.model.choice
        self.editor.value, self.planner.value = choice.editor, choice.planner
        self.batch_size.value, self.seed.value = choice.batch_size, choice.seed
