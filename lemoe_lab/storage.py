"""A run on disk: files that survive being killed at any instant.

    runs/demo/
      config.json          host fingerprint, editor settings, the whole stream
      journal.jsonl        one line for every applied batch, with the hashes of its files
      steps/0003.*         the tensors and the measurements that batch 3 added
      adaptor.safetensors  all tensors together, for others to load
      metrics.parquet      all measurements together

Every file is written beside its place, synced and renamed; a batch counts once its line stands in
the journal.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import pandas as pd
from safetensors.torch import load_file, save_file
from torch import Tensor


class RunError(RuntimeError):
    """A run folder that cannot be written or read; the message says what to do."""


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` fill a temporary file, sync it, and rename it to ``path``."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except Exception as error:
        temporary.unlink(missing_ok=True)
        raise RunError(
            f"could not write {path}: {error}. What was saved before is untouched; free some "
            "space or choose another folder, then save again"
        ) from error


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Safetensors with keys in order, so that equal tensors give equal bytes."""
    ordered = {key: tensors[key].detach().cpu().contiguous().clone() for key in sorted(tensors)}
    write_atomically(path, lambda temporary: save_file(ordered, temporary))


def write_table(path: Path, table: pd.DataFrame) -> None:
    write_atomically(path, lambda temporary: table.to_parquet(temporary, index=False))


def write_json(path: Path, value: object) -> None:
    text = json.dumps(value, indent=1, ensure_ascii=False)
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def file_hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


class RunFolder:
    """Reads and writes one run."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def _step_file(self, step: int, suffix: str) -> Path:
        return self.path / "steps" / f"{step:04d}.{suffix}"

    def _read(self, path: Path, read: Callable[[Path], object], expected: str | None) -> object:
        try:
            if expected is not None and file_hash(path) != expected:
                raise ValueError("its content is not what was saved")
            return read(path)
        except Exception as error:
            raise RunError(
                f"{path} is damaged or missing ({error}); "
                f"EditSession.resume({str(self.path)!r}, repair=True) goes back to the last step "
                "that is whole"
            ) from error

    def start(self, config: dict, state: dict[str, Tensor]) -> None:
        """Begin a run: its settings and what was calibrated before the first batch."""
        write_tensors(self._step_file(0, "safetensors"), state)
        self.describe(config)
        self.truncate_journal(0)

    def describe(self, config: dict) -> None:
        """Write the settings of the run; its stream may have grown since it began."""
        config = config | {"calibration": file_hash(self._step_file(0, "safetensors"))}
        write_json(self.path / "config.json", config)

    def config(self) -> dict:
        path = self.path / "config.json"
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise RunError(f"{self.path} holds no saved run: config.json is missing") from error
        except ValueError as error:
            raise RunError(f"{path} is damaged: {error}; the run cannot be read") from error

    def calibration(self) -> dict[str, Tensor]:
        path = self._step_file(0, "safetensors")
        return self._read(path, load_file, self.config()["calibration"])

    def append(
        self, step: int, state: dict[str, Tensor], table: pd.DataFrame, report: dict
    ) -> None:
        """Write one applied batch, then commit it with a line in the journal."""
        tensors, rows = self._step_file(step, "safetensors"), self._step_file(step, "parquet")
        write_tensors(tensors, state)
        write_table(rows, table)
        line = {"step": step, "tensors": file_hash(tensors), "metrics": file_hash(rows)} | report
        self._write_journal([*self.journal()[: step - 1], line])

    def journal(self) -> list[dict]:
        """One entry for every committed batch."""
        path = self.path / "journal.jsonl"
        if not path.exists():
            return []
        try:
            return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        except ValueError as error:
            raise RunError(f"{path} is damaged: {error}; restore it from a copy") from error

    def truncate_journal(self, steps: int) -> None:
        """Let the run end after this many batches."""
        self._write_journal(self.journal()[:steps] if steps else [])

    def _write_journal(self, lines: list[dict]) -> None:
        text = "".join(json.dumps(line) + "\n" for line in lines)
        path = self.path / "journal.jsonl"
        write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))

    def step(self, entry: dict) -> tuple[dict[str, Tensor], pd.DataFrame]:
        """Tensors and measurements of one journal entry, checked against their hashes."""
        tensors = self._step_file(entry["step"], "safetensors")
        rows = self._step_file(entry["step"], "parquet")
        return (
            self._read(tensors, load_file, entry["tensors"]),
            self._read(rows, pd.read_parquet, entry["metrics"]),
        )

    def finish(self, state: dict[str, Tensor], table: pd.DataFrame) -> None:
        """Write the whole adaptor and all measurements, each as one file."""
        record = self.path / "whole.json"
        record.unlink(missing_ok=True)  # until both files are there, neither is vouched for
        write_tensors(self.path / "adaptor.safetensors", state)
        write_table(self.path / "metrics.parquet", table)
        hashes = {
            name: file_hash(self.path / name) for name in ("adaptor.safetensors", "metrics.parquet")
        }
        write_json(record, hashes)

    def check_whole(self) -> pd.DataFrame | None:
        """The measurements written by :meth:`finish`; raises if a file is not what was written."""
        record = self.path / "whole.json"
        if not record.exists():
            return None
        hashes = self._read(record, lambda p: json.loads(p.read_text()), None)
        adaptor, table = self.path / "adaptor.safetensors", self.path / "metrics.parquet"
        self._read(adaptor, load_file, hashes["adaptor.safetensors"])
        return self._read(table, pd.read_parquet, hashes["metrics.parquet"])
