"""Results of a sweep on disk, and what they look like together.

    runs/orders/
      measurements/KEY.parquet    one row group per run; pandas.read_parquet reads the folder
      similarity/KEY.parquet      a folder like it for every probe
      finished/KEY.json           what the run was, with the hashes of its tables
      failed/KEY.json             what the run was, with the traceback

A run is finished once its record stands in ``finished``: that is written last. Every file is
written beside its place, synced and renamed, so a sweep can be killed at any instant.
"""

from __future__ import annotations

import json
import warnings
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from ..edits import EditStream
from ..files.run import file_hash, write_atomically, write_json
from ..metrics import COLUMNS
from .runs import MEASUREMENTS, Run

NAME = ["editor", "order", "seed", "run"]


class SweepWarning(UserWarning):
    """Runs that failed, or stored results that cannot be used."""


@dataclass
class Outcome:
    """What became of a run: its tables, or the traceback."""

    seconds: float
    tables: dict[str, pd.DataFrame] | None = None
    traceback: str = ""


@dataclass(frozen=True)
class SweepResult:
    """The results of a sweep.

    Every frame has the columns ``editor``, ``order`` and ``seed``; ``run``, which tells apart
    what shares these three, from 0; and ``key``, the run's hash.

    Parameters
    ----------
    runs
        One row per run: its planner, status (``finished``, ``failed``, ``missing``), seconds, and
        whether this sweep computed it.
    measurements
        What ``probes.measurements`` returned, all runs together.
    tables
        By name, what the probes returned that the runs asked.
    failures
        One row per failed run, with its ``traceback``.
    """

    runs: pd.DataFrame
    measurements: pd.DataFrame
    tables: dict[str, pd.DataFrame]
    failures: pd.DataFrame


class Store:
    """The folder of a sweep."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def record(self, key: str) -> Path:
        return self.folder / "finished" / f"{key}.json"

    def failure(self, key: str) -> Path:
        return self.folder / "failed" / f"{key}.json"

    def table(self, name: str, key: str) -> Path:
        return self.folder / name / f"{key}.parquet"

    def write(self, run: Run, outcome: Outcome) -> None:
        """Keep what became of a run; a failure leaves it to the next sweep."""
        described = _description(run) | {"seconds": outcome.seconds}
        if outcome.tables is None:
            write_json(self.failure(run.key), described | {"traceback": outcome.traceback})
            return
        hashes = {}
        for name, table in outcome.tables.items():
            path = self.table(name, run.key)
            write_row_group(path, table.assign(key=run.key))
            hashes[name] = file_hash(path)
        write_json(self.record(run.key), described | {"tables": hashes})
        self.failure(run.key).unlink(missing_ok=True)

    def read(self, run: Run) -> Outcome | None:
        """The tables of a finished run; None, with a warning, if a file of it is damaged."""
        path = self.record(run.key)
        if not path.exists():
            return None
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            tables = {}
            for name, expected in record["tables"].items():
                path = self.table(name, run.key)
                if file_hash(path) != expected:
                    raise ValueError("its content is not what was stored")
                tables[name] = pd.read_parquet(path)
            return Outcome(record["seconds"], tables)
        except Exception as error:
            warnings.warn(
                f"{path} is damaged or missing ({error}); the run counts as not computed",
                SweepWarning,
                stacklevel=3,
            )
            return None

    def read_failure(self, run: Run) -> Outcome | None:
        """How the run failed the last time, if it did."""
        try:
            failure = json.loads(self.failure(run.key).read_text(encoding="utf-8"))
            return Outcome(failure["seconds"], None, failure["traceback"])
        except (OSError, ValueError, KeyError):
            return None


def write_row_group(path: Path, table: pd.DataFrame) -> None:
    """A table as one Parquet row group."""
    rows = max(1, len(table))
    write_atomically(path, lambda place: table.to_parquet(place, index=False, row_group_size=rows))


def _description(run: Run) -> dict:
    """The run for a human reader; a stream of the user's own is named, not repeated."""
    described = {"key": run.key} | run.model_dump(mode="json", exclude={"stream"})
    stream = run.stream
    if isinstance(stream, EditStream):
        described["stream"] = {
            "name": stream.name,
            "seed": stream.seed,
            "order": stream.order,
            "batches": [len(batch) for batch in stream],
        }
    else:
        described["stream"] = stream.model_dump(mode="json")
    return described


def collect(runs: Iterable[Run], folder: str | Path) -> SweepResult:
    """What a folder holds of these runs, without computing anything."""
    store = Store(folder)
    rows, failures, tables = [], [], {MEASUREMENTS: []}
    for run, name in numbered(runs):
        outcome = store.read(run)
        failed = None if outcome else store.read_failure(run)
        rows.append(
            name
            | {
                "planner": _call(run),
                "status": "finished" if outcome else "failed" if failed else "missing",
                "seconds": getattr(outcome or failed, "seconds", float("nan")),
                "computed": False,
                "key": run.key,
            }
        )
        if failed:
            failures.append(name | {"traceback": failed.traceback, "key": run.key})
        for table, frame in outcome.tables.items() if outcome else ():
            tables.setdefault(table, []).append(frame.assign(**name))
    together = {name: _together(frames) for name, frames in tables.items()}
    return SweepResult(
        runs=pd.DataFrame(rows),
        measurements=together.pop(MEASUREMENTS),
        tables=together,
        failures=pd.DataFrame(failures, columns=[*NAME, "traceback", "key"]),
    )


def numbered(runs: Iterable[Run]) -> list[tuple[Run, dict]]:
    """Every run once, with its editor, order and seed, and its number among equals in these."""
    distinct = {(run.key, run.label): run for run in runs}
    counts: Counter[tuple] = Counter()
    result = []
    for run in distinct.values():
        name = run.name
        shared = tuple(name.values())
        result.append((run, name | {"run": counts[shared]}))
        counts[shared] += 1
    return result


def _call(run: Run) -> str:
    """The planner as one would write it."""
    if run.planner is None:
        return ""
    settings = ", ".join(f"{name}={value!r}" for name, value in run.planner.settings.items())
    return f"{run.planner.name}({settings})"


def _together(frames: list[pd.DataFrame]) -> pd.DataFrame:
    if not frames:
        return pd.DataFrame(columns=[*NAME, *COLUMNS, "superseded_at", "key"])
    table = pd.concat(frames, ignore_index=True)
    others = [name for name in table if name not in (*NAME, "key")]
    return table[[*NAME, *others, "key"]]
