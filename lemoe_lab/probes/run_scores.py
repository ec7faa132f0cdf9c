"""How every run ended, in one row; what the order of the edits had to do with it.

frame = order(sessions)                       # the scores of every run, whatever its order
order_summary(frame)                          # how far the orders lie apart, per editor
similarity_correlation(frame)                 # Spearman's rho, with an interval
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import pandas as pd

from .. import planning
from .bootstrap import interval, spearman
from .collect import RUN, Sessions, labelled, run_of
from .forgetting import forgetting, measurements

ORDER = [*RUN, "run"]
SIMILARITIES = ("within", "between")
TOO_FEW = 3  # orders with a correlation of 1 or -1 whatever they are


def order(
    sessions: Sessions | pd.DataFrame,
    similarities: pd.DataFrame | None = None,
    scorer: str = "generated",
) -> pd.DataFrame:
    """The scores of every run, in one row, and how alike the edits of its batches are.

    Columns: editor, order, seed, run (tells runs apart that share the first three, from 0), scorer,
    edits, batches, immediate, reliability, generality_light, generality_strong,
    locality_same_subject, locality_near, locality_far, locality_text (those that were measured;
    all but immediate at the end of the run), within, between (mean cosine similarity of two edits
    in one batch and in different ones).

    Parameters
    ----------
    sessions
        Finished sessions, open or closed, or a stored frame: what ``measurements`` returned, with
        a column ``run`` if several runs have the same editor, order and seed.
    similarities
        Rows of ``planning.similarity``. Sessions bring their own. A frame has no similarity
        without them; they are matched by order, seed and run, as far as the table has these.

    Raises
    ------
    ValueError
        If a run was not measured after its last step, if a frame mixes runs under one name, or if
        ``similarities`` has no row, or several, for a run.
    """
    stored = isinstance(sessions, pd.DataFrame)
    runs = _stored_runs(sessions) if stored else _session_runs(sessions)
    table = pd.DataFrame([_row(run, scorer) for run in runs])
    if table.empty:
        raise ValueError("no run to probe; pass at least one finished session")
    if similarities is not None:
        table = _with_similarities(table, similarities)
    measured = [name for name in SIMILARITIES if name in table]
    return table[[*(name for name in table if name not in measured), *measured]]


def order_summary(frame: pd.DataFrame, value: str = "reliability") -> pd.DataFrame:
    """Mean, lowest and highest value over the orders, and their spread, highest minus lowest.

    One row per editor; columns: editor, orders, mean, min, max, spread. ``frame`` comes from
    ``order``; ``value`` is one of its columns.
    """
    values = frame.groupby("editor", sort=False)[value]
    table = values.agg(orders="count", mean="mean", min="min", max="max").reset_index()
    return table.assign(spread=table["max"] - table["min"])


def similarity_correlation(
    frame: pd.DataFrame, value: str = "reliability", resamples: int = 2000, seed: int = 0
) -> pd.DataFrame:
    """Spearman's rho between the similarity of an order and what the edits end with.

    One row per editor and similarity; columns: editor, similarity (``within``, ``between``),
    orders, rho, low, high (95% percentile bootstrap over orders, decided by ``seed``). All are NaN
    where every order ends alike: then there is nothing to correlate. For the same edits in
    batches of the same sizes the two similarities add up to a constant, so their rhos differ in
    sign only.
    """
    rows = []
    for editor, runs in frame.groupby("editor", sort=False):
        for name in SIMILARITIES:
            known = runs[[name, value]].dropna()
            x, y = known[name].to_numpy(float), known[value].to_numpy(float)
            rho, low, high = float("nan"), float("nan"), float("nan")
            if len(known) >= TOO_FEW:
                rho = float(spearman(x, y))
                low, high = interval(spearman, x, y, resamples=resamples, seed=seed)
            row = {"editor": editor, "similarity": name, "orders": len(known)}
            rows.append(row | {"rho": rho, "low": low, "high": high})
    return pd.DataFrame(rows)


# Runs one by one


class Run(NamedTuple):
    """What a run is called (``ORDER``), what was measured, and how alike its edits are."""

    name: dict[str, object]
    measurements: pd.DataFrame
    similarities: dict[str, float]


def _session_runs(sessions: Sessions) -> Iterator[Run]:
    seen: dict[tuple, int] = {}
    for label, session in labelled(sessions):
        key = run_of(label, session)
        run = seen.get(tuple(key.values()), 0)
        seen[tuple(key.values())] = run + 1
        alike = planning.similarity(session.stream, session.host)
        frame = measurements({label: session})
        yield Run(key | {"run": run}, frame, {name: alike[name] for name in SIMILARITIES})


def _stored_runs(frame: pd.DataFrame) -> Iterator[Run]:
    frame = measurements(frame).assign(run=frame.get("run", 0))
    for key, rows in frame.groupby(ORDER, sort=False):
        yield Run(dict(zip(ORDER, key, strict=True)), rows, {})


def _row(run: Run, scorer: str) -> dict:
    key, frame = run.name, run.measurements
    measured = frame[frame["metric"] == "reliability"]
    twice = measured[measured.duplicated(["step", "edit", "scorer"])]
    for edit in twice["edit"]:
        raise ValueError(
            f"edit {edit!r} was measured twice at one step of editor {key['editor']!r}, order "
            f"{key['order']!r}, seed {key['seed']}: several runs under one name; add a column "
            "`run` that tells them apart"
        )
    table = forgetting(frame.drop(columns="run", errors="ignore"), scorer)
    own = table[table["metric"] == "reliability"]
    others = table[table["metric"] != "reliability"]
    names = others["metric"] + "_" + others["group"]
    return {
        **key,
        "scorer": scorer,
        "edits": own["edit"].nunique(),
        "batches": own["batch"].nunique(),
        "immediate": own["immediate"].mean(),
        "reliability": own["final"].mean(),
        **others["final"].groupby(names, sort=False).mean(),
        **run.similarities,
    }


def _with_similarities(table: pd.DataFrame, similarities: pd.DataFrame) -> pd.DataFrame:
    key = [name for name in ("order", "seed", "run") if name in similarities]
    missing = [name for name in ("order", *SIMILARITIES) if name not in similarities]
    if missing:
        raise ValueError(
            f"similarities lacks the columns {', '.join(missing)}; pass "
            "pd.DataFrame([planning.similarity(stream, host) for stream in streams])"
        )
    similarities = similarities.drop_duplicates([*key, *SIMILARITIES])
    for name in similarities.loc[similarities.duplicated(key), key].itertuples(index=False):
        raise ValueError(
            f"similarities has several rows for {name._asdict()}; give each order a seed or a "
            "run of its own, there and in the measurements"
        )
    table = table.drop(columns=list(SIMILARITIES), errors="ignore")
    table = table.merge(similarities[[*key, *SIMILARITIES]], on=key, how="left", indicator="found")
    for _, row in table[table["found"] == "left_only"].iterrows():
        raise ValueError(f"similarities has no row for {row[key].to_dict()}")
    return table.drop(columns="found")
