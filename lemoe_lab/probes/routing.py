"""Where prompts go: the expert that learned an edit against the one that answers it later.

frame = routing(session)                      # inside the session's `with` block
routing_matrix(frame)                         # expert at training x expert at inference
routing_consistency(frame)                    # share still at home after every step
routing_summary(frame, group="strong")        # the same after the last step, with an interval
routing_entropy(frame)                        # how evenly the experts are used
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pandas as pd

from ..adaptor.routing import BYPASS
from ..metrics import last_step
from .bootstrap import interval, mean
from .collect import RUN, Sessions, live, walk_back


def routing(sessions: Sessions) -> pd.DataFrame:
    """The route of every edit's prompt and of its rephrases after every step since its batch.

    Columns: editor, order, seed, step, batch, edit, group ('' for the edit's own prompt, 'light',
    'strong'), prompt (its number within the edit, 0 for its own), expert (the first choice, from 0;
    -1: bypassed), gate, similarity, trained_expert (the expert that the edit had when its batch
    was learned), experts (how many there were at this step), frozen (whether experts keep their
    weights once they are trained), superseded (whether a later edit of the same fact has
    replaced the edit).

    Raises
    ------
    ValueError
        For a closed session, one that has learned nothing, or an editor that does not route.
    """
    return live(sessions, _routes)


def routing_matrix(frame: pd.DataFrame, group: str = "", step: int | None = None) -> pd.DataFrame:
    """Share of prompts that go to each expert (columns), by the expert that learned them (rows).

    Rows sum to 1, or are NaN for an expert that learned nothing; a last column ``bypass`` is there
    if any prompt took the plain FFN.

    Parameters
    ----------
    frame
        What ``routing`` returned for one editor in one order; seeds are pooled.
    group
        ``""`` for the edits' own prompts, ``"light"``, ``"strong"``.
    step
        When to look; None: after the last step of each run.
    """
    rows = at_step(prompts_of(frame, group), step)
    methods = rows[["editor", "order"]].drop_duplicates()
    if len(methods) != 1:
        raise ValueError(
            f"one matrix shows one editor in one order, the frame has "
            f"{', '.join(methods.agg(' / '.join, axis=1))}; filter it first"
        )
    experts = range(int(rows["experts"].max()))
    counts = pd.crosstab(rows["trained_expert"], rows["expert"])
    bypassed = BYPASS in counts.columns
    columns = [*experts, BYPASS] if bypassed else [*experts]
    counts = counts.reindex(index=experts, columns=columns, fill_value=0)
    shares = counts.div(counts.sum(axis=1), axis=0)  # 0 / 0 is NaN
    return shares.rename(columns={BYPASS: "bypass"})


def routing_consistency(frame: pd.DataFrame, group: str = "") -> pd.DataFrame:
    """Share of the edits learned so far that still go to the expert that learned them.

    Columns: editor, order, seed, step, edits, value. Several rephrases of one edit are averaged.
    """
    at_home = _at_home(prompts_of(frame, group), [*RUN, "step"])
    by_step = at_home.groupby([*RUN, "step"], sort=False)["value"]
    return by_step.agg(edits="size", value="mean").reset_index()


def routing_summary(
    frame: pd.DataFrame,
    group: str = "",
    over: Literal["edits", "seeds"] = "edits",
    resamples: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """Consistency after the last step, with a 95% bootstrap interval; one row per editor and order.

    Columns: editor, order, group, edits (all seeds together), seeds, consistency, low, high,
    bypassed (share of prompts that take the plain FFN).

    Parameters
    ----------
    over
        What is drawn again. ``"edits"``: how exact the share is for these runs; the edits of one
        run share its router. ``"seeds"``: how another run may turn out, NaN for a single seed.
    """
    if over not in ("edits", "seeds"):
        raise ValueError(f'over must be "edits" or "seeds", not {over!r}')
    rows = at_step(prompts_of(frame, group))
    summaries = []
    for (editor, order), of_method in rows.groupby(["editor", "order"], sort=False):
        at_home = _at_home(of_method, RUN)
        units = at_home["value"] if over == "edits" else at_home.groupby("seed")["value"].mean()
        low, high = interval(mean, units.to_numpy(), resamples=resamples, seed=seed)
        summaries.append(
            {
                "editor": editor,
                "order": order,
                "group": group,
                "edits": len(at_home),
                "seeds": at_home["seed"].nunique(),
                "consistency": units.mean(),
                "low": low,
                "high": high,
                "bypassed": (of_method["expert"] == BYPASS).mean(),
            }
        )
    return pd.DataFrame(summaries)


def routing_entropy(frame: pd.DataFrame, group: str = "") -> pd.DataFrame:
    """How evenly the experts are used after every step.

        entropy = -sum_i p_i log p_i / log n

    p_i is the share of expert i among the prompts that any expert answers, n the number of experts:
    1 if all are used alike, 0 if one does everything, NaN if there is only one. Columns: editor,
    order, seed, step, experts, entropy, bypassed.
    """
    rows = prompts_of(frame, group)
    table = []
    for key, of_step in rows.groupby([*RUN, "step"], sort=False):
        count = int(of_step["experts"].max())
        used = of_step.loc[of_step["expert"] != BYPASS, "expert"]
        table.append(
            {
                **dict(zip([*RUN, "step"], key, strict=True)),
                "experts": count,
                "entropy": _normalised_entropy(used.value_counts().to_numpy(), count),
                "bypassed": 1 - len(used) / len(of_step),
            }
        )
    return pd.DataFrame(table)


def prompts_of(frame: pd.DataFrame, group: str) -> pd.DataFrame:
    """The rows of one group of prompts, without edits that were superseded by then."""
    rows = frame[(frame["group"] == group) & ~frame["superseded"]]
    if rows.empty:
        held = ", ".join(repr(name) for name in frame["group"].unique()) or "none"
        raise ValueError(f"no prompts of group {group!r} in the frame; it has {held}")
    return rows


def at_step(rows: pd.DataFrame, step: int | None = None) -> pd.DataFrame:
    """The rows after one step; None: after the last one of each run."""
    if step is None:
        return rows[rows["step"] == last_step(rows, RUN)]
    chosen = rows[rows["step"] == step]
    if chosen.empty:
        raise ValueError(f"step {step} is not in the frame; it has 1 to {rows['step'].max()}")
    return chosen


# Asking the sessions


def _routes(session: Any) -> pd.DataFrame:
    questions, prompts = _questions(session)
    editor = session.editor
    features = editor.prompt_features(prompts)  # (N, d)
    tables = []
    for step in walk_back(session):
        asked = questions[questions["batch"] <= step]  # the first ones: batches are in order
        routes = editor.routes(features[: len(asked)])
        experts = _experts_at(session)
        table = asked.drop(columns="superseded_at").assign(
            step=step,
            # Batches that share one expert have several addresses for it.
            expert=routes.expert[:, 0].clamp(max=experts - 1).cpu().numpy(),
            gate=routes.gate[:, 0].cpu().numpy(),
            similarity=routes.similarity.cpu().numpy(),
            trained_expert=asked["trained_expert"].clip(upper=experts - 1),
            experts=experts,
            frozen=editor.experts_frozen,
            superseded=asked["superseded_at"] <= step,
        )
        tables.append(table)
    frame = pd.concat(reversed(tables), ignore_index=True)
    first = ["step", "batch", "edit", "group", "prompt", "expert", "gate", "similarity"]
    return frame[[*first, "trained_expert", "experts", "frozen", "superseded"]]


def _questions(session: Any) -> tuple[pd.DataFrame, list[str]]:
    """One row for every prompt of the learned edits, and the prompts (N)."""
    superseded = session.stream.superseded
    rows, prompts = [], []
    learned = session.stream.batches[: session.steps]
    for batch, report in zip(learned, session.reports, strict=True):
        if not report["experts"]:
            raise ValueError(
                f"{session.editor.name} does not route: it has no experts to choose from; "
                "probe sessions of LEMoE or of the MoE adaptor"
            )
        for edit, expert in zip(batch, report["experts"], strict=True):
            asked = [("", edit.prompt), *((r.group, r.prompt) for r in edit.rephrases)]
            for number, (group, prompt) in enumerate(asked):
                replaced = superseded.get(edit.id, np.inf)
                rows.append(
                    {
                        "batch": batch.step,
                        "edit": edit.id,
                        "group": group,
                        "prompt": number,
                        "trained_expert": expert,
                        "superseded_at": replaced,
                    }
                )
                prompts.append(prompt)
    return pd.DataFrame(rows), prompts


def _experts_at(session: Any) -> int:
    adaptor = getattr(session.editor, "adaptor", None)
    return session.steps if adaptor is None else len(adaptor.experts)


# Computing


def _at_home(rows: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """One row per edit: the share of its prompts that go to the expert that learned it."""
    same = (rows["expert"] == rows["trained_expert"]).astype(float)
    return rows.assign(value=same).groupby([*by, "edit"], sort=False)["value"].mean().reset_index()


def _normalised_entropy(counts: np.ndarray, experts: int) -> float:
    if experts < 2 or not len(counts):
        return float("nan")
    shares = counts / counts.sum()
    return float(-(shares * np.log(shares)).sum() / np.log(experts)) + 0.0
