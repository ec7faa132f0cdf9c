"""The table of edits: filtered and sorted in Python, drawn by a small script in the page.

table = EditTable(on_open=show_details)
table.update(track.edits())
table.text, table.state, table.sort_by = "minister", "forgotten", "batch"
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import anywidget
import pandas as pd
import traitlets

from ..common.history import EDIT_COLUMNS, STATES
from ..common.one_thread import on_this_thread

HERE = Path(__file__).parent
ANY = "any"
LONGEST = 200  # rows in the page; the filter reaches the others
SORTABLE = ("batch", "prompt", "target", "state", "immediate", "now", "expert", "route")


class EditTable(anywidget.AnyWidget):
    """One row per edit; a click, or Enter on the row, opens it.

    Parameters
    ----------
    on_open
        Called with the id of the edit that was opened.
    """

    _esm = HERE / "edit_table.js"
    _css = HERE / "edit_table.css"

    rows = traitlets.List().tag(sync=True)  # of dicts with the columns as text
    counts = traitlets.Dict().tag(sync=True)  # how many edits by state
    matching = traitlets.Int(0).tag(sync=True)
    states = traitlets.List(list(STATES)).tag(sync=True)
    text = traitlets.Unicode("").tag(sync=True)
    state = traitlets.Unicode(ANY).tag(sync=True)
    sort_by = traitlets.Enum(SORTABLE, "batch").tag(sync=True)
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
        self.counts = {state: int(counts.get(state, 0)) for state in STATES}
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
        self.rows = as_text(frame.head(LONGEST)).to_dict("records")

    def _hear(self, _table: EditTable, content: dict, _buffers: list) -> None:
        edit = content.get("open") if isinstance(content, dict) else None
        if edit in set(self._frame["edit"]):
            self.choose(edit)


def selected(
    frame: pd.DataFrame, text: str, state: str, sort_by: str, descending: bool
) -> pd.DataFrame:
    """The edits in ``state`` (or any) whose prompt, target or id holds ``text``, sorted."""
    wanted = text.strip().lower()
    if wanted:
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


def as_text(frame: pd.DataFrame) -> pd.DataFrame:
    """The columns as the page shows them."""
    shown = frame.copy()
    for column in ("immediate", "now"):
        shown[column] = [{1.0: "yes", 0.0: "no"}.get(value, "") for value in frame[column]]
    return shown.astype({"batch": int}).astype(str)
