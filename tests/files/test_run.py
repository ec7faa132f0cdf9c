"""A run's folder: what lies in it, when it is written, and what a damaged one says."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pandas as pd
import pytest
import torch
from helpers import spoil
from safetensors.torch import load_file

import lemoe_lab as ll
from lemoe_lab import Edit, EditSession, EditStream, RunError


@pytest.fixture(scope="module")
def bare(stream) -> EditStream:
    """Three batches of two edits; one says something beyond ASCII."""
    groups = [
        [edit.model_copy(update={"rephrases": (), "locality": ()}) for edit in batch.edits[:2]]
        for batch in stream
    ]
    groups[0][0] = groups[0][0].model_copy(update={"target": "Åse Þór"})
    return stream.with_groups(groups)


@pytest.fixture
def session(host, bare):
    with EditSession(host, ll.editors.LEMoE(steps=3), bare, progress=False) as session:
        yield session


@pytest.fixture
def folder(tmp_path) -> Path:
    return tmp_path / "runs" / "demo"


@pytest.fixture
def saved(session, folder) -> Path:
    """A run of two batches on disk, closed."""
    session.jump(2)
    session.save(folder)
    session.close()
    return folder


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def journal(folder: Path) -> list[dict]:
    lines = (folder / "journal.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


# What lies there


def test_a_saved_run_has_its_settings_its_journal_and_every_step(saved):
    whole = {"config.json", "journal.jsonl", "adaptor.safetensors", "metrics.parquet"}
    found = names(saved)
    assert whole <= found
    assert {f"steps/{step:04d}.safetensors" for step in range(3)} <= found
    assert {f"steps/{step:04d}.parquet" for step in (1, 2)} <= found
    assert "steps/0003.safetensors" not in found
    assert not [name for name in found if "tmp" in name]
    assert {Path(name).suffix for name in found} == {".json", ".jsonl", ".safetensors", ".parquet"}


def test_the_settings_name_host_editor_and_stream(saved, host, bare):
    config = json.loads((saved / "config.json").read_text(encoding="utf-8"))
    assert config["host"]["name"] == "almanac"
    assert config["host"]["fingerprint"] == host.fingerprint()
    assert config["editor"]["class"] == "LEMoE"
    assert config["editor"]["settings"]["steps"] == 3
    assert EditStream.model_validate(config["stream"]) == bare
    assert config["immediate"] == ["reliability", "generality", "locality"]


def test_whole_files_hold_all_tensors_and_all_measurements(session, folder):
    session.jump(2)
    session.save(folder)
    state = session.editor.state_dict()
    stored = load_file(folder / "adaptor.safetensors")
    assert stored.keys() == state.keys()
    assert all(torch.equal(stored[name], state[name]) for name in state)
    assert pd.read_parquet(folder / "metrics.parquet").equals(session.metrics)


def test_what_was_measured_at_the_end_is_there_after_resuming(host, session, folder):
    session.save(folder)
    metrics = session.run()
    session.close()
    with EditSession.resume(folder, host) as resumed:
        assert resumed.metrics.equals(metrics)


def test_a_resumed_run_has_the_reports_the_settings_and_the_measured_metrics(host, bare, folder):
    editor = ll.editors.LEMoE(steps=3, intermediate=20)
    immediate = ("reliability",)
    with EditSession(host, editor, bare, folder, progress=False, immediate=immediate) as session:
        session.jump(2)
        reports, metrics = session.reports, session.metrics
    with EditSession.resume(folder, host) as resumed:
        assert resumed.reports == reports
        assert resumed.metrics.equals(metrics)
        assert resumed.editor.config == editor.config
        assert resumed.immediate == immediate
        assert resumed.stream == bare
        assert (resumed.steps, resumed.redoable) == (2, 0)


# When it is written


def test_a_session_with_a_folder_writes_every_step_as_soon_as_it_is_done(host, bare, folder):
    editor = ll.editors.LEMoE(steps=2)
    with EditSession(host, editor, bare, folder, progress=False) as session:
        assert journal(folder) == []
        for step in (1, 2, 3):
            session.step()
            assert [line["step"] for line in journal(folder)] == list(range(1, step + 1))
            table = pd.read_parquet(folder / "steps" / f"{step:04d}.parquet")
            assert set(table["step"]) == set(table["batch"]) == {step}


def test_a_run_saved_late_keeps_apart_what_was_measured_right_after_each_step(session, folder):
    session.jump(2)
    session.evaluate()
    session.save(folder)
    for step in (1, 2):
        table = pd.read_parquet(folder / "steps" / f"{step:04d}.parquet")
        assert set(table["step"]) == set(table["batch"]) == {step}
        assert len(table) == 4  # two edits, two scorers


def test_a_step_in_place_of_an_undone_one_takes_its_place_on_disk(session, host, folder):
    session.save(folder)
    session.jump(2)
    session.undo()
    mine = Edit(id="mine", prompt="The capital of Nowhere is", target="Wilport")
    session.add_batch([mine], at=1)
    session.step()
    state = session.editor.state_dict()
    session.close()
    with EditSession.resume(folder, host) as resumed:
        assert resumed.steps == 2
        assert resumed.stream.batches[1].edits == (mine,)
        again = resumed.editor.state_dict()
        assert all(torch.equal(again[name], tensor) for name, tensor in state.items())


def test_visiting_an_earlier_step_writes_nothing(session, folder):
    session.jump(2)
    session.save(folder)
    before = {name: (folder / name).read_bytes() for name in names(folder)}
    with session.at(1):
        pass
    session.forgetting_matrix()
    assert {name: (folder / name).read_bytes() for name in names(folder)} == before


def test_saving_twice_in_one_place_changes_no_byte(session, folder):
    session.jump(2)
    session.save(folder)
    before = {name: (folder / name).read_bytes() for name in names(folder)}
    session.save(folder)
    assert {name: (folder / name).read_bytes() for name in names(folder)} == before


def test_a_run_replaces_an_older_one_in_the_same_folder(host, bare, saved):
    settings = {"progress": False, "overwrite": True}
    with EditSession(host, ll.editors.LEMoE(steps=2), bare, saved, **settings) as session:
        session.step()
    with EditSession.resume(saved, host) as resumed:
        assert resumed.steps == 1
        assert resumed.editor.config.steps == 2


def test_a_step_that_cannot_be_written_leaves_no_half_file(session, folder, monkeypatch):
    session.save(folder)
    before = names(folder)

    def full(*_: object) -> None:
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(RunError, match="could not write .*0001.safetensors: No space left"):
            session.step()
    assert names(folder) == before
    assert journal(folder) == []
    session.step()
    assert [line["step"] for line in journal(folder)] == [1, 2]


# Damage


@pytest.mark.parametrize("damage", ["truncated", "altered", "missing"])
def test_damaged_calibration_is_named(host, saved, damage):
    spoil(saved / "steps" / "0000.safetensors", damage)
    with pytest.raises(RunError, match="0000.safetensors is damaged or missing"):
        EditSession.resume(saved, host)
    host.require_free()


@pytest.mark.parametrize("name", ["config.json"])
def test_text_that_is_no_json_any_more_is_named(host, saved, name):
    path = saved / name
    path.write_text(path.read_text(encoding="utf-8")[:-20], encoding="utf-8")
    with pytest.raises(RunError, match=f"{name} is damaged"):
        EditSession.resume(saved, host)
    host.require_free()


def test_damaged_measurements_are_named_and_repaired(host, saved):
    spoil(saved / "metrics.parquet", "altered")
    with pytest.raises(RunError, match=r"metrics.parquet is damaged.*repair=True"):
        EditSession.resume(saved, host)
    with EditSession.resume(saved, host, repair=True) as resumed:
        assert resumed.steps == 2
        assert set(resumed.metrics["step"]) == {1, 2}


def test_repair_drops_the_damaged_step_from_the_journal(host, saved):
    spoil(saved / "steps" / "0001.parquet", "truncated")
    with EditSession.resume(saved, host, repair=True) as resumed:
        assert resumed.steps == 0
        assert resumed.metrics.empty and resumed.reports == []
    assert journal(saved)[-1]["undone_to"] == 0
