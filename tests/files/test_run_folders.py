"""Runs on disk, below the session: journals that only grow, folders that change at once."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pandas as pd
import pytest
import torch

from lemoe_lab import RunError
from lemoe_lab.files import folders
from lemoe_lab.files.folders import recover, replaced, write_atomically
from lemoe_lab.files.journal import Journal
from lemoe_lab.files.run import RunFolder

ROWS = pd.DataFrame({"value": [1.0, 0.5]})
CONFIG = {
    "editor": {"class": "GRACE"},
    "host": {"name": "almanac"},
    "stream": {"batches": [{}, {}, {}]},
}


class Stopped(BaseException):
    """The process ends here."""


def stop_at(monkeypatch, module: object, name: str, call: int) -> None:
    """End the process at one call of a function, before it does anything."""
    real, calls = getattr(module, name), []

    def counted(*arguments: object, **named: object) -> object:
        calls.append(None)
        if len(calls) == call:
            raise Stopped
        return real(*arguments, **named)

    monkeypatch.setattr(module, name, counted)


def filled(path: Path, steps: int) -> RunFolder:
    """A new run of so many steps, each with a tensor of its own."""
    with RunFolder.new(path) as run:
        run.start(CONFIG, {})
    for step in range(1, steps + 1):
        run.append(step, {"weight": torch.full((4,), float(step))}, ROWS, {})
    return run


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "run"


# The journal


def test_a_step_adds_one_line_and_leaves_the_older_ones_alone(path):
    run = filled(path, steps=2)
    before = (path / "journal.jsonl").read_bytes()
    run.append(3, {}, ROWS, {})
    after = (path / "journal.jsonl").read_bytes()
    assert after.startswith(before)
    assert after[len(before) :].count(b"\n") == 1


def test_what_a_step_writes_does_not_grow_with_the_steps_before_it(path, monkeypatch):
    run, written = filled(path, steps=1), []
    real = os.fsync
    monkeypatch.setattr(
        os, "fsync", lambda file: (written.append(os.fstat(file).st_size), real(file))
    )
    counts = []
    for step in range(2, 40):
        written.clear()
        run.append(step, {"weight": torch.zeros(4)}, ROWS, {})
        counts.append(len(written))
    assert len(set(counts)) == 1


def test_undone_steps_are_gone_when_the_journal_is_read_again(path):
    run = filled(path, steps=3)
    run.truncate_journal(1)
    run.append(2, {"weight": torch.zeros(4)}, ROWS, {"losses": [7]})
    again = RunFolder(path)
    assert [entry.step["step"] for entry in again.journal()] == [1, 2]
    state, _ = again.step(again.journal()[1])
    assert state["weight"].tolist() == [0.0] * 4


@pytest.mark.parametrize("left", [1, 20, -1])
def test_a_line_that_was_cut_off_is_no_step_and_the_next_one_takes_its_place(path, left):
    filled(path, steps=2)
    journal = path / "journal.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(lines[0] + lines[1][:left])
    run = RunFolder(path)
    assert len(run.journal()) == 1
    assert len(RunFolder(path).journal()) == 1  # looking changes nothing
    run.append(2, {}, ROWS, {})
    assert len(RunFolder(path).journal()) == 2


@pytest.mark.parametrize(
    "damage", [b"nonsense\n", b'{"step": 7}\n', b'{"undone_to": 5}\n', b"[]\n"]
)
def test_a_damaged_line_is_named_and_repair_takes_those_before_it(path, damage):
    filled(path, steps=3)
    journal = path / "journal.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(lines[0] + damage + lines[2])
    with pytest.raises(RunError, match="line 2"):
        RunFolder(path).journal()
    repaired = RunFolder(path, repair=True)
    assert len(repaired.journal()) == 1
    repaired.append(2, {}, ROWS, {})
    assert len(RunFolder(path).journal()) == 2


def test_a_line_that_cannot_be_written_leaves_the_journal_as_it_was(path, monkeypatch):
    run = filled(path, steps=1)
    before = (path / "journal.jsonl").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left")))
        with pytest.raises(RunError, match="No space left"):
            run.committed.append({"undone_to": 0})
    assert (path / "journal.jsonl").read_bytes() == before
    assert len(run.journal()) == 1
    run.committed.append({"undone_to": 0})
    assert RunFolder(path).journal() == []


def test_two_writers_of_one_run_do_not_mix_their_steps(path):
    one = filled(path, steps=1)
    other = RunFolder(path)
    other.append(2, {}, ROWS, {"losses": ["theirs"]})
    with pytest.raises(RunError, match="somebody else"):
        one.committed.append({"undone_to": 0})
    assert len(RunFolder(path).journal()) == 2


def test_a_journal_that_was_never_begun_is_empty(tmp_path):
    assert Journal(tmp_path / "journal.jsonl").steps == 0


# Evaluations


def test_an_evaluation_goes_with_the_step_that_is_undone(path):
    run = filled(path, steps=2)
    run.evaluate(1, ROWS)
    run.evaluate(2, ROWS * 2)
    run.truncate_journal(1)
    again = RunFolder(path)
    assert again.evaluated(again.journal()[0]).equals(ROWS)
    run.append(2, {}, ROWS, {})
    again = RunFolder(path)
    assert again.evaluated(again.journal()[1]) is None


def test_an_evaluation_that_was_not_committed_leaves_the_older_one_whole(path, monkeypatch):
    run = filled(path, steps=1)
    run.evaluate(1, ROWS)
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        stop_at(patch, Journal, "append", 1)
        run.evaluate(1, ROWS * 2)
    again = RunFolder(path)
    assert again.evaluated(again.journal()[0]).equals(ROWS)


def test_undoing_voids_the_files_of_all_steps_together(path):
    run = filled(path, steps=2)
    run.finish({}, ROWS)
    run.truncate_journal(1)
    assert sorted(entry.name for entry in path.iterdir()) == [
        "config.json",
        "journal.jsonl",
        "steps",
    ]


# Folders that change at once


@pytest.mark.parametrize("call", [1, 2, 3])
@pytest.mark.parametrize("function", ["replace", "fsync"])
def test_a_folder_is_the_old_or_the_new_one_wherever_its_replacement_stops(
    tmp_path, monkeypatch, function, call
):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "old").write_text("old")
    with monkeypatch.context() as patch:
        stop_at(patch, os, function, call)
        try:
            with replaced(folder) as staging:
                write_atomically(staging / "new", lambda file: file.write_text("new"))
        except Stopped:
            pass
    recover(folder)
    assert [(file.name, file.read_text()) for file in folder.iterdir()] in (
        [("old", "old")],
        [("new", "new")],
    )
    with replaced(folder) as staging:
        write_atomically(staging / "newest", lambda file: file.write_text(""))
    assert [entry.name for entry in tmp_path.iterdir()] == ["run"]


def test_a_folder_that_cannot_be_moved_stays_and_the_error_says_what_to_do(tmp_path, monkeypatch):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "old").write_text("old")
    real = os.replace

    def in_use(source: Path, target: Path) -> None:
        if Path(target) == folder:
            raise PermissionError(13, "in use by another process")
        real(source, target)

    monkeypatch.setattr(os, "replace", in_use)
    with (
        pytest.raises(RunError, match=r"in use.*choose another folder"),
        replaced(folder) as staging,
    ):
        write_atomically(staging / "new", lambda file: file.write_text("new"))
    monkeypatch.setattr(os, "replace", real)
    recover(folder)
    assert [entry.name for entry in folder.iterdir()] == ["old"]


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize(
    "name", ["notes.txt", "config.json", "figures"], ids=["a note", "a model", "a folder"]
)
def test_other_files_are_never_replaced(path, name, overwrite):
    path.mkdir()
    (path / name).mkdir() if name == "figures" else (path / name).write_text("{}")
    with pytest.raises(RunError, match="other things"), RunFolder.new(path, overwrite):
        pass
    assert (path / name).exists()


def test_a_run_with_other_files_beside_it_is_not_replaced(path):
    filled(path, steps=1)
    (path / "notes.txt").write_text("mine")
    with pytest.raises(RunError, match="notes.txt"), RunFolder.new(path, overwrite=True):
        pass
    assert (path / "notes.txt").read_text() == "mine"


def test_a_file_is_no_folder(path):
    path.write_text("mine")
    with pytest.raises(RunError, match="a file"), RunFolder.new(path, overwrite=True):
        pass


def test_an_empty_folder_may_be_used(path):
    path.mkdir()
    assert len(filled(path, steps=1).journal()) == 1


def test_a_run_stays_where_it_was_when_the_process_goes_elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = filled(Path("here/run"), steps=1)
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path / "there")
    run.append(2, {}, ROWS, {})
    assert len(RunFolder(tmp_path / "here" / "run").journal()) == 2
    assert list((tmp_path / "there").iterdir()) == []


def test_a_run_of_another_format_is_refused(path):
    filled(path, steps=1)
    config = json.loads((path / "config.json").read_text())
    del config["format"]
    (path / "config.json").write_text(json.dumps(config))
    with pytest.raises(RunError, match="format 1.*run it again"):
        RunFolder(path).config()


# Systems that cannot sync a folder, or keep open files in place


def test_where_folders_cannot_be_opened_files_are_written_all_the_same(path, monkeypatch):
    real = os.open

    def opened(path: str, *arguments: int, **named: int) -> int:
        if os.path.isdir(path):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *arguments, **named)

    monkeypatch.setattr(folders.os, "open", opened)
    run = filled(path, steps=2)
    run.finish({}, ROWS)
    assert len(RunFolder(path).journal()) == 2


def test_no_file_is_open_after_it_was_read(path):
    filled(path, steps=1)
    run = RunFolder(path)
    state, _ = run.step(run.journal()[0])
    with open(path / "steps" / "0001.safetensors", "r+b") as file:
        file.write(bytes(200))  # a mapped file would change its tensors
    assert state["weight"].tolist() == [1.0] * 4
