"""What became of every edit: its state, and the tables behind the live views.

    history = History(session)
    session.step()
    history.update()
    history.edits()                               # one row per edit of the stream

States: ``not yet`` learned; ``learned``: answers with its target; ``forgotten``: did so right after
its batch and no longer does; ``rerouted``: forgotten, and its prompt now goes to another expert
than the one that learned it; ``missed``: never answered with its target; ``superseded`` by a later
edit of the same fact.
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pandas as pd

from ...session import EditSession
from .routes import Features, expert_name

STATES = ("forgotten", "rerouted", "missed", "learned", "superseded", "not yet")  # worst first
SCORER = "generated"
EDIT_COLUMNS = ("edit", "batch", "prompt", "target", "state", "immediate", "now", "expert", "route")


class History:
    """Follows a session and remembers what each step did."""

    def __init__(self, session: EditSession) -> None:
        self.session = session
        self.immediate: dict[str, float] = {}  # exact match of each edit right after its batch
        self.now: dict[str, float] = {}  # and as last measured
        self.locality: dict[int, dict[str, float]] = {}  # mean agreement by batch and group
        self.routes: dict[int, dict[str, int]] = {}  # by step: edit id to its first expert
        self._features = Features(session.editor)
        self.update()

    def update(self) -> None:
        """Take over what the session measured, and measure what the present step changed."""
        session, steps = self.session, self.session.steps
        applied = session.stream.batches[:steps]
        self.immediate, self.locality = {}, {}
        for step, record in enumerate(session.records[1:], 1):
            groups: dict[str, list[float]] = defaultdict(list)
            for row in record.immediate:
                if row.metric == "reliability" and row.scorer == SCORER:
                    self.immediate[row.edit] = row.value
                elif row.metric == "locality" and (row.scorer == SCORER or row.group == "text"):
                    groups[row.group].append(row.value)
            self.locality[step] = {g: float(np.mean(values)) for g, values in groups.items()}
        measured = session.evaluator.measure(applied, steps, ["reliability"])
        self.now = {row.edit: row.value for row in measured if row.scorer == SCORER}
        self.routes = {step: routes for step, routes in self.routes.items() if step < steps}
        edits = [edit for batch in applied for edit in batch]
        routes = session.editor.routes(self._features([edit.prompt for edit in edits]))
        if edits and routes is not None:
            experts = routes.expert[:, 0].tolist()
            self.routes[steps] = dict(zip((edit.id for edit in edits), experts, strict=True))

    # Tables

    def learned_by(self) -> dict[str, int]:
        """The expert that learned each applied edit; empty for editors that do not route."""
        pairs = zip(self.session.stream.batches, self.session.reports, strict=False)
        learned = ((batch, report["experts"]) for batch, report in pairs)
        return {e.id: expert for some in learned for e, expert in zip(*some, strict=False)}

    def edits(self) -> pd.DataFrame:
        """One row per edit of the stream, in its order: see ``EDIT_COLUMNS``."""
        steps, replaced = self.session.steps, self.session.stream.superseded
        gone = {edit for edit, step in replaced.items() if step <= steps}
        learned_by, routes = self.learned_by(), self.routes.get(steps, {})
        rows = []
        for batch in self.session.stream:
            for edit in batch:
                known = (self.immediate, self.now, learned_by, routes)
                measured = [values.get(edit.id) for values in known]
                state = edit_state(batch.step <= steps, edit.id in gone, *measured)
                values = (*measured[:2], *map(expert_name, measured[2:]))
                rows.append((edit.id, batch.step, edit.prompt, edit.target, state, *values))
        return pd.DataFrame(rows, columns=list(EDIT_COLUMNS))

    def reliability(self) -> pd.DataFrame:
        """One row per applied batch: batch, edits, immediate, now; superseded edits left out."""
        frame = self.edits()
        frame = frame[~frame["state"].isin(("not yet", "superseded"))]
        frame = frame.astype({"immediate": float, "now": float}).groupby("batch")
        means = frame[["immediate", "now"]].mean().reset_index()
        means.insert(1, "edits", frame.size().to_numpy())
        return means

    def routing(self) -> pd.DataFrame:
        """Share of each batch's prompts that now goes to each expert, rows batches, -1 bypass.

        Empty for editors that do not route.
        """
        routes = self.routes.get(self.session.steps, {})
        rows = [
            (batch.step, routes[edit.id])
            for batch in self.session.stream.batches[: self.session.steps]
            for edit in batch
            if edit.id in routes
        ]
        table = pd.DataFrame(rows, columns=["batch", "expert"])
        return pd.crosstab(table["batch"], table["expert"], normalize="index")

    def path_of(self, edit: str) -> dict[int, int]:
        """Step to expert: where the prompt of an edit was sent since it was learned."""
        return {step: routes[edit] for step, routes in self.routes.items() if edit in routes}


def edit_state(
    applied: bool,
    superseded: bool,
    immediate: float | None,
    now: float | None,
    learned_by: int | None,
    route: int | None,
) -> str:
    """One of ``STATES``; ``immediate`` and ``now`` are exact matches, None if not measured."""
    if not applied:
        return "not yet"
    if superseded:
        return "superseded"
    if now == 1.0:
        return "learned"
    if immediate != 1.0:
        return "missed"
    return "rerouted" if route is not None and route != learned_by else "forgotten"
