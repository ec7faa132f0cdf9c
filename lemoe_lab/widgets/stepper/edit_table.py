"""The table of edits: filtered and sorted in Python, drawn by a small script in the page."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import anywidget
import pandas as pd
import traitlets

from ..common.background import on_this_thread
from ..common.history import EDIT_COLUMNS, STATES

HERE = Path(__file__).parent
ANY = "any"
LONGEST = 200  # rows in the page; the filter reaches the others


class EditTable(anywidget.AnyWidget):
    """One row per edit; a click, or Enter on the row, opens it.

    It is ours, not a grid of another package, because it needs no CDN, works by keyboard, and
    filters in Python, so that an export holds just the rows that are shown.

    Parameters
    ----------
    on_open
        Called with the id of the edit that was opened.
    """

    _esm = HERE / "edit_table.js"
    _css = HERE / "edit_table.css"

    rows = traitlets.List().tag(sync=True)  # of dicts with the columns as text
    choices = traitlets.Dict().tag(sync=True)  # what to show for each state to filter by
    matching = traitlets.Int(0).tag(sync=True)
    text = traitlets.Unicode("").tag(sync=True)
    state = traitlets.Unicode(ANY).tag(sync=True)
    sort_by = traitlets.Enum(EDIT_COLUMNS, "batch").tag(sync=True)
    descending = traitlets.Bool(False).tag(sync=True)
    opened = traitlets.Unicode("").tag(sync=True)

    def __init__(self, on_open: Callable[[str], None]) -> None:
        self._frame = pd.DataFrame(columns=list(EDIT_COLUMNS))
        super().__init__()
        self._on_open = on_open
        self.on_msg(on_this_thread(self._hear))
        filters = ["text", "state", "sort_by", "descending"]
        self.observe(on_this_thread(lambda _: self._select()), filters)

    def update(self, frame: pd.DataFrame) -> None:
        """Show these edits; filter and order stay as they are."""
        self._frame = frame
        counts = frame["state"].value_counts()
        self.choices = {ANY: f"any state ({len(frame)})"} | {
            state: f"{state} ({counts.get(state, 0)})" for state in STATES
        }
        self._select()

    def choose(self, edit: str) -> None:
        """What a click on a row does."""
        self.opened = edit
        self._on_open(edit)

    @property
    def selection(self) -> pd.DataFrame:
        """The rows that pass the filter, in the order of the table."""
        return selected(self._frame, self.text, self.state, self.sort_by, self.descending)

    def _select(self) -> None:
        frame = self.selection
        self.matching = len(frame)
        shown = frame.head(LONGEST).astype({"batch": int})
        for column in ("immediate", "now"):
            shown[column] = [{1.0: "yes", 0.0: "no"}.get(value, "") for value in shown[column]]
        self.rows = shown.astype(str).to_dict("records")

    def _hear(self, _table: EditTable, content: dict, _buffers: list) -> None:
        edit = content.get("open") if isinstance(content, dict) else None
        if edit in set(self._frame["edit"]):
            self.choose(edit)


def selected(
    frame: pd.DataFrame, text: str, state: str, sort_by: str, descending: bool
) -> pd.DataFrame:
    """The edits in ``state`` (or any) whose prompt, target or id holds ``text``, sorted."""
    if wanted := text.strip().lower():
        joined = frame["prompt"] + "\n" + frame["target"] + "\n" + frame["edit"]
        frame = frame[joined.str.lower().str.contains(wanted, regex=False)]
    if state != ANY:
        frame = frame[frame["state"] == state]
    return frame.sort_values(sort_by, ascending=not descending, kind="stable", key=_order)


def _order(column: pd.Series) -> pd.Series:
    if column.name == "state":
        return column.map({state: place for place, state in enumerate(STATES)})
    if column.name in ("expert", "route"):
        return pd.to_numeric(column, errors="coerce").fillna(-1)
    if column.name in ("prompt", "target"):
        return column.str.lower()
    return column
