"""How the scores fall as edits pile up, and what they cost.

scores = scaling(session)                     # one row per measured number of edits
cost(session)                                 # seconds, memory and size per run
over_seeds(scores)                            # mean, lowest and highest seed
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pandas as pd

from .collect import RUN, Sessions, collect, run_key
from .forgetting import measurements, with_scorer

SCORES = ("reliability", "generality", "locality", "average")
COSTS = ("train_seconds", "evaluate_seconds", "peak_megabytes", "added_values", "changed_values")


def scaling(sessions: Sessions | pd.DataFrame, scorer: str = "generated") -> pd.DataFrame:
    """One row per run and step after which all batches so far were measured.

    Columns: editor, order, seed (and run, if a stored frame has it), step, edits, scorer,
    reliability, generality, locality, average. Generality is the mean of its groups, locality of
    its groups without ``text``, the average that of the three scores. Superseded edits do not
    count in reliability and generality. The unedited host (step 0) is left out.
    """
    frame = with_scorer(measurements(sessions), scorer)
    key = [*run_key(frame), "step"]
    frame = frame[(frame["group"] != "text") & (frame["step"] >= frame["batch"])]
    batches = frame.groupby(key)["batch"].transform("nunique")
    frame = frame[batches == frame["step"]]
    if frame.empty:
        raise ValueError("no step was measured as a whole; call session.evaluate() after some")
    edits = frame[frame["metric"] == "reliability"].groupby(key)["edit"].nunique()
    gone = (frame["superseded_at"] <= frame["step"]) & (frame["metric"] != "locality")
    by_group = frame[~gone].groupby([*key, "metric", "group"])["value"].mean()
    scores = by_group.groupby([*key, "metric"]).mean().unstack("metric")
    scores = scores.reindex(columns=list(SCORES[:-1]))
    scores["average"] = scores.mean(axis=1)
    table = scores.join(edits.rename("edits")).reset_index().assign(scorer=scorer)
    runs = frame[key[:-1]].drop_duplicates()
    return runs.merge(table, on=key[:-1])[[*key, "edits", "scorer", *SCORES]]


def cost(sessions: Sessions) -> pd.DataFrame:
    """One row per run: what an edit cost, and how large the result is.

    Columns: editor, order, seed, edits, ``train_seconds`` and ``evaluate_seconds`` (per edit; the
    immediate measurements only), ``peak_megabytes`` (the most that learning a batch took beyond
    what was held before), ``added_values`` (numbers that answer beside the host's weights) and
    ``changed_values`` (weights of the host that the editor overwrites).
    """
    return collect(sessions, _cost)


def _cost(session: Any) -> pd.DataFrame:
    reports = session.reports
    if not reports:
        raise ValueError("nothing was learned yet; apply a batch first, with session.step()")
    edits = sum(len(batch) for batch in session.stream.batches[: session.steps])
    weights = session.host.model.state_dict()
    row = {
        "edits": edits,
        "train_seconds": sum(report["train_seconds"] for report in reports) / edits,
        "evaluate_seconds": sum(report["evaluate_seconds"] for report in reports) / edits,
        "peak_megabytes": max(report["peak_bytes"] for report in reports) / 1e6,
        "added_values": session.editor.added_values,
        "changed_values": sum(weights[name].numel() for name in session.editor.changed_tensors()),
    }
    return pd.DataFrame([row])


def over_seeds(frame: pd.DataFrame, values: Iterable[str] = SCORES) -> pd.DataFrame:
    """Mean, lowest and highest of ``values`` over the seeds.

    One row per editor and whatever else tells rows apart (order, edits, scorer; as far as the
    frame has them) and value; columns: those, ``score`` (which value), ``seeds``, ``mean``,
    ``low``, ``high``.
    """
    key = [name for name in (*RUN[:2], "edits", "scorer") if name in frame]
    long = frame.melt([*key, "seed"], list(values), "score", "value")
    grouped = long.groupby([*key, "score"], sort=False)
    table = grouped["value"].agg(mean="mean", low="min", high="max")
    return table.assign(seeds=grouped["seed"].nunique()).reset_index()[
        [*key, "score", "seeds", "mean", "low", "high"]
    ]
