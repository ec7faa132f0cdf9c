"""See where prompts go, why, and what would send them elsewhere.

    ll.widgets.RoutingInspector(session)

The arrow keys walk through the learned batches while the panel has the focus. Looking back never
changes the session.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import ipywidgets
from matplotlib.figure import Figure

from ...edits import EditStream
from ...session import EditSession
from ..common.figure_view import FigureView
from ..common.one_thread import on_this_thread
from ..common.panel import Panel, button, card, escape, markup, row, shortened
from .model import LETTERS, InspectorModel
from .static_view import face
from .views import details_html, draw_map, draw_paths, routes_html

TITLE = "Routing inspector"
ALL = "all its prompts"
MAP_SIZE, PATHS_WIDTH, ROW_HEIGHT = (5.6, 5.2), 9.6, 0.23  # inches
PLOTTED = "Map of the learned edits and the asked prompts"
WALKED = "Expert of each asked prompt after every batch"


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
        self.model = InspectorModel(session)
        self._following = False
        self._asked_before = 0
        self._offered: EditStream | None = None  # the stream whose edits can be picked
        self.error = markup("", "lemoe-error")
        self.facts = markup("", "lemoe-faint")
        self.edit = _dropdown("Edit", "350px")
        self.which = _dropdown("Prompt", "350px")
        self.inspect = button("Inspect", "Put it on the map", self._inspect, "primary")
        self.text = ipywidgets.Text(
            description="Own words", placeholder="type a prompt", continuous_update=False
        )
        _named(self.text, "270px")
        self.inspect_text = button("Inspect text", "Put it on the map", self._inspect_text)
        self.detailed = _dropdown("Details of", "130px")
        self.remove = button("Remove", "Take this prompt off the map", self._remove)
        self.clear = button("Clear", "Take all prompts off the map", self._clear)
        self.slider = ipywidgets.IntSlider(
            min=0, max=0, description="Batches applied", continuous_update=False
        )
        _named(self.slider, "270px")
        self.space = _dropdown("Map of", "190px")
        self.again = button("Look again", "Take notice of what was learned since", self.refresh)
        self.table = markup(routes_html([], None, [], 0))
        self.details = markup("")
        self.map = FigureView(PLOTTED, MAP_SIZE)
        self.paths = FigureView(WALKED, (PATHS_WIDTH, 2.0))
        super().__init__(TITLE, self._layout(), {"left": self._back, "right": self._forward})
        _offer(self.space, self.model.spaces)
        self.space.layout.display = "none" if len(self.model.spaces) == 1 else None
        for control, react in (
            (self.edit, self._offer_prompts),
            (self.text, self._inspect_text),
            (self.slider, self._go_to),
            (self.space, self._change_space),
            (self.detailed, self._show_details),
        ):
            control.observe(on_this_thread(self._heard(react)), "value")
        self._offer_edits()
        if not self.model.refusal:
            self.act(lambda: self._begin(prompts))

    def _begin(self, prompts: Sequence[str] | None) -> None:
        if prompts is None:
            self.model.ask_edit(self.edit.value)
        for prompt in prompts or ():
            self.model.ask(prompt)

    def _layout(self) -> list[ipywidgets.Widget]:
        if self.model.refusal:
            return [markup(f"<p>{escape(self.model.refusal)}</p>", "lemoe-notice")]
        left = card("Map", self.map)
        right = card(
            "What would change it", row(self.detailed, self.remove, self.clear), self.details
        )
        left.layout.flex, right.layout.flex = "1 1 360px", "1 1 340px"
        pictures = row(left, right)
        pictures.layout.align_items = "flex-start"
        return [
            self.facts,
            row(self.edit, self.which, self.inspect),
            row(self.text, self.inspect_text, self.slider, self.space, self.again),
            self.error,
            pictures,
            card("Routes", self.table),
            card("Through the batches", self.paths),
        ]

    # Commands

    def act(self, command: Callable[[], object]) -> None:
        """Run a command of the model and show what came of it, or its error."""
        self.error.value = ""
        try:
            command()
            self._show()
        except Exception as error:
            self.error.value = escape(str(error) or type(error).__name__)

    def refresh(self) -> None:
        """Take notice of what the session learned or took back since the last look."""
        self._offer_edits()
        self.act(self.model.refresh)

    def _heard(self, react: Callable[[], None]) -> Callable[[dict], None]:
        return lambda _: None if self._following else react()

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

    def _clear(self) -> None:
        self.act(self.model.clear)

    def _go_to(self) -> None:
        self.act(lambda: self.model.go_to(self.slider.value))

    def _back(self) -> None:
        self.act(lambda: self.model.go_to(max(0, self.model.step - 1)))

    def _forward(self) -> None:
        self.act(lambda: self.model.go_to(min(self.model.learned, self.model.step + 1)))

    def _change_space(self) -> None:
        def change() -> None:
            self.model.space = self.space.value

        self.act(change)

    # What the page shows

    def _offer_edits(self) -> None:
        stream, kept = self.model.session.stream, self.edit.value
        if stream is self._offered:
            return
        self._offered, self._following = stream, True
        labelled = [
            (f"{batch.step} · {shortened(edit.prompt, 70)}", edit.id)
            for batch in stream
            for edit in batch
        ]
        _offer(self.edit, labelled)
        if kept in [edit for _, edit in labelled]:
            self.edit.value = kept
        self._following = False
        self._offer_prompts()

    def _offer_prompts(self) -> None:
        offers = self.model.offers(self.edit.value)
        labels = [f"{offer.role}: {shortened(offer.prompt, 70)}" for offer in offers]
        _offer(self.which, [(ALL, ALL), *((label, i) for i, label in enumerate(labels))])

    def _show(self) -> None:
        model = self.model
        after = model.routes()
        before = model.routes(model.step - 1) if model.step else None
        self._follow(len(after))
        self.table.value = routes_html(model.asked, before, after, model.step)
        found = model.map()
        self.map.replace(lambda ax: draw_map(ax, found, after, model.step))
        self._show_paths()
        self._show_details()

    def _show_paths(self) -> None:
        paths, step = self.model.paths(), self.model.step
        self.paths.figure.set_size_inches(PATHS_WIDTH, 1.1 + ROW_HEIGHT * max(1, len(paths)))
        self.paths.replace(lambda ax: draw_paths(ax, paths, step))

    def _follow(self, asked: int) -> None:
        model, kept = self.model, self.detailed.value
        self._following = True
        self.slider.max, self.slider.value = model.learned, model.step
        self.detailed.options = list(LETTERS[:asked])
        if asked:
            newest = LETTERS[asked - 1]
            grown = kept is None or asked != self._asked_before
            self.detailed.value = newest if grown else kept
        self._asked_before = asked
        self._following = False
        self.facts.value = escape(facts(model))

    def _show_details(self) -> None:
        letter = self.detailed.value
        if not letter:
            self.details.value = ""
            return
        place = LETTERS.index(letter)
        route = self.model.routes()[place]
        self.details.value = details_html(letter, self.model.asked[place], route)

    # Where there is no kernel

    def static_figure(self) -> Figure:
        return face(TITLE, self.model, facts(self.model))

    def static_text(self) -> str:
        return f"{TITLE}: {facts(self.model)}"


def facts(model: InspectorModel) -> str:
    """One line on what is inspected."""
    session = model.session
    return (
        f"{session.editor.name} on {session.host.name}; {len(session.stream.edits)} edits of "
        f"{session.stream.name} in {session.stream.order} order; "
        f"seed {session.editor.config.seed}; "
        f"looking at {model.step} of {model.learned} batches"
    )


def _dropdown(label: str, width: str) -> ipywidgets.Dropdown:
    return _named(ipywidgets.Dropdown(description=label), width)


def _offer(control: ipywidgets.Dropdown, options: Sequence) -> None:
    """Give a dropdown these options and choose the first."""
    control.options = options
    control.index = 0


def _named(control: ipywidgets.Widget, width: str) -> ipywidgets.Widget:
    control.style.description_width = "initial"
    control.layout.width = width
    return control
