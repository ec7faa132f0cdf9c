"""What was learned and what is left of it.

frame = forgetting(sessions)                  # one row per edit, metric and group
matrix = forgetting_matrix(session)           # reliability of batch t after every step t'
forgetting_summary(frame)                     # one row per editor and order
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pandas as pd

from .. import metrics
from .collect import Sessions, collect, run_key

ITEM = ["batch", "edit", "metric", "group", "scorer"]
NEVER = float("nan")


def measurements(sessions: Sessions | pd.DataFrame) -> pd.DataFrame:
    """All metrics of ``sessions`` in one frame that can be stored and probed later.

    The columns of ``session.metrics`` behind editor, order, seed, and ``superseded_at``: the step
    at which a later edit of the same fact replaced the edit, NaN if none did.
    """
    return _measured(sessions, lambda session: session.metrics)


def forgetting(sessions: Sessions | pd.DataFrame, scorer: str = "generated") -> pd.DataFrame:
    """Immediate and final value of every edit, for every metric and group.

    Several rephrases or locality prompts of one group are averaged. An edit that was superseded
    keeps its immediate values, but has no final reliability or generality (NaN).
    """
    frame = with_scorer(measurements(sessions), scorer)
    run = run_key(frame)
    last = metrics.last_step(frame, run)
    key = [*run, *ITEM]
    immediate = metrics.immediate_rows(frame).groupby(key)["value"].mean()
    final = metrics.final_rows(frame, last).groupby(key)["value"].mean()
    superseded = (frame["superseded_at"] <= last).groupby([frame[name] for name in key]).any()
    table = pd.concat({"immediate": immediate, "final": final}, axis=1)
    table = table.join(superseded.rename("superseded")).reset_index().sort_values(ITEM)
    if table.empty:
        raise ValueError("no batch was measured after it was learned; call session.step() first")
    gone = table["superseded"] & (table["metric"] != "locality")
    table["final"] = table["final"].mask(gone)
    _check_final(table)
    runs = frame[run].drop_duplicates()
    return runs.merge(table, on=run)[[*run, *ITEM, "immediate", "final", "superseded"]]


def forgetting_matrix(sessions: Sessions | pd.DataFrame, scorer: str = "generated") -> pd.DataFrame:
    """Reliability of every batch after every step that was measured, as tidy rows.

    Columns: editor, order, seed (and run, if the frame has it), measured_after, batch, scorer,
    edits (how many were counted), value. From a session the whole matrix is measured; from a
    frame it is what the frame holds.
    """
    frame = with_scorer(_measured(sessions, lambda session: session.forgetting_matrix()), scorer)
    frame = frame[frame["metric"] == "reliability"]
    tables = []
    key = run_key(frame)
    for run, rows in frame.groupby(key, sort=False):
        replaced = rows.dropna(subset="superseded_at").set_index("edit")["superseded_at"].to_dict()
        matrix = metrics.forgetting_matrix(rows, scorer=scorer, superseded=replaced)
        edits = rows.groupby("batch")["edit"].nunique()
        table = matrix.stack().rename("value").dropna().reset_index()
        table = table.assign(scorer=scorer, edits=table["batch"].map(edits))
        tables.append(table.assign(**dict(zip(key, run, strict=True))))
    columns = [*key, "measured_after", "batch", "scorer", "edits", "value"]
    return pd.concat(tables, ignore_index=True)[columns]


def forgetting_summary(
    frame: pd.DataFrame, matrix: pd.DataFrame | None = None, by: Iterable[str] = ("editor", "order")
) -> pd.DataFrame:
    """One row per editor and order: reliability, forgetting and transfer, means over seeds.

    ``edits`` and ``superseded`` count the edits of one run, ``seeds`` the seeds. Superseded edits
    count in the immediate reliability only: being replaced is not being forgotten.
    Average forgetting needs the best value each batch ever had before the last step. With
    ``matrix``, the rows of ``forgetting_matrix``, that is known; without it the best known value
    is the immediate one, which makes average forgetting a lower bound.
    """
    by = list(by)
    rows = frame[frame["metric"] == "reliability"]
    if rows.empty:
        raise ValueError("the frame has no reliability rows; pass what probes.forgetting returns")
    summaries = []
    for name, runs in rows.groupby(by, sort=False):
        per_seed = []
        one_run = [
            column for column in ("seed", "run") if column in (runs if matrix is None else matrix)
        ]
        for which, run in runs.groupby(one_run):
            chosen = dict(zip(by, name, strict=True)) | dict(zip(one_run, which, strict=True))
            table = _matrix_of(run) if matrix is None else _pivot(_where(matrix, chosen))
            per_seed.append(
                {
                    "immediate": run["immediate"].mean(),
                    "final": run["final"].mean(),
                    "average_forgetting": metrics.average_forgetting(table),
                    "backward_transfer": metrics.backward_transfer(table),
                    "edits": run["edit"].nunique(),
                    "superseded": int(run["superseded"].sum()),
                }
            )
        summary = dict(zip(by, name, strict=True)) | pd.DataFrame(per_seed).mean().to_dict()
        summary["edits"] = round(summary["edits"])
        summaries.append(summary | {"seeds": runs["seed"].nunique()})
    return pd.DataFrame(summaries)


def with_scorer(frame: pd.DataFrame, scorer: str) -> pd.DataFrame:
    """The rows of one scorer; neutral text, a perplexity ratio, belongs to every scorer."""
    chosen = frame["scorer"] == scorer
    if not chosen.any():
        found = ", ".join(sorted(frame["scorer"].unique())) or "none"
        raise ValueError(f"no scores of scorer {scorer!r}; measured were: {found}")
    text = frame["group"] == "text"
    if not (chosen & text).any():
        chosen = chosen | text
    return frame[chosen]


def _measured(
    sessions: Sessions | pd.DataFrame, measure: Callable[[Any], pd.DataFrame]
) -> pd.DataFrame:
    """A table with the columns of ``metrics`` for every session, or the stored frame itself."""
    if isinstance(sessions, pd.DataFrame):
        return _completed(sessions)

    def with_superseded(session: Any) -> pd.DataFrame:
        table = measure(session)
        replaced = table["edit"].map(session.stream.superseded).astype(float)
        return table.assign(superseded_at=replaced)

    return _completed(collect(sessions, with_superseded))


def _completed(frame: pd.DataFrame) -> pd.DataFrame:
    missing = [name for name in metrics.COLUMNS if name not in frame]
    if missing:
        raise ValueError(
            f"the frame lacks the columns {', '.join(missing)}; pass a session, its metrics, "
            "or what probes.measurements returned"
        )
    if frame.empty:
        raise ValueError("nothing was measured yet; apply a batch first, with session.step()")
    defaults = {"editor": "editor", "order": "given", "seed": 0, "superseded_at": NEVER}
    added = {name: value for name, value in defaults.items() if name not in frame}
    frame = frame.assign(**added)
    return frame[[*run_key(frame), *metrics.COLUMNS, "superseded_at"]]


def _check_final(table: pd.DataFrame) -> None:
    counted = table[~table["superseded"]]
    measured = counted.groupby([*run_key(table), "batch"])["final"].count()
    for editor, order, seed, *_, batch in measured.index[measured == 0]:
        raise ValueError(
            f"{editor} (order {order}, seed {seed}): batch {batch} was not measured after the "
            "last step; call session.evaluate() first"
        )


def _matrix_of(run: pd.DataFrame) -> pd.DataFrame:
    kept = run[~run["superseded"]]
    last = run["batch"].max()
    learned = kept.assign(measured_after=kept["batch"], value=kept["immediate"])
    left = kept.assign(measured_after=last, value=kept["final"])
    return _pivot(pd.concat([learned[learned["batch"] < last], left]))


def _pivot(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.pivot_table(index="measured_after", columns="batch", values="value")


def _where(frame: pd.DataFrame, chosen: dict[str, Any]) -> pd.DataFrame:
    rows = frame
    for name, value in chosen.items():
        rows = rows[rows[name] == value]
    if rows.empty:
        raise ValueError(f"the matrix has no rows for {chosen}; measure it for the same sessions")
    return rows
