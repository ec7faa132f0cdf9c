"""Rows and records of CSV and JSON files, with the place of each, or the remedy in the error.

    for row in csv_rows(Path("facts.csv")):
        row.number, row.line, row.cells                      # 1, 2, {"prompt": ..., "target": ...}

Texts stay as they are written: nothing is taken for a number, a date or a missing value.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..edits import EditError

BYTE_ORDER_MARKS = {  # UTF-32 first: its mark begins with that of UTF-16
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
SEPARATORS = (",", ";", "\t")
UNNAMED = "unnamed:_"
LINES = (".jsonl", ".ndjson")
WORKBOOKS = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")  # .xlsx and .xls


@dataclass(frozen=True)
class Row:
    """A row or record of a file: its ``number`` from 1, the ``line`` where it begins, its cells."""

    number: int
    line: int | None
    cells: Mapping[str, Any]


def read_text(path: Path, encoding: str | None = None) -> str:
    """The text of a file: in ``encoding``, else as its byte-order mark says, else UTF-8.

    Raises
    ------
    EditError
        If there is no such file, or its bytes are no text in that encoding.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise EditError(
            f"{path} does not exist; download the data set's file or pass where yours lies, or "
            "let datasets.fetch find a published one"
        ) from None
    except OSError as error:
        raise EditError(f"{path} cannot be read: {error.strerror}") from None
    if content.startswith(WORKBOOKS):
        raise EditError(f"{path} is an Excel workbook; save it as CSV UTF-8 and load that file")
    marked = next((BYTE_ORDER_MARKS[m] for m in BYTE_ORDER_MARKS if content.startswith(m)), None)
    chosen = encoding or marked or "utf-8"
    try:
        text = content.decode(chosen)
    except LookupError:
        raise EditError(
            f"{path}: there is no encoding {chosen!r}; common ones are 'utf-8', 'cp1252', 'utf-16'"
        ) from None
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise EditError(
            f"{path}, line {line}: byte 0x{content[error.start]:02x} is not {chosen}; save the "
            "file as UTF-8, or say what it is written in, such as encoding='cp1252' (Windows, "
            "Western Europe) or encoding='latin-1'"
        ) from None
    if "\0" in text:
        raise EditError(
            f"{path} holds zero bytes, as UTF-16 without a byte-order mark does; save it as UTF-8, "
            "or say what it is written in, such as encoding='utf-16-le'"
        )
    return text.removeprefix("\ufeff")


def csv_rows(path: Path, known: Sequence[str], encoding: str | None = None) -> list[Row]:
    """The rows of a CSV file below its header; rows without any text are left out.

    Parameters
    ----------
    known
        Names that columns may have; of ``,``, ``;`` and tab that one separates the fields which
        finds most of them in the header.
    encoding
        As for :func:`read_text`.

    Raises
    ------
    EditError
        Also for a file without rows, a column name used twice, quotes that do not match, and a row
        with more or fewer fields than the header has.
    """
    text = read_text(path, encoding)
    separator, skipped = None, 0
    if text.lower().startswith("sep=") and text[5:6] in ("\r", "\n"):  # Excel's own first line
        separator, text, skipped = text[4], text[5:].lstrip("\r\n"), 1
    if not text.strip():
        raise EditError(f"{path} is empty; its first line must name the columns: prompt,target")
    header = next(line for line in io.StringIO(text, newline="") if line.strip())
    separator = separator or max(
        SEPARATORS, key=lambda mark: (len(_known(header, mark, known)), header.count(mark))
    )
    records = _parsed(path, text, separator, skipped)
    line, names = records[0]
    columns = column_names(names, f"{path}, line {line}")
    if not set(columns) & set(known):
        raise EditError(
            f"{path}, line {line}: {', '.join(map(repr, names))} names no known column; the first "
            f"line must name the columns, with , or ; or tab between them: {', '.join(known)}"
        )
    rows = [
        Row(number, line, _cells(columns, fields, separator, f"{path}, row {number} (line {line})"))
        for number, (line, fields) in enumerate(records[1:], start=1)
    ]
    if not rows:
        raise EditError(f"{path} has a header and no rows; write one fact a line below it")
    return rows


def column_names(names: Iterable[object], place: str) -> list[str]:
    """Names in lower case, without blanks around them and with ``_`` for blanks inside.

    A column without a name is called ``unnamed:_column_1`` by its place.

    Raises
    ------
    EditError
        If two columns have the same name.
    """
    columns = [
        "_".join(str(name).lower().split()) or f"{UNNAMED}column_{at}"
        for at, name in enumerate(names, start=1)
    ]
    for column, count in Counter(columns).items():
        if count > 1:
            raise EditError(
                f"{place}: {count} columns are called {column!r}; rename or remove all but one"
            )
    return columns


def json_records(path: Path, encoding: str | None = None) -> list[Row]:
    """The objects of a JSON list, or of JSON Lines: one object a line.

    Numbers become the text that is written; NaN becomes null.

    Raises
    ------
    EditError
        As for :func:`read_text`, and naming the line that is no JSON or no object.
    """
    text = read_text(path, encoding)
    if not text.strip():
        raise EditError(f"{path} is empty; it must hold a list of records, or one record a line")
    try:
        found = _json(text)
    except json.JSONDecodeError as error:
        if not _begins_with_object(text, path.suffix):
            raise EditError(
                f"{path} is no JSON file: line {error.lineno}, column {error.colno}: {error.msg}; "
                "mend that place, or get the file anew if it was cut off there"
            ) from None
        return _json_lines(path, text)
    if isinstance(found, dict) and path.suffix in LINES:
        return [Row(1, text[: text.index("{")].count("\n") + 1, found)]
    if not isinstance(found, list):
        raise EditError(f"{path} must hold a list of records, not {_kind(found)}")
    for number, record in enumerate(found, start=1):
        if not isinstance(record, dict):
            raise EditError(
                f"{path} must hold a list of records, and record {number} is {_kind(record)}; "
                'write it as an object, such as {"prompt": ..., "target": ...}'
            )
    return [Row(number, None, record) for number, record in enumerate(found, start=1)]


def _json_lines(path: Path, text: str) -> list[Row]:
    lines = [(n, line) for n, line in enumerate(text.split("\n"), start=1) if line.strip()]
    rows = []
    for number, (line, content) in enumerate(lines, start=1):
        try:
            record = _json(content)
        except json.JSONDecodeError as error:
            raise EditError(
                f"{path}, line {line}, column {error.colno}: is no JSON: {error.msg}; write one "
                "object on each line, or get the file anew if it was cut off there"
            ) from None
        if not isinstance(record, dict):
            raise EditError(
                f"{path}, line {line}: is {_kind(record)}; write one object on each line, such as "
                '{"prompt": ..., "target": ...}'
            )
        rows.append(Row(number, line, record))
    return rows


def _json(text: str) -> Any:
    try:
        return json.loads(
            text,
            parse_int=str,
            parse_float=lambda number: number.removesuffix(".0"),
            parse_constant=lambda name: None if name == "NaN" else name,
        )
    except RecursionError:
        raise json.JSONDecodeError("Too many lists inside each other", text, 0) from None


def _begins_with_object(text: str, suffix: str) -> bool:
    """Whether a text that is no JSON as a whole is meant as JSON Lines."""
    first = text.lstrip().split("\n", 1)[0]
    if suffix in LINES:
        return not first.startswith("[")
    try:
        return isinstance(_json(first), dict)
    except json.JSONDecodeError:
        return False


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "a text or number", type(None): "null"}
    return names.get(type(value), type(value).__name__)


def _known(header: str, separator: str, known: Sequence[str]) -> set[str]:
    names = next(csv.reader([header], delimiter=separator), [])
    return {"_".join(name.lower().split()) for name in names} & set(known)


def _parsed(path: Path, text: str, separator: str, skipped: int) -> list[tuple[int, list[str]]]:
    """Line and fields of every record that has any text.

    A blank before an opening quote belongs to neither field; other blanks are kept.
    """
    kept = _records(path, text, separator, skipped, skipinitialspace=False)
    bare = _records(path, text, separator, skipped, skipinitialspace=True)
    same = [[field.lstrip(" ") for field in fields] for _, fields in kept] == [
        [field.lstrip(" ") for field in fields] for _, fields in bare
    ]
    return kept if same else bare


def _records(
    path: Path, text: str, separator: str, skipped: int, skipinitialspace: bool
) -> list[tuple[int, list[str]]]:
    reader = csv.reader(
        io.StringIO(text, newline=""),
        delimiter=separator,
        skipinitialspace=skipinitialspace,
        strict=True,
    )
    records = []
    while True:
        line = reader.line_num + 1 + skipped
        try:
            fields = next(reader)
        except StopIteration:
            return records
        except csv.Error as error:
            raise EditError(
                f"{path}, line {line}: the row that begins here cannot be split into fields "
                f'({error}); put "..." around a whole field and write a quote inside it twice'
            ) from None
        if any(field.strip() for field in fields):
            records.append((line, fields))


def _cells(columns: list[str], fields: list[str], separator: str, place: str) -> dict[str, str]:
    if len(fields) != len(columns):
        mark = "tab" if separator == "\t" else separator
        remedy = (
            f'put "..." around a field that holds a separator ({mark})'
            if len(fields) > len(columns)
            else "write a separator for every empty field, and line breaks only inside quotes"
        )
        raise EditError(
            f"{place}: {len(fields)} fields, but the header has {len(columns)} columns "
            f"({', '.join(columns)}); {remedy}"
        )
    return dict(zip(columns, fields, strict=True))
