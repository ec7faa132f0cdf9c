"""What feeding the target in flatters: teacher-forced beside generated scores.

frame = both_scorers(sessions)                # one row per run and score
ranking(frame, ["teacher_forced", "generated"])
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from ..metrics import final_rows, last_step
from .collect import Sessions, run_key
from .forgetting import measurements
from .scaling import SCORES, scaling

SCORERS = ("teacher_forced", "generated")


def both_scorers(sessions: Sessions | pd.DataFrame) -> pd.DataFrame:
    """The scores after the last step of every run, by both scorers side by side.

    One row per run and score; columns: editor, order, seed (and run, if a stored frame has it),
    edits, score (reliability, generality, locality, average), teacher_forced, generated. Scores
    are those of :func:`scaling`. How far the two lie apart is what arXiv 2502.11177 is about.

    Raises
    ------
    ValueError
        If a run was not measured by both scorers after its last step.
    """
    frame = measurements(sessions)
    key = run_key(frame)
    final = final_rows(frame, last_step(frame, key))
    tables = [scaling(final, scorer) for scorer in SCORERS]
    long = pd.concat(tables).melt([*key, "edits", "scorer"], list(SCORES), "score", "value")
    table = long.pivot(index=[*key, "edits", "score"], columns="scorer", values="value")
    runs = frame[key].drop_duplicates().merge(pd.DataFrame({"score": SCORES}), how="cross")
    columns = [*key, "edits", "score", *SCORERS]
    return runs.merge(table.reset_index(), on=[*key, "score"])[columns]


def ranking(frame: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """Every editor's mean over runs and its place by it, 1 the best; equal means share a place.

    One row per editor, with each of ``columns`` and ``<column>_rank``.
    """
    columns = list(columns)
    means = frame.groupby("editor", sort=False)[columns].mean()
    places = means.round(6).rank(ascending=False, method="min").astype(int)
    return means.join(places.add_suffix("_rank")).reset_index()
