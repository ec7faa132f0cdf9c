"""A lifelong run: host, editor and stream, that can step, undo, jump, save and resume.

with EditSession(host, LEMoE(), stream) as session:
    session.run()
    session.metrics
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pandas as pd
from torch import Tensor
from tqdm.auto import tqdm

from . import editors, evaluation, metrics
from .checking import check_batch, check_stream
from .editors.base import ConfigError, Editor, OnStep, TrainingReport
from .edits import Edit, EditError, EditStream
from .files.export import export_session
from .files.recording import Record, Recording, find_host, load_evaluation, load_record
from .files.run import RunError, RunFolder
from .host import Host
from .host.surroundings import ordinary
from .memory.estimate import warn_if_too_large
from .memory.peak import PeakMemory


class EditSession:
    """One lifelong run.

    While it is open, ``host.generate`` and ``host.model.generate`` answer with the edits applied;
    after :meth:`close` (or the ``with`` block) the host is as it was.

    Parameters
    ----------
    host, editor, stream
        Who is edited, how, and with what. An editor belongs to one session at a time.
    folder
        If given, every step is written there as soon as it is done.
    overwrite
        Let this run take the place of an older one in ``folder``.
    progress
        Show progress bars in :meth:`run` and :meth:`jump`.
    immediate
        Which metrics of a batch :meth:`step` measures; :meth:`evaluate` measures all.

    Attributes
    ----------
    records
        A :class:`~lemoe_lab.files.recording.Record` of the unedited host, and one of every applied
        batch.
    reports
        One dict for every applied batch: ``losses`` and ``experts`` as in
        :class:`~lemoe_lab.editors.base.TrainingReport`, ``train_seconds``, ``evaluate_seconds``,
        and ``peak_bytes``, the memory that learning took beyond what was held before.

    Raises
    ------
    EditError
        If an edit does not fit the host: too long, or already what the host says.
    RuntimeError
        If another open session edits this host.
    RunError
        If ``folder`` holds another run, or cannot be written.
    """

    def __init__(
        self,
        host: Host,
        editor: Editor,
        stream: EditStream,
        folder: str | Path | None = None,
        progress: bool = True,
        immediate: Sequence[str] = metrics.METRICS,
        overwrite: bool = False,
    ) -> None:
        self.host, self.editor, self.stream = host, editor, stream
        self.progress, self.immediate = progress, tuple(immediate)
        host.require_free()
        if folder is not None:
            RunFolder(folder).require_room(overwrite)
        check_stream(host, stream)
        warn_if_too_large(host, editor, stream)
        self._start()
        if folder is not None:
            with self._closed_on_error():
                self.save(folder, overwrite=overwrite)

    def _start(self, calibration: dict[str, Tensor] | None = None) -> None:
        self.editor.attach(self.host, self.stream, calibration)
        self.evaluator = evaluation.Evaluator(self.host, self.editor)
        self._applied = 0  # the session's place among its records; `at` moves the editor alone
        self._records = [Record({}, [])]  # those past it belong to batches that were undone
        self._recording: Recording | None = None
        self._open = True

    def __enter__(self) -> EditSession:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return (
            f"EditSession({self.editor.name} on {self.host.name}, "
            f"{self.steps} of {len(self.stream)} batches applied)"
        )

    @property
    def steps(self) -> int:
        """How many batches are applied."""
        return self.editor.steps

    @property
    def redoable(self) -> int:
        """How many undone batches :meth:`redo` can bring back."""
        return len(self._records) - 1 - self._applied

    @property
    def records(self) -> list[Record]:
        """What is known of the unedited host, and of every applied batch."""
        return self._records[: self._applied + 1]

    @property
    def is_open(self) -> bool:
        """Whether the host is this session's; False once it was closed."""
        return self._open

    @property
    def metrics(self) -> pd.DataFrame:
        """One row per measurement: step, batch, edit, metric, group, scorer, value."""
        return metrics.table_of(row for record in self.records for row in record.rows)

    @property
    def reports(self) -> list[dict]:
        """What learning each applied batch took, see above."""
        return [record.report for record in self.records[1:]]

    # Moving through the stream

    def step(
        self, on_step: OnStep | None = None, checkpoint: evaluation.Checkpoint | None = None
    ) -> TrainingReport:
        """Learn the next batch and measure it.

        ``on_step`` is called at every optimiser step, ``checkpoint`` between two parts of the
        measuring. If either raises, or the step is interrupted, the session stays at the last
        whole step.
        """
        self._require_open()
        if self.steps == len(self.stream):
            raise EditError(
                f"all {len(self.stream)} batches are applied; undo some or start a longer stream"
            )
        batch = self.stream.batches[self.steps]
        started = time.perf_counter()
        with PeakMemory(self.host.device) as memory:
            report = self.editor.edit(batch, on_step)
        trained = time.perf_counter()
        try:
            applied = self.stream.batches[: self.steps]
            rows = self.evaluator.measure(
                batch, self.steps, self.immediate, checkpoint, applied=applied
            )
        except BaseException:
            self.editor.undo()
            self._forget_undone()
            raise
        cost = {
            "train_seconds": trained - started,
            "evaluate_seconds": time.perf_counter() - trained,
            "peak_bytes": memory.bytes,
        }
        shown = {"losses": report.losses, "experts": report.experts}
        self._forget_undone()
        self._records.append(Record(shown | cost, rows))
        self._applied += 1
        self._write()
        return report

    def undo(self) -> None:
        """Take the last batch back, exactly, with its measurements."""
        self._require_open()
        self.editor.undo()
        self._applied -= 1
        self._write()

    def redo(self) -> None:
        """Apply the batch that was last undone again, exactly, without training."""
        self._require_open()
        if not self.redoable:
            raise EditError("nothing to redo: no batch was undone since the last step")
        self.editor.redo()
        self._applied += 1
        self._write()

    def _forget_undone(self) -> None:
        del self._records[self._applied + 1 :]

    def _write(self) -> None:
        """Bring the run folder, if there is one, up to what is applied and measured."""
        if self._recording:
            self._recording.update(self)

    def jump(self, step: int) -> None:
        """Undo, redo or learn batches until ``step`` of them are applied."""
        if not 0 <= step <= len(self.stream):
            raise EditError(f"step must lie between 0 and {len(self.stream)}, not {step}")
        while self.steps > step:
            self.undo()
        while self.steps < step and self.redoable:
            self.redo()
        remaining = range(self.steps, step)
        for _ in tqdm(remaining, desc=self.editor.name, disable=not self.progress or not remaining):
            self.step()

    def run(self) -> pd.DataFrame:
        """Learn all remaining batches, then measure everything once more; the metrics table."""
        self.jump(len(self.stream))
        self.evaluate()
        return self.metrics

    # Measuring

    def evaluate(self, wanted: Sequence[str] | None = None) -> pd.DataFrame:
        """Measure all applied batches (before the first step: all batches, unedited).

        ``wanted`` names the metrics, None means all; the metrics table is returned.
        """
        wanted = metrics.METRICS if wanted is None else wanted
        self._require_open()
        step = self.steps
        batches = self.stream.batches[:step] if step else self.stream.batches
        rows = self.evaluator.measure(batches, step, wanted)
        record = self._records[step]
        others = [row for row in record.rows if row.metric not in wanted]
        self._records[step] = replace(record, evaluated=others + rows)
        if self._recording:
            self._recording.update(self)
            self._recording.finish(self)
        return self.metrics

    def forgetting_matrix(self) -> pd.DataFrame:
        """Reliability of every batch t after every batch t' >= t, in the columns of ``metrics``.

        Walks back through the run and forward again; the session ends where it was.
        """
        self._require_open()
        rows, last = [], self.steps
        for step in tqdm(range(last, 0, -1), desc="forgetting", disable=not self.progress):
            with self.at(step):
                batches = self.stream.batches[:step]
                rows += self.evaluator.measure(batches, step, ["reliability"])
        return metrics.table_of(sorted(rows))

    @contextmanager
    def at(self, step: int) -> Iterator[EditSession]:
        """Let the host answer as after ``step`` batches, without touching metrics or files.

        Only steps that were learned and not replaced can be visited; the session ends where it was.
        """
        self._require_open()
        last = self.steps
        known = last + self.redoable
        if not 0 <= step <= known:
            raise EditError(f"only steps 0 to {known} were learned so far, not {step}")
        try:
            self._move_editor(step)
            yield self
        finally:
            self._move_editor(last)

    def _move_editor(self, step: int) -> None:
        while self.editor.steps > step:
            self.editor.undo()
        while self.editor.steps < step:
            self.editor.redo()

    # Growing

    def add_batch(self, edits: Sequence[Edit], at: int | None = None) -> None:
        """Put a batch of edits into the stream after its first ``at`` batches; None: at its end.

        Raises
        ------
        EditError
            If an edit does not fit the host, or the place lies among the applied batches.
        """
        at = len(self.stream) if at is None else at
        if not self.steps <= at <= len(self.stream):
            raise EditError(
                f"a batch can join after {self.steps} to {len(self.stream)} batches, not after "
                f"{at}; undo batches first to go further back"
            )
        stream = self.stream.with_batch(edits, at)
        check_batch(self.host, stream.batches[at])
        self.stream = stream
        if at < self.steps + self.redoable:
            self._forget_undone()
        self._write()

    # Files

    def save(self, folder: str | Path, follow: bool = True, overwrite: bool = False) -> None:
        """Write the run; from now on every step is written there as soon as it is done.

        Without ``follow`` the folder is a copy of this moment, and later steps leave it alone.
        ``overwrite`` lets it take the place of another run in that folder, which at any instant
        is one of the two, whole.

        Raises
        ------
        RunError
            If the folder holds another run or other files, or cannot be written.
        """
        self._require_open()
        if self._recording and self._recording.is_in(folder):
            self._recording.update(self)
            self._recording.finish(self)
            return
        with RunFolder.new(folder, overwrite) as run:
            recording = Recording.begun(run, self)
            recording.update(self)
            recording.finish(self)
        if follow:
            self._recording = recording

    def export(self, path: str | Path) -> None:
        """Write what is applied now as a folder for others, in the layout of PEFT.

        :func:`lemoe_lab.load_adaptor` puts it onto the same base model in plain transformers code.
        The folder holds what answers, settings and a model card with the measurements so far, but
        neither texts of edits nor what only learning needs. An earlier export there is replaced.

        Raises
        ------
        EditError
            If no batch is applied.
        RunError
            If the folder cannot be written, or holds anything else.
        """
        self._require_open()
        export_session(path, self.host, self.editor, self.stream, self.metrics)

    @classmethod
    def resume(
        cls, folder: str | Path, host: Host | None = None, repair: bool = False
    ) -> EditSession:
        """Open a saved run where it stopped.

        Parameters
        ----------
        host
            The host to edit; by default the one that the run names is loaded.
        repair
            If a step's files are damaged, go back to the last step before it instead of failing.

        Raises
        ------
        RunError
            If a file is damaged, or the host is not the one that was edited, has another chat
            template, or is not found.
        """
        run = RunFolder(folder, repair)
        config = run.config()
        encoding = config["host"].get("encoding", {})
        host = find_host(config["host"], run) if host is None else host
        if host.fingerprint() != config["host"]["fingerprint"]:
            raise RunError(
                f"{folder} edits the host {config['host']['name']!r}, whose weights are not those "
                f"of {host.name!r}; pass the host that the run was made with"
            )
        if difference := host.encoding.difference(encoding):
            raise RunError(f"the run {folder} {difference}; leave out host=, or load it like that")
        session = cls.__new__(cls)
        try:
            kind = editors.by_name(config["editor"]["class"])
        except ConfigError as error:
            raise RunError(f"the run {folder} cannot go on: {error}") from error
        editor = kind(**config["editor"]["settings"])
        session.host, session.editor, session.progress = host, editor, True
        session.immediate = tuple(config["immediate"])
        session.stream = EditStream.model_validate(config["stream"])
        session._start(run.calibration())
        with session._closed_on_error():
            session._load(run, repair)
        return session

    def _load(self, run: RunFolder, repair: bool) -> None:
        try:
            run.check_whole()
        except RunError:
            if not repair:
                raise
        evaluated = load_evaluation(run, run.committed.entries[0], repair)
        self._records = [Record({}, [], evaluated)]
        for entry in run.journal():
            try:
                state, record = load_record(run, entry, repair)
            except RunError:
                if not repair:
                    raise
                run.truncate_journal(self.steps)
                break
            with ordinary(self.host.model):
                self.editor.load_step_state(self.steps + 1, state)
            self._records.append(record)
            self._applied += 1
        self._recording = Recording(run, self.stream, self.records)

    @contextmanager
    def _closed_on_error(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Give the host back as it was; closing again does nothing."""
        if self._open:
            self.editor.detach()
            self._open = False

    def _require_open(self) -> None:
        if not self._open:
            raise RuntimeError("this session is closed; make a new one or resume a saved run")
