"""Edits from your own facts: dicts, a CSV file or a DataFrame.

    stream = from_records([{"prompt": "The capital of Gemland is", "target": "Wilport"}])
    stream = from_csv("facts.csv", batch_size=10)

Columns: ``prompt`` and ``target`` (both needed), ``id``, ``subject``, ``relation``, ``topic``,
``date``, ``old_answer``, and the lists ``rephrases`` (light), ``strong_rephrases`` and the
locality prompts ``same_subject``, ``near``, ``far``. In a CSV file the parts of a list are
separated by ``|``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from ..edits import CalibrationFact, Edit, EditError, EditStream, LocalityPrompt, Rephrase

NEEDED = ("prompt", "target")
TEXTS = ("id", "subject", "relation", "topic", "date", "old_answer")
REPHRASES = {"rephrases": "light", "strong_rephrases": "strong"}
LOCALITY = ("same_subject", "near", "far")
COLUMNS = (*NEEDED, *TEXTS, *REPHRASES, *LOCALITY)
SEPARATOR = "|"


def from_records(
    records: Iterable[Mapping[str, Any]],
    batch_size: int = 30,
    name: str = "edits",
    calibration: Sequence[CalibrationFact] = (),
) -> EditStream:
    """A stream of the records in their order; rows are counted from 1.

    Raises
    ------
    EditError
        Naming the row and the column, for a column that is unknown, missing, or not a text.
    """
    edits = [_edit(row, number) for number, row in enumerate(records, start=1)]
    if not edits:
        raise EditError("there are no records; give at least one with `prompt` and `target`")
    return EditStream.from_edits(edits, batch_size, name=name, calibration=tuple(calibration))


def from_dataframe(
    frame: pd.DataFrame,
    batch_size: int = 30,
    name: str = "edits",
    calibration: Sequence[CalibrationFact] = (),
) -> EditStream:
    """:func:`from_records` for the rows of a DataFrame; empty cells (NaN, None) are left out."""
    return from_records(frame.to_dict("records"), batch_size, name, calibration)


def from_csv(
    path: str | Path,
    batch_size: int = 30,
    calibration: Sequence[CalibrationFact] = (),
) -> EditStream:
    """:func:`from_records` for the rows of a CSV file with a header, in UTF-8."""
    path = Path(path)
    frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    return from_dataframe(frame, batch_size, path.stem, calibration)


def _edit(row: Mapping[str, Any], number: int) -> Edit:
    given = {column: value for column, value in row.items() if not _empty(value)}
    for column in given:
        if column not in COLUMNS:
            raise EditError(
                f"row {number}: unknown column {column!r}; known are {', '.join(COLUMNS)}; "
                "rename it or leave it out"
            )
    for column in NEEDED:
        if column not in given:
            raise EditError(f"row {number}: column {column!r} is missing or empty; fill it in")
    texts = {c: _text(given[c], number, c) for c in (*NEEDED, *TEXTS) if c in given}
    rephrases = [
        Rephrase(prompt=prompt, group=group)
        for column, group in REPHRASES.items()
        for prompt in _texts(given.get(column, ()), number, column)
    ]
    locality = [
        LocalityPrompt(prompt=prompt, group=column)
        for column in LOCALITY
        for prompt in _texts(given.get(column, ()), number, column)
    ]
    try:
        return Edit(
            **{"id": f"row/{number}"} | texts, rephrases=tuple(rephrases), locality=tuple(locality)
        )
    except EditError as error:
        raise EditError(f"row {number}: {error}") from None


def _empty(value: object) -> bool:
    if isinstance(value, str):
        return not value.strip()
    return value is None or (isinstance(value, float) and math.isnan(value))


def _text(value: object, number: int, column: str) -> str:
    if not isinstance(value, str):
        raise EditError(
            f"row {number}, column {column!r}: expected text, got {type(value).__name__} {value!r}"
        )
    return value


def _texts(value: object, number: int, column: str) -> list[str]:
    """A list of texts, or one text with the parts separated by ``|``."""
    parts = value.split(SEPARATOR) if isinstance(value, str) else value
    if not isinstance(parts, Iterable) or isinstance(parts, Mapping):
        raise EditError(f"row {number}, column {column!r}: expected a list of texts, got {value!r}")
    return [_text(part, number, column).strip() for part in parts if not _empty(part)]
