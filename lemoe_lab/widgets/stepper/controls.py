"""The controls of the stepper: moving through the stream, choosing, and the running batch.

They hold no state of their own: each calls the model and shows what the model says.
"""

from __future__ import annotations

import ipywidgets

from ..common.choices import ORDERS, Choice
from ..common.elements import Act, button, control, escape, markup, put, row
from .model import StepperModel

SPEEDS = {"full": 0.0, "1 s pauses": 1.0, "3 s pauses": 3.0}  # seconds between two batches


class Controls:
    """Play, step, undo, redo, abandon, a slider over the batches, the speed."""

    def __init__(self, model: StepperModel, act: Act) -> None:
        self.model, self._act = model, act
        learn, back = "Learn batch after batch (space)", "Take the last batch back (left arrow)"
        forget = "Forget the running batch; those before it stay"
        self.play = button("Play", learn, model.toggle, "primary", act)
        self.step = button("Step", "Learn one batch (right arrow)", model.step, "", act)
        self.undo = button("Undo", back, model.undo, "", act)
        self.redo = button("Redo", "Apply it again, without training", model.redo, "", act)
        self.abandon = button("Abandon batch", forget, model.abandon, "", act)
        self.slider = control(ipywidgets.IntSlider, "Batch", "235px", self._jump, min=0)
        paces, pace = list(SPEEDS), self._change_speed
        self.speed = control(ipywidgets.Dropdown, "Speed", "150px", pace, options=paces)
        self.bar = control(ipywidgets.FloatProgress, "Training", "250px", min=0, max=1)
        self.note = markup("", "lemoe-status")
        buttons = (self.play, self.step, self.undo, self.redo, self.abandon)
        moving = row(*buttons, self.slider, self.speed)
        self.box = ipywidgets.VBox([moving, row(self.bar, self.note)])
        self.follow()

    def _jump(self, step: int) -> None:
        self._act(lambda: self.model.jump(step))
        self.follow()

    def _change_speed(self, name: str) -> None:
        self.model.delay = SPEEDS[name]

    def follow(self) -> None:
        """Show what the model is doing."""
        model, phase = self.model, self.model.phase
        self.play.description = "Pause" if phase == "training" else "Play"
        self.play.disabled = phase == "idle" and not model.can_learn
        self.step.disabled = phase == "training" or not model.can_learn
        self.undo.disabled, self.redo.disabled = not model.can_undo, not model.can_redo
        self.abandon.disabled = model.progress is None
        put(self.slider, max=model.batches, value=model.steps)
        self.bar.value = model.progress.share if model.progress else 0.0
        self.note.value = escape(status(model))


def status(model: StepperModel) -> str:
    """One line on the running batch, or on the whole run."""
    progress = model.progress
    if progress is None:
        table = model.history.reliability()
        counted = f"{model.steps} of {model.batches} batches applied"
        if table.empty:
            return f"{counted}; nothing learned yet"
        weights = table["edits"] / table["edits"].sum()
        immediate, now = ((table[name] * weights).sum() for name in ("immediate", "now"))
        return f"{counted}; reliability right after {immediate:.2f}, now {now:.2f}"
    return ("held: " if model.phase == "held" else "") + str(progress)


class ChoiceBox:
    """Editor, planner, batch size and seed for the next reset."""

    def __init__(self, model: StepperModel, act: Act) -> None:
        self.model = model
        dropdown, whole = ipywidgets.Dropdown, ipywidgets.IntText
        self.editor = control(dropdown, "Editor", "250px", options=list(model.specs))
        self.planner = control(dropdown, "Order", "170px", options=ORDERS)
        self.batch_size = control(whole, "Batch size", "130px")
        self.seed = control(whole, "Seed", "130px")
        again = "Start again with these choices; the present session ends"
        self.reset = button("Reset", again, lambda: model.reset(self.choice), "warning", act)
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
