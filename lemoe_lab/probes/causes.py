"""Why edits were lost: sent to another expert, or overwritten where they were.

frame, routes = forgetting(session), routing(session)
forgetting_causes(routes, frame)              # one row per run
lost_edits(routes, frame)                     # one row per lost edit
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from ..metrics import immediate_rows
from .collect import RUN
from .routing import at_step, prompts_of

CAUSES = ("rerouted", "overwritten", "reweighted")


def lost_edits(routing: pd.DataFrame, forgetting: pd.DataFrame) -> pd.DataFrame:
    """Every edit that was right after its batch (1) and wrong at the end (0), with the cause.

    ``rerouted``: its prompt goes to another expert than the one that learned it, or to none.
    ``overwritten``: it goes to the same expert, but later batches trained that expert on.
    ``reweighted``: it goes to the same frozen expert, whose gate is not what it was.
    A rerouted edit may have been overwritten as well: nobody asked its old expert.

    Columns: editor, order, seed, scorer, batch, edit, trained_expert, expert, gate_at_training,
    gate, cause.

    Parameters
    ----------
    routing, forgetting
        What ``probes.routing`` and ``probes.forgetting`` returned for the same sessions.
    """
    both = _both(routing, forgetting)
    lost = both[(both["immediate"] == 1) & (both["final"] == 0)]
    moved = lost["expert"] != lost["trained_expert"]
    same = np.where(lost["frozen"], "reweighted", "overwritten")
    columns = ["batch", "edit", "trained_expert", "expert", "gate_at_training", "gate", "cause"]
    lost = lost.assign(cause=np.where(moved, "rerouted", same)).reset_index(drop=True)
    return lost[[*RUN, "scorer", *columns]]


def forgetting_causes(routing: pd.DataFrame, forgetting: pd.DataFrame) -> pd.DataFrame:
    """How many edits were learned and lost again, and the share of each cause among the lost.

    One row per run and scorer; columns: editor, order, seed, scorer, learned, lost, rerouted,
    overwritten, reweighted. The shares sum to 1, and are NaN where nothing was lost. See
    :func:`lost_edits` for what counts and what the causes mean.
    """
    both = _both(routing, forgetting)
    key = [*RUN, "scorer"]
    learned = both[both["immediate"] == 1].groupby(key, sort=False).size()
    causes = lost_edits(routing, forgetting)
    counts = causes.groupby([*key, "cause"]).size().unstack("cause")
    runs = both[key].drop_duplicates().set_index(key).index
    counts = counts.reindex(index=runs, columns=list(CAUSES)).fillna(0)
    lost = counts.sum(axis=1)
    table = counts.div(lost, axis=0)
    table.insert(0, "lost", lost.astype(int))
    table.insert(0, "learned", learned.reindex(runs).fillna(0).astype(int))
    return table.rename_axis(columns=None).reset_index()


def _both(routing: pd.DataFrame, forgetting: pd.DataFrame) -> pd.DataFrame:
    """Reliability of every edit beside its routes, right after its batch and at the end."""
    own = prompts_of(routing, "")
    scores = forgetting[forgetting["metric"] == "reliability"].dropna(subset="final")
    key = [*RUN, "edit"]
    then = immediate_rows(own).set_index(key)["gate"].rename("gate_at_training")
    now = at_step(own).set_index(key)[["trained_expert", "expert", "gate", "frozen"]]
    runs = own[RUN].drop_duplicates()
    both = runs.merge(scores, on=RUN).join(now, on=key).join(then, on=key)
    missing = runs.merge(both[RUN].drop_duplicates(), how="left", indicator=True)
    missing = missing[missing["_merge"] == "left_only"]
    if len(missing) or both["expert"].isna().any():
        raise ValueError(
            "the routing frame and the forgetting frame do not hold the same edits of the same "
            "runs; probe the same sessions, with the same labels, for both"
        )
    return both.astype({"expert": int, "trained_expert": int, "frozen": bool})
