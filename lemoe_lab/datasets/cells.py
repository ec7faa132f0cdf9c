"""What a cell of a table says, as text: numbers and dates as they are written, gaps as None.

as_text(1963.0), as_text(pd.Timestamp("2024-05-01")), as_text(pd.NaT)  # "1963", "2024-05-01", None
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, datetime
from decimal import Decimal
from numbers import Integral, Real
from typing import Any

import numpy as np
import pandas as pd

EXACT = 2**53  # from here on floats no longer tell whole numbers apart


def is_absent(value: object) -> bool:
    """Whether a cell says nothing: None, NaN, NaT, pandas' NA, or no more than blanks."""
    if isinstance(value, str):
        return not value.strip()
    return value is None or (pd.api.types.is_scalar(value) and bool(pd.isna(value)))


def as_text(value: Any) -> Any:
    """A number, date or truth value as text; None if absent; anything else as it is.

    Whole numbers lose the ``.0`` that pandas gives a column with gaps, and days the ``00:00:00``.
    Lists are made text item by item.
    """
    if isinstance(value, np.ndarray | list | tuple):
        return [as_text(item) for item in value]
    if is_absent(value):
        return None
    if isinstance(value, np.datetime64):
        value = pd.Timestamp(value)
    if isinstance(value, datetime):
        midnight = value == value.replace(hour=0, minute=0, second=0, microsecond=0)
        return value.date().isoformat() if midnight else value.isoformat(sep=" ")
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, bool | np.bool_ | Integral | Decimal | pd.Period):
        return str(value)
    if isinstance(value, Real) and np.isfinite(value):
        whole = value == int(value) and abs(value) < EXACT
        return str(int(value)) if whole else str(value)
    return value


def flat(value: object) -> Iterator[object]:
    """The items of lists in lists, without absent ones; a value of its own is one item."""
    if isinstance(value, list | tuple | np.ndarray):
        for item in value:
            yield from flat(item)
    elif not is_absent(value):
        yield value
