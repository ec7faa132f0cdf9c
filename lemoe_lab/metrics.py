"""What a score is worth: plain functions on answers, tokens, log-probabilities and tables.

    exact_match(host.generate(edit.prompt), edit.target)
    R = forgetting_matrix(session.forgetting_matrix(), scorer="generated")
    average_forgetting(R), backward_transfer(R)
    immediate_rows(table), final_rows(table, last)

A forgetting matrix R has one row for every step after which it was measured and one column for
every batch: R[t', t] is the reliability on batch t after step t' >= t, NaN if not measured.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from .answers import Expected

METRICS = ("reliability", "generality", "locality")


class Measurement(NamedTuple):
    """One question's score: a row of the metrics table.

    ``step`` batches were applied when the question of ``edit``, which is in ``batch`` (both from
    1; step 0 is the unedited host), was asked. ``metric`` is one of ``METRICS``, ``group`` the kind
    of rephrase or locality prompt ('' for the edit's own prompt), ``scorer`` ``teacher_forced`` or
    ``generated``, and ``value`` lies in [0, 1].
    """

    step: int
    batch: int
    edit: str
    metric: str
    group: str
    scorer: str
    value: float


COLUMNS = Measurement._fields


def exact_match(answer: str, target: str | Sequence[str]) -> float:
    """1.0 if ``answer`` says the ``target``, or one of several; otherwise 0.0.

    The rule is :class:`~lemoe_lab.answers.Expected`.
    """
    return float(bool(Expected(target).judge(answer)))


def token_accuracy(correct: Tensor | np.ndarray | Sequence[bool]) -> float:
    """The share of target tokens, ``correct`` (n,), that are the argmax when fed in.

    What the papers report for ZsRE and CounterFact (arXiv 2110.11309, 2405.14768, 2406.20030).
    """
    return _values(correct).mean().item()


def perplexity(log_probabilities: Tensor | np.ndarray | Sequence[float]) -> float:
    """exp of the mean negative log-probability of the tokens (n,), natural logarithm.

    What the papers report for hallucination data (arXiv 2211.11031, 2405.14768); lower is better.
    """
    return torch.exp(-_values(log_probabilities).mean()).item()


def perplexity_ratio(base: float, edited: float) -> float:
    """How well a text survived, in [0, 1]: base / edited perplexity, 1.0 if it did not grow.

    An edited model without a finite perplexity is worth 0.0.
    """
    if not (math.isfinite(base) and base > 0):
        raise ValueError(
            f"the perplexity of the unedited host must be positive and finite, not {base}; "
            "score the text without edits first"
        )
    if not math.isfinite(edited):
        return 0.0
    if edited <= 0:
        raise ValueError(f"a perplexity is positive, not {edited}; was a logarithm passed in?")
    return min(1.0, base / edited)


def table_of(rows: Iterable[Measurement]) -> pd.DataFrame:
    """Measurements as the metrics table, one row each, in the columns ``COLUMNS``."""
    return pd.DataFrame(list(rows), columns=COLUMNS)


def rows_of(table: pd.DataFrame) -> list[Measurement]:
    """The rows of a metrics table, which has the columns ``COLUMNS`` in their order."""
    return [Measurement(*row) for row in table.itertuples(index=False, name=None)]


def immediate_rows(table: pd.DataFrame) -> pd.DataFrame:
    """What was measured right after the batch it belongs to was learned."""
    return table[table["step"] == table["batch"]]


def final_rows(table: pd.DataFrame, last: int | pd.Series) -> pd.DataFrame:
    """What was measured of the applied batches after the ``last`` step.

    ``last`` is one step, or one for every row: see :func:`last_step`.
    """
    return table[(table["step"] == last) & (table["batch"] <= last)]


def last_step(table: pd.DataFrame, run: Sequence[str]) -> pd.Series:
    """For every row, the last step of its run; ``run`` names the columns that tell runs apart."""
    return table.groupby(list(run))["step"].transform("max")


def forgetting_matrix(
    metrics: pd.DataFrame,
    scorer: str | None = None,
    metric: str = "reliability",
    superseded: Mapping[str, int] | None = None,
) -> pd.DataFrame:
    """R[measured after step t', batch t] from a metrics frame; both are counted from 1.

    Parameters
    ----------
    metrics
        Rows of ``session.metrics`` or ``session.forgetting_matrix()``.
    scorer
        Which scores to use; may be left out if the frame has only one kind.
    superseded
        The step at which a later edit replaced an edit, by edit id; from that step on it does
        not count.
    """
    rows = metrics[(metrics["metric"] == metric) & (metrics["step"] >= metrics["batch"])]
    rows = rows[rows["batch"] >= 1]
    scorers = sorted(rows["scorer"].unique())
    if scorer is None and len(scorers) > 1:
        raise ValueError(f"the frame has the scorers {', '.join(scorers)}; pass scorer=")
    if scorer is not None:
        rows = rows[rows["scorer"] == scorer]
    if rows.empty:
        raise ValueError(
            f"no row for metric {metric!r} and scorer {scorer!r} at or after its own batch; "
            f"the frame has the metrics {sorted(metrics['metric'].unique())} "
            f"and the scorers {sorted(metrics['scorer'].unique())}"
        )
    if superseded:
        replaced = rows["edit"].map(superseded)
        rows = rows[~(rows["step"] >= replaced)]
    by_edit = rows.groupby(["step", "batch", "edit"])["value"].mean()
    matrix = by_edit.groupby(["step", "batch"]).mean().unstack("batch").sort_index()
    return matrix.sort_index(axis=1).rename_axis(index="measured_after", columns="batch")


def immediate(matrix: pd.DataFrame) -> pd.Series:
    """The diagonal of R: every batch measured right after it was learned."""
    values = [
        matrix.at[batch, batch] if batch in matrix.index else math.nan for batch in matrix.columns
    ]
    return pd.Series(values, index=matrix.columns, name="immediate", dtype=float)


def final(matrix: pd.DataFrame) -> pd.Series:
    """The last row of R: every batch measured after the last step."""
    return matrix.iloc[-1].rename("final")


def average_forgetting(matrix: pd.DataFrame) -> float:
    """Mean over t < T of ``max_{t' < T} R[t', t] - R[T, t]`` (Chaudhry et al. 2018, eq. 3).

    The maximum runs over the steps that were measured. NaN for a single batch.
    """
    last = matrix.index[-1]
    earlier = matrix.loc[matrix.index < last, matrix.columns < last]
    return float((earlier.max() - final(matrix)[earlier.columns]).mean())


def backward_transfer(matrix: pd.DataFrame) -> float:
    """Mean over t < T of ``R[T, t] - R[t, t]`` (Lopez-Paz and Ranzato 2017, eq. 3).

    Negative when later batches hurt earlier ones. NaN for a single batch.
    """
    earlier = matrix.columns < matrix.index[-1]
    return float((final(matrix) - immediate(matrix))[earlier].mean())


def _values(tokens: Tensor | np.ndarray | Sequence[float]) -> Tensor:
    values = torch.as_tensor(tokens, dtype=torch.float64)  # (n,)
    if values.numel() == 0:
        raise ValueError("no tokens to score; a target or text needs at least one")
    return values
