"""The journal of a run: what is applied now, as lines that are only ever appended.

    {"step": 3, "tensors": ..., "metrics": ..., ...}     batch 3 was learned after batches 1 and 2
    {"evaluated": 3, "file": ..., "metrics": ...}        after batch 3 all three were measured
    {"undone_to": 2}                                     batch 3 was taken back, with all of that

A line counts once it ends; what a kill left of one is no part of the journal.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from .folders import RunError


@dataclass
class Entry:
    """A committed step and, if there is one, its later evaluation, as their lines say it."""

    step: dict
    evaluated: dict | None = None


class Journal:
    """A journal file and what it says.

    Parameters
    ----------
    path
        The file; where there is none, nothing was committed yet.
    repair
        Take the lines before a damaged one instead of failing.

    Attributes
    ----------
    entries
        One for every applied batch; the first, without a step, stands for the unedited host.

    Raises
    ------
    RunError
        If a line is damaged.
    """

    def __init__(self, path: Path, repair: bool = False) -> None:
        self.path = path
        self.entries = [Entry({})]
        content = path.read_bytes() if path.exists() else b""
        self._found = len(content)  # bytes that the file has
        self._whole = 0  # bytes of them that count
        for number, line in enumerate(content.splitlines(keepends=True), start=1):
            if not line.endswith(b"\n"):
                break
            try:
                self._take(json.loads(line))
            except (ValueError, TypeError, KeyError) as error:
                if repair:
                    break
                raise RunError(
                    f"{path} is damaged in line {number} ({error}); restore it from a copy, or "
                    f"let EditSession.resume({str(path.parent)!r}, repair=True) take the lines "
                    "before it"
                ) from error
            self._whole += len(line)

    @property
    def steps(self) -> int:
        """How many batches are applied."""
        return len(self.entries) - 1

    def append(self, *lines: dict) -> None:
        """Commit lines: they are on the disk when this returns, or the journal is what it was.

        Raises
        ------
        RunError
            If it cannot be written, or somebody else wrote to the file.
        """
        content = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
        try:
            with open(self.path, "r+b" if self.path.exists() else "x+b") as file:
                self._require_own(file.seek(0, os.SEEK_END))
                file.seek(self._whole)
                file.truncate()
                try:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
                except OSError:
                    file.truncate(self._whole)
                    raise
        except OSError as error:
            self._found = self.path.stat().st_size if self.path.exists() else 0
            raise RunError(
                f"could not write {self.path}: {error}. What was saved before is untouched; free "
                "some space, then save again"
            ) from error
        self._whole += len(content)
        self._found = self._whole
        for line in lines:
            self._take(line)

    def _require_own(self, size: int) -> None:
        if size != self._found:
            raise RunError(
                f"{self.path} was changed by somebody else since this session opened it; save to "
                "another folder, or close this session and resume the run again"
            )

    def _take(self, line: dict) -> None:
        if "undone_to" in line:
            self._require(0 <= line["undone_to"] <= self.steps, line)
            del self.entries[line["undone_to"] + 1 :]
        elif "evaluated" in line:
            self._require(0 <= line["evaluated"] <= self.steps, line)
            self.entries[line["evaluated"]].evaluated = line
        else:
            self._require(line["step"] == self.steps + 1, line)
            self.entries.append(Entry(line))

    def _require(self, fits: bool, line: dict) -> None:
        if not fits:
            raise ValueError(f"{json.dumps(line)[:40]}... cannot follow {self.steps} steps")
