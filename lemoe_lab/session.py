"""A lifelong run: host, editor and stream, that can step, undo, jump, save and resume.

with EditSession(host, LEMoE(), stream) as session:
    session.run()
    session.metrics
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from torch import Tensor
from tqdm.auto import tqdm

from . import editors, evaluation, metrics
from .editors.base import Editor, OnStep, TrainingReport
from .edits import Edit, EditBatch, EditError, EditStream, normalise
from .estimate import warn_if_too_large
from .exporting import export_session
from .host import Host, load_host
from .memory import PeakMemory
from .storage import RunError, RunFolder
from .surroundings import ordinary

REPORTED = ("losses", "experts", "train_seconds", "evaluate_seconds", "peak_bytes")


ANY_ANSWER = "?"  # stands for what the unedited host will say to a locality prompt


@dataclass
class _Undone:
    """What redo brings back beside the editor's own state."""

    rows: list[tuple]
    report: dict


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
    progress
        Show progress bars in :meth:`run` and :meth:`jump`.
    immediate
        Which metrics of a batch :meth:`step` measures; :meth:`evaluate` measures all.

    Attributes
    ----------
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
    """

    def __init__(
        self,
        host: Host,
        editor: Editor,
        stream: EditStream,
        folder: str | Path | None = None,
        progress: bool = True,
        immediate: Sequence[str] = metrics.METRICS,
    ) -> None:
        self.host, self.editor, self.stream = host, editor, stream
        self.progress, self.immediate = progress, tuple(immediate)
        host.require_free()
        check_stream(host, stream)
        warn_if_too_large(host, editor, stream)
        self._start()
        if folder is not None:
            self.save(folder)

    def _start(self, calibration: dict[str, Tensor] | None = None) -> None:
        self.editor.attach(self.host, self.stream, calibration)
        self.evaluator = evaluation.Evaluator(self.host, self.editor)
        self.reports: list[dict] = []
        self._rows: list[tuple] = []
        self._undone: list[_Undone] = []
        self._folder: RunFolder | None = None
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
        return len(self._undone)

    @property
    def is_open(self) -> bool:
        """Whether the host is this session's; False once it was closed."""
        return self._open

    @property
    def metrics(self) -> pd.DataFrame:
        """One row per measurement: step, batch, edit, metric, group, scorer, value."""
        return pd.DataFrame(self._rows, columns=metrics.COLUMNS)

    # Moving through the stream

    def step(
        self, on_step: OnStep | None = None, between: evaluation.Between | None = None
    ) -> TrainingReport:
        """Learn the next batch and measure it.

        ``on_step`` is called at every optimiser step, ``between`` between two parts of the
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
            rows = self.evaluator.measure(batch, self.steps, self.immediate, between)
        except BaseException:
            self.editor.undo()
            self._undone.clear()
            raise
        cost = {
            "train_seconds": trained - started,
            "evaluate_seconds": time.perf_counter() - trained,
            "peak_bytes": memory.bytes,
        }
        self._undone.clear()
        self._commit(rows, {"losses": report.losses, "experts": report.experts} | cost)
        return report

    def _commit(self, rows: list[tuple], report: dict) -> None:
        self._rows += rows
        self.reports.append(report)
        self._write_missing_steps()

    def _write_missing_steps(self) -> None:
        """Bring the run folder, if there is one, up to the applied batches."""
        if self._folder is None:
            return
        for step in range(len(self._folder.journal()) + 1, self.steps + 1):
            rows = [row for row in self._rows if row[0] == row[1] == step]
            table = pd.DataFrame(rows, columns=metrics.COLUMNS)
            report = self.reports[step - 1]
            self._folder.append(step, self.editor.step_state(step), table, report)

    def undo(self) -> None:
        """Take the last batch back, exactly, with its measurements."""
        self._require_open()
        self.editor.undo()
        immediate = [r for r in self._rows if r[0] == r[1] == self.steps + 1]
        self._undone.append(_Undone(immediate, self.reports.pop()))
        self._rows = [row for row in self._rows if row[0] <= self.steps]
        if self._folder:
            self._folder.truncate_journal(self.steps)

    def redo(self) -> None:
        """Apply the batch that was last undone again, exactly, without training."""
        self._require_open()
        if not self._undone:
            raise EditError("nothing to redo: no batch was undone since the last step")
        self.editor.redo()
        undone = self._undone.pop()
        self._commit(undone.rows, undone.report)

    def jump(self, step: int) -> None:
        """Undo, redo or learn batches until ``step`` of them are applied."""
        if not 0 <= step <= len(self.stream):
            raise EditError(f"step must lie between 0 and {len(self.stream)}, not {step}")
        while self.steps > step:
            self.undo()
        while self.steps < step and self._undone:
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
        others = [row for row in self._rows if row[0] != step or row[3] not in wanted]
        self._rows = others + rows
        if self._folder:
            self._folder.finish(self.editor.state_dict(), self.metrics)
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
        return pd.DataFrame(sorted(rows), columns=metrics.COLUMNS)

    @contextmanager
    def at(self, step: int) -> Iterator[EditSession]:
        """Let the host answer as after ``step`` batches, without touching metrics or files.

        Only steps that were learned and not replaced can be visited; the session ends where it was.
        """
        self._require_open()
        last = self.steps
        known = last + len(self._undone)
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
            self._undone.clear()
        if self._folder:
            self._folder.describe(self._config())

    # Files

    def save(self, folder: str | Path, follow: bool = True) -> None:
        """Write the run; from now on every step is written there as soon as it is done.

        Without ``follow`` the folder is a copy of this moment, and later steps leave it alone.
        """
        self._require_open()
        run, followed = RunFolder(folder), self._folder
        if followed is None or followed.path != run.path:
            run.start(self._config(), self.editor.step_state(0))
            self._folder = run
        try:
            self._write_missing_steps()
            run.finish(self.editor.state_dict(), self.metrics)
        finally:
            if not follow:
                self._folder = followed

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

    def _config(self) -> dict:
        with self.editor.unedited():
            fingerprint = self.host.fingerprint()
        return {
            "host": {
                "name": self.host.name,
                "fingerprint": fingerprint,
                "encoding": self.host.encoding.options,
            },
            "editor": {
                "class": type(self.editor).__name__,
                "settings": self.editor.config.model_dump(mode="json"),
            },
            "stream": self.stream.model_dump(mode="json"),
            "immediate": self.immediate,
        }

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
            If a file is damaged, or the host is not the one that was edited or has another chat
        template.
        """
        run = RunFolder(folder)
        config = run.config()
        encoding = config["host"].get("encoding", {})
        host = host or load_host(config["host"]["name"], **encoding)
        if host.fingerprint() != config["host"]["fingerprint"]:
            raise RunError(
                f"{folder} edits the host {config['host']['name']!r}, whose weights are not those "
                f"of {host.name!r}; pass the host that the run was made with"
            )
        if difference := host.encoding.difference(encoding):
            raise RunError(f"the run {folder} {difference}; leave out host=, or load it like that")
        session = cls.__new__(cls)
        editor = getattr(editors, config["editor"]["class"])(**config["editor"]["settings"])
        session.host, session.editor, session.progress = host, editor, True
        session.immediate = tuple(config["immediate"])
        session.stream = EditStream.model_validate(config["stream"])
        session._start(run.calibration())
        try:
            session._load(run, repair)
        except BaseException:
            session.close()
            raise
        return session

    def _load(self, run: RunFolder, repair: bool) -> None:
        whole = None
        try:
            whole = run.check_whole()
        except RunError:
            if not repair:
                raise
        for entry in run.journal():
            try:
                state, table = run.step(entry)
            except RunError:
                if not repair:
                    raise
                run.truncate_journal(self.steps)
                break
            with ordinary(self.host.model):
                self.editor.load_step_state(entry["step"], state)
            self._rows += list(table.itertuples(index=False, name=None))
            self.reports.append({key: entry[key] for key in REPORTED})
        if whole is not None and not whole.empty and whole["step"].max() == self.steps:
            self._rows = list(whole.itertuples(index=False, name=None))
        self._folder = run

    def close(self) -> None:
        """Give the host back as it was; closing again does nothing."""
        if self._open:
            self.editor.detach()
            self._open = False

    def _require_open(self) -> None:
        if not self._open:
            raise RuntimeError("this session is closed; make a new one or resume a saved run")


def check_stream(host: Host, stream: EditStream) -> None:
    """Raise :class:`EditError` for the first edit that this host cannot or need not learn."""
    for batch in stream:
        check_batch(host, batch)
    for edit in known_edits(host, stream):
        raise EditError(
            f"edit {edit.id!r}: the host already answers {edit.prompt!r} with {edit.target!r}; "
            "drop the edit or change its target; drop_known(host, stream) drops all such edits"
        )


def check_batch(host: Host, batch: EditBatch) -> None:
    """Raise :class:`EditError` for the first edit with a question that this host cannot read."""
    for edit in batch:
        asked = [(edit.prompt, edit.target)]
        asked += [(rephrase.prompt, edit.target) for rephrase in edit.rephrases]
        asked += [(other.prompt, other.target or ANY_ANSWER) for other in edit.locality]
        for prompt, target in asked:
            try:
                if host.encoding.most_tokens(prompt, target) >= host.context:
                    host.encode(prompt, target)
            except EditError as error:
                raise EditError(f"edit {edit.id!r}: {error}") from error


def known_edits(host: Host, stream: EditStream) -> list[Edit]:
    """Edits whose target the unedited host already says, unless they revise an earlier edit."""
    edits = stream.edits
    scores = host.score([edit.prompt for edit in edits], [edit.target for edit in edits])
    known, seen = [], set()
    for edit, score in zip(edits, scores, strict=True):
        if score.reproduced and normalise(edit.prompt) not in seen:
            known.append(edit)
        seen.add(normalise(edit.prompt))
    return known


def drop_known(host: Host, stream: EditStream) -> EditStream:
    """The stream without edits that the host already answers; the same object if there are none.

    Batches may become shorter by it, and one without any edit left goes.
    """
    known = {edit.id for edit in known_edits(host, stream)}
    if not known:
        return stream
    groups = [[edit for edit in batch if edit.id not in known] for batch in stream]
    return stream.with_groups([group for group in groups if group])
