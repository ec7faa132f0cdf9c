"""A run on disk: files that survive being killed at any instant.

    runs/demo/
      config.json          host fingerprint, editor settings, the whole stream
      journal.jsonl        what is applied, with the hashes of its files; see journal.py
      steps/0003.*         the tensors and the measurements that batch 3 added
      adaptor.safetensors  all tensors together, for others to load
      metrics.parquet      all measurements together

Every file is written beside its place, synced and renamed; a batch counts once its line stands in
the journal. What a step costs to write does not grow with the steps before it.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
from safetensors.torch import load, save_file
from torch import Tensor

from .folders import RunError, file_hash, recover, replaced, write_atomically
from .journal import Entry, Journal

FORMAT = 2
TOGETHER = ("adaptor.safetensors", "metrics.parquet")  # of all steps
CONFIG, JOURNAL, STEPS, WHOLE = "config.json", "journal.jsonl", "steps", "whole.json"

__all__ = [
    "RunError",
    "RunFolder",
    "file_hash",
    "write_atomically",
    "write_json",
    "write_table",
    "write_tensors",
]


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Safetensors with keys in order, so that equal tensors give equal bytes."""
    ordered = {key: tensors[key].detach().cpu().contiguous().clone() for key in sorted(tensors)}
    write_atomically(path, lambda temporary: save_file(ordered, temporary))


def write_table(path: Path, table: pd.DataFrame) -> None:
    write_atomically(path, lambda temporary: table.to_parquet(temporary, index=False))


def write_json(path: Path, value: object) -> None:
    text = json.dumps(value, indent=1, ensure_ascii=False)
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


class RunFolder:
    """Reads and writes one run.

    Parameters
    ----------
    path
        Its folder; it is the same one wherever the process goes later.
    repair
        Leave out what follows a damaged line of the journal.
    """

    def __init__(self, path: str | Path, repair: bool = False) -> None:
        self.path = Path(path).resolve()
        self._repair = repair
        self._journal: Journal | None = None
        recover(self.path)

    @classmethod
    @contextmanager
    def new(cls, path: str | Path, overwrite: bool = False) -> Iterator[RunFolder]:
        """A run that is built beside its folder, and takes its place when the block ends.

        Raises
        ------
        RunError
            If the folder holds anything that must not be replaced.
        """
        run = cls(path)
        run.require_room(overwrite)
        place = run.path
        with replaced(place) as staging:
            run.path = staging
            yield run
            run.path = place
            run._journal = None

    def require_room(self, overwrite: bool = False) -> None:
        """Raise :class:`RunError` if a new run must not take this folder.

        An older run gives way with ``overwrite`` only, and other files never do.
        """
        if not self.path.exists():
            return
        found = {entry.name for entry in self.path.iterdir()} if self.path.is_dir() else {"a file"}
        if not found:
            return
        of_a_run = {CONFIG, JOURNAL, STEPS, WHOLE, *TOGETHER}
        foreign = {name for name in found - of_a_run if not name.endswith(".tmp")}
        if foreign or not found & {JOURNAL, STEPS}:
            raise RunError(
                f"{self.path} holds other things already ({', '.join(sorted(found)[:3])}), which "
                "are left as they are; save to a new folder"
            )
        if not overwrite:
            raise RunError(
                f"{self.path} holds {self._contents()} already, which is left as it is; go on "
                f"with it by EditSession.resume({str(self.path)!r}), save to another folder, or "
                "replace it with overwrite=True"
            )

    def _contents(self) -> str:
        """What this folder holds, for somebody who might replace it."""
        try:
            config, steps = self.config(), self.committed.steps
            who = f"{config['editor']['class']} on {config['host']['name']}"
            return f"a run ({who}, {steps} of {len(config['stream']['batches'])} batches applied)"
        except (RunError, LookupError, TypeError):
            return "a run that cannot be read"

    # Settings

    def start(self, config: dict, state: dict[str, Tensor]) -> None:
        """Begin a run: its settings and what was calibrated before the first batch."""
        write_tensors(self._step_file(0, "safetensors"), state)
        self.describe(config)
        write_atomically(self.path / JOURNAL, lambda temporary: temporary.touch())

    def describe(self, config: dict) -> None:
        """Write the settings of the run; its stream may have grown since it began."""
        calibration = file_hash(self._step_file(0, "safetensors"))
        write_json(self.path / CONFIG, {"format": FORMAT} | config | {"calibration": calibration})

    def config(self) -> dict:
        path = self.path / CONFIG
        try:
            config = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise RunError(f"{self.path} holds no saved run: {CONFIG} is missing") from error
        except ValueError as error:
            raise RunError(f"{path} is damaged: {error}; the run cannot be read") from error
        written = config.get("format", 1) if isinstance(config, dict) else None
        if written != FORMAT:
            raise RunError(
                f"{self.path} has format {written}, and this LEMoE Lab reads format {FORMAT}; "
                "resume it with the version that wrote it, or run it again"
            )
        return config

    def calibration(self) -> dict[str, Tensor]:
        return self._tensors(self._step_file(0, "safetensors"), self.config()["calibration"])

    # Steps

    @property
    def committed(self) -> Journal:
        """What the journal says; read once, then kept up to date."""
        if self._journal is None:
            self._journal = Journal(self.path / JOURNAL, self._repair)
        return self._journal

    def journal(self) -> list[Entry]:
        """One entry for every committed batch."""
        return self.committed.entries[1:]

    def append(
        self,
        step: int,
        state: dict[str, Tensor],
        table: pd.DataFrame,
        report: dict,
        evaluated: pd.DataFrame | None = None,
    ) -> None:
        """Write one applied batch, then commit it, with its evaluation, in the journal."""
        tensors, rows = self._step_file(step, "safetensors"), self._step_file(step, "parquet")
        write_tensors(tensors, state)
        write_table(rows, table)
        line = {"step": step, "tensors": file_hash(tensors), "metrics": file_hash(rows)} | report
        evaluation = [] if evaluated is None else [self._write_evaluation(step, evaluated)]
        self.committed.append(line, *evaluation)

    def evaluate(self, step: int, table: pd.DataFrame) -> None:
        """Write what was measured of all batches after a step, then commit it likewise."""
        older = self.committed.entries[step].evaluated
        line = self._write_evaluation(step, table)
        self.committed.append(line)
        if older and older["file"] != line["file"]:
            (self.path / STEPS / older["file"]).unlink(missing_ok=True)

    def _write_evaluation(self, step: int, table: pd.DataFrame) -> dict:
        """Write a table beside those that count already; what the journal is to say of it."""
        content = io.BytesIO()
        table.to_parquet(content, index=False)
        digest = hashlib.sha256(content.getvalue()).hexdigest()
        path = self._step_file(step, f"{digest[:12]}.parquet")
        write_atomically(path, lambda temporary: temporary.write_bytes(content.getvalue()))
        return {"evaluated": step, "file": path.name, "metrics": digest}

    def truncate_journal(self, steps: int) -> None:
        """Let the run end after this many batches; what was written of all together is void."""
        if steps < self.committed.steps:
            for name in (WHOLE, *TOGETHER):
                (self.path / name).unlink(missing_ok=True)
            self.committed.append({"undone_to": steps})

    def step(self, entry: Entry) -> tuple[dict[str, Tensor], pd.DataFrame]:
        """Tensors and immediate measurements of a committed step, checked against their hashes."""
        number, line = entry.step["step"], entry.step
        return (
            self._tensors(self._step_file(number, "safetensors"), line["tensors"]),
            self._table(self._step_file(number, "parquet"), line["metrics"]),
        )

    def evaluated(self, entry: Entry) -> pd.DataFrame | None:
        """The measurements of all batches up to a committed step, if they were made."""
        line = entry.evaluated
        return line and self._table(self.path / STEPS / line["file"], line["metrics"])

    # All steps together

    def finish(self, state: dict[str, Tensor], table: pd.DataFrame) -> None:
        """Write the whole adaptor and all measurements, each as one file."""
        record = self.path / WHOLE
        record.unlink(missing_ok=True)  # until both files are there, neither is vouched for
        adaptor, metrics = (self.path / name for name in TOGETHER)
        write_tensors(adaptor, state)
        write_table(metrics, table)
        write_json(record, {path.name: file_hash(path) for path in (adaptor, metrics)})

    def check_whole(self) -> None:
        """Raise :class:`RunError` if a file of :meth:`finish` is not what it wrote."""
        record = self.path / WHOLE
        if record.exists():
            for name, expected in self._read(record, json.loads).items():
                self._read(self.path / name, lambda _: None, expected)

    # Files

    def _step_file(self, step: int, suffix: str) -> Path:
        return self.path / STEPS / f"{step:04d}.{suffix}"

    def _tensors(self, path: Path, expected: str) -> dict[str, Tensor]:
        return self._read(path, load, expected)

    def _table(self, path: Path, expected: str) -> pd.DataFrame:
        return self._read(path, lambda content: pd.read_parquet(io.BytesIO(content)), expected)

    def _read(self, path: Path, read: Callable, expected: str | None = None) -> object:
        """What ``read`` makes of a file's bytes; the file is not open any more when they are."""
        try:
            content = path.read_bytes()
            if expected not in (None, hashlib.sha256(content).hexdigest()):
                raise ValueError("its content is not what was saved")
            return read(content)
        except Exception as error:
            raise RunError(
                f"{path} is damaged or missing ({error}); "
                f"EditSession.resume({str(self.path)!r}, repair=True) goes back to the last step "
                "that is whole"
            ) from error
