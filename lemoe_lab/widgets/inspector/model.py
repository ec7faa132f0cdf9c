"""The inspector without its view: asked prompts, and their routes after every learned step.

    model = InspectorModel(session)
    model.ask("The prime minister of Gemland is")
    model.go_to(3)
    model.table()                                 # one row per asked prompt
    model.paths()                                 # the expert of each after every step

Looking back moves the editor alone, by ``session.at``: the session's step, metrics and files stay.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ...adaptor.routing import BYPASS
from ...edits import EditError, trimmed_prompt
from ...probes.collect import walk_back
from ...session import EditSession
from ..common.background import Model
from ..common.elements import number
from ..common.points import Axes2, principal_axes
from ..common.routes import (
    Features,
    PromptRoute,
    expert_name,
    last_expert,
    positions,
    prompt_routes,
    refusal,
    summary,
)

MOST_PROMPTS = 12
LETTERS = "ABCDEFGHIJKL"
TYPED = "typed"
COLUMNS = ["letter", "prompt", "kind", "before", "after", "gate", "similarity", "nearest"]
COLUMNS += ["threshold", "change"]  # below it the plain network answers; what would change it


@dataclass(frozen=True)
class Asked:
    """A prompt with its role for an edit of the stream: its own, a rephrase, a locality prompt."""

    prompt: str
    role: str = TYPED
    edit: str = ""

    @property
    def kind(self) -> str:
        """The role and the edit in words."""
        return f"{self.role} of {self.edit}" if self.edit else self.role


@dataclass(frozen=True)
class RouteMap:
    """Edits and asked prompts in two dimensions, as the router sees them after one step."""

    axes: Axes2
    ids: tuple[str, ...]  # of the M learned edits
    edits: np.ndarray  # (M, 2)
    learned_by: np.ndarray  # (M,), experts
    goes_to: np.ndarray  # (M,)
    superseded: np.ndarray  # (M,): whether a later edit replaced it
    prompts: np.ndarray  # (N, 2)

    @property
    def rerouted(self) -> np.ndarray:
        """(M,): edits whose prompt no longer goes to the expert that learned them."""
        return (self.goes_to != self.learned_by) & ~self.superseded


class InspectorModel(Model):
    """Asks a session where prompts go."""

    def __init__(self, session: EditSession) -> None:
        super().__init__()
        self.session = session
        self.asked: list[Asked] = []  # in the order of their letters
        self.step = session.steps  # the time that is looked at: so many batches are applied
        self._features = Features(session.editor)
        self._paths: dict[str, list[int]] = {}
        self._axes: dict[str, Axes2] = {}
        self._reports = list(session.reports)
        probe = self._features([session.stream.edits[0].prompt])
        self.routes_prompts = bool(probe.shape[1]) and session.editor.routes(probe) is not None
        self.spaces = tuple(positions(session.editor, probe))
        self.space = self.spaces[0]  # where the map lies

    # What is

    @property
    def refusal(self) -> str:
        """Why there is nothing to inspect; empty for an editor that routes."""
        return "" if self.routes_prompts else refusal(self.session.editor)

    @property
    def learned(self) -> int:
        """How many steps can be looked at."""
        return self.session.steps

    def offers(self, edit: str) -> list[Asked]:
        """The prompts that an edit of the stream brings along, its own first."""
        edits = {one.id: one for one in self.session.stream.edits}
        if edit not in edits:
            raise EditError(f"no edit {edit!r} in the stream; its first is {next(iter(edits))!r}")
        found = edits[edit]
        prompts = [("own prompt", found), *((f"{r.group} rephrase", r) for r in found.rephrases)]
        prompts += [(f"{p.group.replace('_', ' ')} locality", p) for p in found.locality]
        return [Asked(one.prompt, role, edit) for role, one in prompts]

    # Commands

    def ask(self, prompt: str, role: str = TYPED, edit: str = "") -> None:
        """Inspect one more prompt, once; EditError if it is empty, too long, or one too many."""
        prompt = trimmed_prompt(prompt)
        if any(known.prompt == prompt for known in self.asked):
            return
        if len(self.asked) == MOST_PROMPTS:
            raise EditError(
                f"{MOST_PROMPTS} prompts are on the map, and more could not be told apart; "
                "remove some first"
            )
        self.session.host.encode_prompt(prompt)
        self.asked.append(Asked(prompt, role, edit))

    def ask_edit(self, edit: str) -> None:
        """Inspect every prompt of an edit, as far as there are letters left."""
        known = {asked.prompt for asked in self.asked}
        fresh = [offer for offer in self.offers(edit) if offer.prompt not in known]
        for offer in fresh[: MOST_PROMPTS - len(self.asked)]:
            self.ask(offer.prompt, offer.role, edit)

    def remove(self, letter: str) -> None:
        """Take one prompt off the map; those behind it move up a letter."""
        place = LETTERS.find(letter)
        if not letter or not 0 <= place < len(self.asked):
            raise EditError(f"no prompt has the letter {letter!r}; {len(self.asked)} are asked")
        del self.asked[place]

    def clear(self) -> None:
        """Take all prompts off the map."""
        self.asked.clear()

    def go_to(self, step: int) -> None:
        """Look at the time when ``step`` batches were applied."""
        if not 0 <= step <= self.learned:
            raise EditError(f"step must lie between 0 and {self.learned}, not {step}")
        self.step = step

    def refresh(self) -> None:
        """Take notice of what the session learned or took back; a look at its end stays there."""
        reports = self.session.reports
        if len(self._reports) == len(reports) and all(map(operator.is_, self._reports, reports)):
            return
        if self.step == len(self._reports) or self.step > self.learned:
            self.step = self.learned
        self._reports = list(reports)
        self._paths.clear()
        self._axes.clear()

    # Answers

    def routes(self, step: int | None = None) -> list[PromptRoute]:
        """The routes of the asked prompts after ``step`` batches; None: at the present look."""
        self._ready()
        features = self._features([asked.prompt for asked in self.asked])
        with self.session.at(self.step if step is None else step):
            return prompt_routes(self.session, features)

    def table(self) -> pd.DataFrame:
        """One row per asked prompt, see :func:`routes_table`."""
        before = self.routes(self.step - 1) if self.step else None
        return routes_table(self.asked, before, self.routes())

    def paths(self) -> pd.DataFrame:
        """The first expert of every asked prompt (rows, by letter) after every step (columns)."""
        self._ready()
        prompts = [asked.prompt for asked in self.asked]
        if new := [prompt for prompt in prompts if prompt not in self._paths]:
            features = self._features(new)
            steps = [prompt_routes(self.session, features) for _ in walk_back(self.session)]
            for place, prompt in enumerate(new):
                path = [routes[place].expert for routes in reversed(steps)]
                self._paths[prompt] = [BYPASS, *path]  # before the first batch nothing answers
        rows, steps = [self._paths[prompt] for prompt in prompts], range(self.learned + 1)
        return pd.DataFrame(rows, index=list(LETTERS[: len(rows)]), columns=steps, dtype=int)

    def map(self) -> RouteMap:
        """Where the learned edits and the asked prompts lie at the step looked at."""
        self._ready()
        session, space = self.session, self.space
        batches = session.stream.batches[: self.step]
        edits = [edit for batch in batches for edit in batch]
        own = self._features([edit.prompt for edit in edits])
        asked = self._features([asked.prompt for asked in self.asked])
        axes = self._map_axes()
        with session.at(self.step):
            last = last_expert(session.editor)
            seen, prompts = (positions(session.editor, some)[space] for some in (own, asked))
            goes_to = session.editor.routes(own).expert[:, 0].cpu().numpy()
        learned_by = [e for report in session.reports[: self.step] for e in report["experts"]]
        replaced = session.stream.superseded
        return RouteMap(
            axes,
            tuple(edit.id for edit in edits),
            axes.project(seen),
            np.minimum(np.array(learned_by, dtype=int), last),
            np.minimum(goes_to, last),
            np.array([replaced.get(e.id, self.step + 1) <= self.step for e in edits], dtype=bool),
            axes.project(prompts),
        )

    def _map_axes(self) -> Axes2:
        """One pair of axes for all steps, so that a map shows what moves: those of the last one."""
        session, space = self.session, self.space
        if space not in self._axes:
            batches = session.stream.batches[: self.learned or None]
            features = self._features([edit.prompt for batch in batches for edit in batch])
            points = positions(session.editor, features)[space]
            self._axes[space] = principal_axes(points)
        return self._axes[space]

    def _ready(self) -> None:
        """Refuse where a look would be wrong or would disturb."""
        if not self.routes_prompts:
            raise EditError(self.refusal)
        if self.session.steps != len(self.session.reports):
            raise EditError("a batch is being learned; look again when it is learned or abandoned")
        self.refresh()


def routes_table(
    asked: Sequence[Asked], before: Sequence[PromptRoute] | None, after: Sequence[PromptRoute]
) -> pd.DataFrame:
    """One row per asked prompt: see ``COLUMNS``; experts from 0, -1 the bypass, None unknown."""
    earlier = [route.expert for route in before] if before else [None] * len(after)
    rows = [
        (letter, one.prompt, one.kind, past, now.expert, now.gates[0], *_reasons(now))
        for letter, one, past, now in zip(LETTERS, asked, earlier, after, strict=False)
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def _reasons(route: PromptRoute) -> tuple:
    nearest = route.nearest[0].edit.id if route.nearest else ""
    return route.similarity, nearest, route.threshold, summary(route)


def in_words(table: pd.DataFrame, step: int) -> pd.DataFrame:
    """The same as the page and the static view show it, after ``step`` batches."""
    shown = table[["letter", "prompt", "kind"]].rename(columns={"letter": ""})
    shown[f"before batch {step}"] = table["before"].map(expert_name)
    shown["now"] = table["after"].map(expert_name)
    shown["gate"] = table["gate"].map("{:.2f}".format)
    shown["similarity"] = table["similarity"].map(number)
    return shown.assign(**{"what would change it": table["change"]})
