"""What a session knows of its steps, and how that comes into a run folder and back.

recording = Recording.begun(run, session)
recording.update(session)                # after every step, undo, redo and evaluation
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import pandas as pd
from torch import Tensor

from ..editors.base import Editor
from ..edits import EditStream
from ..host import Host, load_host
from ..host.model import EMBEDDED
from ..metrics import Measurement, rows_of, table_of
from .journal import Entry
from .run import RunError, RunFolder

REPORTED = ("losses", "experts", "train_seconds", "evaluate_seconds", "peak_bytes")


@dataclass(frozen=True, eq=False)
class Record:
    """What learning a step took, and the rows of the metrics table that were measured then.

    ``immediate`` are those of its own batch; ``evaluated``, if there are any, those of all batches
    so far, the immediate ones among them. A step that is undone takes its record with it.
    """

    report: dict
    immediate: list[Measurement]
    evaluated: list[Measurement] | None = None

    @property
    def rows(self) -> list[Measurement]:
        return self.immediate if self.evaluated is None else self.evaluated


class Recorded(Protocol):
    """What a recording reads of a session."""

    host: Host
    editor: Editor
    stream: EditStream
    immediate: tuple[str, ...]

    @property
    def steps(self) -> int: ...

    @property
    def records(self) -> list[Record]: ...

    @property
    def metrics(self) -> pd.DataFrame: ...


class Recording:
    """Keeps a run folder up to what a session has applied and measured.

    It knows what it wrote by the identity of the session's records, so that a write that failed is
    made up for by the next one.
    """

    def __init__(self, run: RunFolder, stream: EditStream, written: Iterable[Record]) -> None:
        self.run = run
        self._stream = stream  # as the folder has it
        self._written = list(written)

    @classmethod
    def begun(cls, run: RunFolder, session: Recorded) -> Recording:
        """A new run in an empty folder, nothing being applied yet."""
        run.start(_described(session, run), session.editor.step_state(0))
        return cls(run, session.stream, [replace(session.records[0], evaluated=None)])

    def is_in(self, folder: str | Path) -> bool:
        """Whether this is what a folder holds."""
        path = Path(folder).resolve()
        if path.exists() and self.run.path.exists():
            return os.path.samefile(path, self.run.path)  # some systems ignore upper case
        return path == self.run.path

    def update(self, session: Recorded) -> None:
        """Write what the folder lacks, after dropping what the session took back."""
        records, known = session.records, self._known(session.records)
        if known < len(self._written):
            self.run.truncate_journal(known - 1)
            del self._written[known:]
        if self._stream is not session.stream:
            self.run.describe(_described(session, self.run))
            self._stream = session.stream
        for step in range(known):
            if records[step].evaluated is not self._written[step].evaluated:
                self.run.evaluate(step, table_of(records[step].evaluated))
                self._written[step] = records[step]
        for step in range(known, min(len(records), session.steps + 1)):
            record = records[step]
            immediate = table_of(record.immediate)
            evaluated = None if record.evaluated is None else table_of(record.evaluated)
            state = session.editor.step_state(step)
            self.run.append(step, state, immediate, record.report, evaluated)
            self._written.append(record)

    def finish(self, session: Recorded) -> None:
        """Write the whole adaptor and all measurements, each as one file."""
        self.run.finish(session.editor.state_dict(), session.metrics)

    def _known(self, records: list[Record]) -> int:
        """How many of the written steps the session still has: all below one that it has."""
        count = min(len(self._written), len(records))
        while self._written[count - 1].report is not records[count - 1].report:
            count -= 1
        return count


def load_record(run: RunFolder, entry: Entry, repair: bool) -> tuple[dict[str, Tensor], Record]:
    """The tensors and the record of a committed step.

    With ``repair`` the step may lack its evaluation, which can be made again.
    """
    state, immediate = run.step(entry)
    report = {name: entry.step[name] for name in REPORTED}
    return state, Record(report, rows_of(immediate), load_evaluation(run, entry, repair))


def load_evaluation(run: RunFolder, entry: Entry, repair: bool) -> list[Measurement] | None:
    """The rows of a step's evaluation, if it was evaluated."""
    try:
        table = run.evaluated(entry)
    except RunError:
        if not repair:
            raise
        table = None
    return None if table is None else rows_of(table)


# The host of a run


def _described(session: Recorded, run: RunFolder) -> dict:
    """All that decides a run, as plain data."""
    host, editor = session.host, session.editor
    with editor.disabled():
        fingerprint = host.fingerprint()
    described = {
        "name": host.name,
        "fingerprint": fingerprint,
        "dtype": str(host.model.dtype).removeprefix("torch."),
        "encoding": host.encoding.options,
    }
    if host.folder is not None and host.name != EMBEDDED:
        described["folder"] = str(host.folder.resolve())
        described["folder_from_run"] = _relative(host.folder.resolve(), run.path)
    return {
        "host": described,
        "editor": {
            "class": type(editor).__name__,
            "settings": editor.config.model_dump(mode="json"),
        },
        "stream": session.stream.model_dump(mode="json"),
        "immediate": session.immediate,
    }


def _relative(folder: Path, start: Path) -> str:
    try:
        return Path(os.path.relpath(folder, start)).as_posix()
    except ValueError:  # on another drive
        return str(folder)


def find_host(described: dict, run: RunFolder) -> Host:
    """Load the host of a run, wherever the process is now.

    A local folder is looked for where it was, then where it lies as seen from the run.

    Raises
    ------
    RunError
        If it is not found or cannot be loaded.
    """
    name = described["name"]
    places = [name]
    if "folder" in described:
        places = [described["folder"], run.path / described["folder_from_run"], name]
        places = [place for place in places if Path(place).is_dir()] or [name]
    try:
        return load_host(places[0], dtype=described["dtype"], **described.get("encoding", {}))
    except (OSError, ValueError) as error:
        raise RunError(
            f"{run.path} edits the host {name!r}, which could not be loaded ({error}); load it "
            f"yourself and pass it: EditSession.resume({str(run.path)!r}, host=...)"
        ) from error
