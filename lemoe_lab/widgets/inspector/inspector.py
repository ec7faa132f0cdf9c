"""See where prompts go, why, and what would send them elsewhere.

    ll.widgets.RoutingInspector(session)

The arrow keys walk through the learned batches while the panel has the focus. Looking back never
changes the session.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import ipywidgets

from ...edits import EditStream
from ...session import EditSession
from ..common.elements import (
    button,
    card,
    code,
    control,
    escape,
    markup,
    put,
    row,
    shortened,
    table_html,
)
from ..common.figure_view import FigureView
from ..common.panel import Panel, StaticRow, facts, static_table, static_views
from ..common.routes import route_html
from .model import LETTERS, InspectorModel, in_words
from .views import draw_map, draw_paths

TITLE = "Routing inspector"
ALL = "all its prompts"
MAP_SIZE, PATHS_WIDTH, ROW_HEIGHT = (5.6, 5.2), 9.6, 0.23  # inches
PLOTTED = "Map of the learned edits and the asked prompts"
WALKED = "Expert of each asked prompt after every batch"
INVITATION = "<p class='lemoe-faint'>Pick a prompt of the stream, or type one of your own.</p>"
STATIC_COLUMNS = {"": 0.02, "prompt": 0.33, "kind": 0.26, "now": 0.06, "what would change it": 0.33}


class RoutingInspector(Panel):
    """A map of anchors with prompts on it, and what decides the route of each.

    Parameters
    ----------
    session
        An open session. It may learn on elsewhere; *Look again* takes notice.
    prompts
        What is on the map at first; None: all prompts of the stream's first edit.
    """

    def __init__(self, session: EditSession, prompts: Sequence[str] | None = None) -> None:
        model = self.model = InspectorModel(session)
        self._asked_before = 0
        self._offered: EditStream | None = None  # the stream whose edits can be picked
        dropdown = ipywidgets.Dropdown
        self.facts = markup("", "lemoe-faint")
        self.edit = control(dropdown, "Edit", "350px", lambda _: self._offer_prompts())
        self.which = control(dropdown, "Prompt", "350px")
        self.inspect = button("Inspect", "Put it on the map", self._inspect, "primary")
        self.text = control(ipywidgets.Text, "Own words", "270px", lambda _: self._inspect_text())
        self.text.placeholder = "type a prompt"
        self.inspect_text = button("Inspect text", "Put it on the map", self._inspect_text)
        self.detailed = control(dropdown, "Details of", "130px", lambda _: self._show_details())
        self.remove = button("Remove", "Take this prompt off the map", self._remove)
        self.clear = button("Clear", "Take all prompts off the map", model.clear, "", self.act)
        self.slider = control(ipywidgets.IntSlider, "Batches applied", "270px", self._go_to)
        self.space = control(dropdown, "Map of", "190px", self._change_space, options=model.spaces)
        self.space.layout.display = "none" if len(model.spaces) == 1 else None
        self.again = button("Look again", "Take notice of what was learned since", self.refresh)
        self.table, self.details = markup(INVITATION), markup("")
        self.map = FigureView(PLOTTED, MAP_SIZE)
        self.paths = FigureView(WALKED, (PATHS_WIDTH, 2.0))
        keys = {"left": lambda: self._go_to(model.step - 1)}
        keys["right"] = lambda: self._go_to(model.step + 1)
        super().__init__(model, TITLE, self._layout(), keys)
        self._offer_edits()
        if not model.refusal:
            self.act(lambda: self._begin(prompts))

    def _begin(self, prompts: Sequence[str] | None) -> None:
        if prompts is None:
            self.model.ask_edit(self.edit.value)
        for prompt in prompts or ():
            self.model.ask(prompt)

    def _layout(self) -> list[ipywidgets.Widget]:
        if self.model.refusal:
            return [markup(f"<p>{escape(self.model.refusal)}</p>", "lemoe-notice")]
        choosing = row(self.detailed, self.remove, self.clear)
        left, right = card("Map", self.map), card("What would change it", choosing, self.details)
        left.layout.flex, right.layout.flex = "1 1 360px", "1 1 340px"
        pictures = row(left, right)
        pictures.layout.align_items = "flex-start"
        return [
            self.facts,
            row(self.edit, self.which, self.inspect),
            row(self.text, self.inspect_text, self.slider, self.space, self.again),
            pictures,
            card("Routes", self.table),
            card("Through the batches", self.paths),
        ]

    # Commands

    def act(self, command: Callable[[], object]) -> None:
        """Run a command of the model and show what came of it, or its error."""

        def act() -> None:
            command()
            self._show()

        super().act(act)

    def refresh(self) -> None:
        """Take notice of what the session learned or took back since the last look."""
        self._offer_edits()
        self.act(self.model.refresh)

    def _inspect(self) -> None:
        chosen, edit = self.which.value, self.edit.value
        if chosen == ALL:
            self.act(lambda: self.model.ask_edit(edit))
        else:
            offer = self.model.offers(edit)[chosen]
            self.act(lambda: self.model.ask(offer.prompt, offer.role, edit))

    def _inspect_text(self) -> None:
        if self.text.value.strip():
            self.act(lambda: self.model.ask(self.text.value))

    def _remove(self) -> None:
        letter = self.detailed.value
        self.act(lambda: self.model.remove(letter or ""))

    def _go_to(self, step: int) -> None:
        self.act(lambda: self.model.go_to(min(max(0, step), self.model.learned)))

    def _change_space(self, space: str) -> None:
        self.act(lambda: setattr(self.model, "space", space))

    # What the page shows

    def _offer_edits(self) -> None:
        stream, kept = self.model.session.stream, self.edit.value
        if stream is self._offered:
            return
        self._offered = stream
        edits = [(batch.step, edit) for batch in stream for edit in batch]
        ids = [edit.id for _, edit in edits]
        labels = [f"{step} · {shortened(edit.prompt, 70)}" for step, edit in edits]
        chosen = kept if kept in ids else ids[0]
        put(self.edit, options=list(zip(labels, ids, strict=True)), value=chosen)
        self._offer_prompts()

    def _offer_prompts(self) -> None:
        offers = self.model.offers(self.edit.value)
        labels = [f"{offer.role}: {shortened(offer.prompt, 70)}" for offer in offers]
        options = [(ALL, ALL), *((label, i) for i, label in enumerate(labels))]
        put(self.which, options=options, index=0)

    def _show(self) -> None:
        model = self.model
        model.refresh()
        found, routes, paths, step = model.map(), model.routes(), model.paths(), model.step
        self._follow()
        self.table.value = table_html(in_words(model.table(), step)) if routes else INVITATION
        self.map.draw(lambda figure: draw_map(figure.subplots(), found, routes, step))
        self.paths.figure.set_size_inches(PATHS_WIDTH, 1.1 + ROW_HEIGHT * max(1, len(paths)))
        self.paths.draw(lambda figure: draw_paths(figure.subplots(), paths, step))
        self._show_details()

    def _follow(self) -> None:
        model, letters, kept = self.model, LETTERS[: len(self.model.asked)], self.detailed.value
        put(self.slider, max=model.learned, value=model.step)
        grown = kept is None or len(letters) != self._asked_before
        chosen = letters[-1] if letters and grown else kept if letters else None
        put(self.detailed, options=list(letters), value=chosen)
        self._asked_before = len(letters)
        self.facts.value = escape(self._facts())

    def _show_details(self) -> None:
        letter, model = self.detailed.value, self.model
        if not letter:
            self.details.value = ""
            return
        place = LETTERS.index(letter)
        asked = code(model.asked[place].prompt)
        self.details.value = f"<p><b>{letter}</b> {asked}</p>{route_html(model.routes()[place])}"

    def _facts(self) -> str:
        model = self.model
        return f"{facts(model.session)}; looking at {model.step} of {model.learned} batches"

    # Where there is no kernel

    def static_text(self) -> str:
        return f"{TITLE}: {self.model.refusal or self._facts()}"

    def static_rows(self) -> list[StaticRow]:
        if self.model.refusal:
            return []
        table = in_words(self.model.table(), self.model.step)
        return [static_views(4.6, self.map, self.paths), static_table(table, STATIC_COLUMNS)]
