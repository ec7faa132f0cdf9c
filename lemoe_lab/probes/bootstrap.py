"""How far an estimate may be off: percentile bootstrap intervals.

low, high = interval(np.mean, values)
low, high = interval(spearman, within, reliability)
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import scipy

NOWHERE = (float("nan"), float("nan"))


def interval(
    statistic: Callable[..., np.ndarray],
    *columns: np.ndarray,
    resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """Bounds that hold the middle ``level`` of the statistic over resampled rows.

    ``columns`` (n,) are resampled together, n rows with replacement; ``statistic`` maps arrays
    (..., n) to (...). Resamples without a value (NaN) are left out; two NaNs if none has one, or
    if there are fewer than two rows.
    """
    if len(columns[0]) < 2:
        return NOWHERE
    with warnings.catch_warnings():  # SciPy has no interval where one resample has no value
        warnings.simplefilter("ignore", scipy.stats.DegenerateDataWarning)
        drawn = scipy.stats.bootstrap(
            columns,
            lambda *resampled, axis: statistic(*resampled),
            n_resamples=resamples,
            paired=True,
            vectorized=True,
            method="percentile",
            rng=np.random.default_rng(seed),
        )
    estimates = drawn.bootstrap_distribution  # (resamples,)
    if np.isnan(estimates).all():
        return NOWHERE
    low, high = np.nanquantile(estimates, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def mean(values: np.ndarray) -> np.ndarray:
    """The mean over the last axis."""
    return values.mean(-1)


def spearman(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Spearman's rank correlation along the last axis; NaN where either side is constant.

    Values that differ by less than 1e-9 count as equal.
    """
    ranks = [
        scipy.stats.rankdata(np.round(values, 9), axis=-1) for values in (one, other)
    ]  # (..., n)
    one, other = (rank - rank.mean(-1, keepdims=True) for rank in ranks)
    spread = np.sqrt((one**2).sum(-1) * (other**2).sum(-1))
    covariance = (one * other).sum(-1)
    return np.where(spread > 0, covariance / np.where(spread > 0, spread, 1), np.nan)
