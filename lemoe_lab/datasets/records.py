"""Edits from your own facts: dicts, a CSV or JSON file, or a DataFrame.

    stream = from_records([{"prompt": "The capital of Gemland is", "target": "Wilport"}])
    stream = from_csv("facts.csv", batch_size=10)
    stream = from_json("facts.jsonl", batch_size=10)

Columns: ``prompt`` and ``target`` (both needed), ``id``, ``subject``, ``relation``, ``topic``,
``date``, ``old_answer``, and the lists ``aliases`` (other right answers), ``rephrases`` (light),
``strong_rephrases`` and the locality prompts ``same_subject``, ``near``, ``far``. In a CSV file the
parts of a list are separated by ``|``. A ``target`` may be a list as well: the first is trained on,
the others are aliases. An old answer that is one of the aliases is left out.

Case and blanks of a column's name do not matter. A column of another name is refused once a cell of
it says something; so is a column without a name, unless it holds the row numbers that pandas
writes. A row's texts are kept as they are written; an empty cell is left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import pandas as pd

from ..edits import (
    CalibrationFact,
    Edit,
    EditError,
    EditStream,
    LocalityPrompt,
    Rephrase,
    normalise,
)
from .cells import as_text, flat, is_absent
from .files import UNNAMED, Row, column_names, csv_rows, json_records

NEEDED = ("prompt", "target")
TEXTS = ("id", "subject", "relation", "topic", "date", "old_answer")
REPHRASES = {"rephrases": "light", "strong_rephrases": "strong"}
LOCALITY = ("same_subject", "near", "far")
COLUMNS = (*NEEDED, "aliases", *TEXTS, *REPHRASES, *LOCALITY)
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
    rows = []
    for number, record in enumerate(records, start=1):
        if not isinstance(record, Mapping):
            raise EditError(
                f"row {number}: expected a dict with `prompt` and `target`, got "
                f"{type(record).__name__} {record!r}"
            )
        rows.append(Row(number, None, record))
    return _stream(rows, batch_size, name, calibration)


def from_dataframe(
    frame: pd.DataFrame,
    batch_size: int = 30,
    name: str = "edits",
    calibration: Sequence[CalibrationFact] = (),
) -> EditStream:
    """:func:`from_records` for the rows of a DataFrame.

    Empty cells (NaN, None, NaT, NA) are left out; numbers, dates and truth values become text:
    ``1963``, ``2024-05-01``, ``True``.
    """
    names = column_names(frame.columns, "the DataFrame")
    columns = [[as_text(cell) for cell in frame.iloc[:, at].array] for at in range(len(names))]
    rows = [
        Row(number, None, dict(zip(names, cells, strict=True)))
        for number, cells in enumerate(zip(*columns, strict=True), start=1)
    ]
    return _stream(rows, batch_size, name, calibration)


def from_csv(
    path: str | Path,
    batch_size: int = 30,
    calibration: Sequence[CalibrationFact] = (),
    *,
    encoding: str | None = None,
) -> EditStream:
    """:func:`from_records` for the rows of a CSV file with a header.

    Fields are separated by ``,``, ``;`` or tab, as the header shows, and quoted with ``"``.

    Parameters
    ----------
    encoding
        What the file is written in, such as ``cp1252``; None: UTF-8, or UTF-16 with its mark.

    Raises
    ------
    EditError
        Naming the file, the row and its line, for a row with more or fewer fields than the header
        and whatever else cannot be read rightly, with what to do about it.
    """
    path = Path(path)
    rows = csv_rows(path, COLUMNS, encoding)
    return _stream(rows, batch_size, path.stem, calibration, f"{path}, ")


def from_json(
    path: str | Path,
    batch_size: int = 30,
    calibration: Sequence[CalibrationFact] = (),
    *,
    encoding: str | None = None,
) -> EditStream:
    """:func:`from_records` for a JSON list of objects, or JSON Lines with one object a line.

    Numbers are taken as they are written; null, NaN and empty texts are left out.

    Raises
    ------
    EditError
        Naming the file and the line or record, with what to do about it.
    """
    path = Path(path)
    rows = json_records(path, encoding)
    return _stream(rows, batch_size, path.stem, calibration, f"{path}, ")


def _stream(
    rows: Sequence[Row],
    batch_size: int,
    name: str,
    calibration: Sequence[CalibrationFact],
    source: str = "",
) -> EditStream:
    """The rows as a stream; ``source`` begins the name of each place in errors."""
    if not rows:
        raise EditError(
            f"{source}there are no records; give at least one with `prompt` and `target`"
        )
    edits: dict[str, Edit] = {}
    places: dict[str, str] = {}
    for row in _without_row_numbers(rows):
        line = "" if row.line is None else f" (line {row.line})"
        place = f"{source}row {row.number}{line}"
        edit = _edit(row, place)
        if edit.id in edits:
            raise EditError(
                f"{place}, column 'id': {edit.id!r} is already the id of {places[edit.id]}; "
                "ids are unique, so rename one or leave the column out"
            )
        edits[edit.id], places[edit.id] = edit, place
    try:
        return EditStream.from_edits(
            edits.values(), batch_size, name=name, calibration=tuple(calibration)
        )
    except EditError as error:
        raise EditError(f"{source}{error}") from None


def _without_row_numbers(rows: Sequence[Row]) -> list[Row]:
    """Rows without the nameless column of row numbers that pandas writes into files."""
    nameless = {column for row in rows for column in row.cells if _nameless(column)}
    numbers = {
        column
        for column in nameless
        if all(str(row.cells.get(column)).strip().isdecimal() for row in rows)
    }
    return [
        Row(row.number, row.line, {c: row.cells[c] for c in row.cells if c not in numbers})
        for row in rows
    ]


def _nameless(column: object) -> bool:
    return isinstance(column, str) and column.startswith(UNNAMED)


def _edit(row: Row, place: str) -> Edit:
    given = _given(row, place)
    for column in NEEDED:
        if column not in given:
            raise EditError(f"{place}: column {column!r} is missing or empty; fill it in")
    texts = {c: _text(given[c], place, c) for c in ("prompt", *TEXTS) if c in given}
    target, *aliases = _answers(given, place)
    if normalise(texts.get("old_answer", "")) in map(normalise, aliases):
        del texts["old_answer"]
    rephrases = {c: _texts(given.get(c, ()), place, c) for c in REPHRASES}
    locality = {c: _texts(given.get(c, ()), place, c) for c in LOCALITY}
    try:
        return Edit(
            **{"id": f"row/{row.number}"} | texts,
            target=target,
            aliases=tuple(aliases),
            rephrases=tuple(
                Rephrase(prompt=prompt, group=REPHRASES[column])
                for column, prompts in rephrases.items()
                for prompt in prompts
            ),
            locality=tuple(
                LocalityPrompt(prompt=prompt, group=column)
                for column, prompts in locality.items()
                for prompt in prompts
            ),
        )
    except EditError as error:
        raise EditError(f"{place}: {error}") from None


def _given(row: Row, place: str) -> dict[str, Any]:
    """The cells that say something, by the names of their columns."""
    filled = {column: value for column, value in row.cells.items() if not _empty(value)}
    given = dict(zip(column_names(filled, place), filled.values(), strict=True))
    for column, value in given.items():
        if _nameless(column):
            raise EditError(
                f"{place}: a column without a name holds {value!r}; name it in the header, or "
                "remove it"
            )
        if column not in COLUMNS:
            alike = get_close_matches(column, COLUMNS, n=1)
            hint = f"did you mean {alike[0]!r}? " if alike else ""
            raise EditError(
                f"{place}: unknown column {column!r}; {hint}known are {', '.join(COLUMNS)}; "
                "rename it or leave it out"
            )
    return given


def _empty(value: object) -> bool:
    return is_absent(value) or (isinstance(value, list | tuple) and not any(flat(value)))


def _answers(given: Mapping[str, Any], place: str) -> list[str]:
    """The target and its aliases, each once."""
    targets = [_text(answer, place, "target") for answer in flat(given["target"])]
    aliases = _texts(given.get("aliases", ()), place, "aliases")
    target, *others = targets
    return [target, *(other for other in dict.fromkeys([*others, *aliases]) if other != target)]


def _text(value: object, place: str, column: str) -> str:
    if not isinstance(value, str):
        raise EditError(
            f"{place}, column {column!r}: expected text, got {type(value).__name__} {value!r}; "
            "write it as a text, in quotes"
        )
    return value


def _texts(value: object, place: str, column: str) -> list[str]:
    """A list of texts, or one text with the parts separated by ``|``."""
    parts = value.split(SEPARATOR) if isinstance(value, str) else value
    if not isinstance(parts, Iterable) or isinstance(parts, Mapping | set):
        raise EditError(
            f"{place}, column {column!r}: expected a list of texts, got {value!r}; write "
            f"[...] around it, or a text with its parts separated by {SEPARATOR}"
        )
    return [_text(part, place, column).strip() for part in parts if not is_absent(part)]
