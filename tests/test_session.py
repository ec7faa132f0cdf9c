"""Sessions: moving through a stream, errors that lose nothing, and runs that survive."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import shutil
import signal
import subprocess
import sys

import pytest
from helpers import spoil

import lemoe_lab as ll
from lemoe_lab import Edit, EditError, EditSession, EditStream, RunError, evaluation, metrics
from lemoe_lab.files import run as storage

SETTINGS = {"steps": 10}

RUN = """
import sys
import lemoe_lab as ll
session = ll.EditSession.resume(sys.argv[1])
session.progress = False
print("ready", flush=True)
session.run()
"""


@pytest.fixture
def session(host, stream):
    with EditSession(host, ll.editors.LEMoE(**SETTINGS), stream, progress=False) as session:
        yield session


@pytest.fixture
def saved(session, tmp_path):
    """A run of two batches on disk, closed."""
    session.jump(2)
    session.save(tmp_path / "run")
    session.close()
    return tmp_path / "run"


def test_metrics_are_tidy(session, stream):
    table = session.run()
    assert tuple(table.columns) == metrics.COLUMNS
    assert table.value.between(0, 1).all()
    assert set(table.step) == {1, 2, 3}
    key = [column for column in table if column != "value"]
    per_prompt = table[table.metric == "reliability"]
    assert not per_prompt.duplicated(key).any()
    assert len(per_prompt[per_prompt.step == 3]) == 2 * len(stream.edits)


def test_unedited_host_is_measured_before_the_first_step(session):
    table = session.evaluate().query("metric == 'reliability' and scorer == 'generated'")
    assert set(table.step) == {0}
    assert table.value.eq(0).all()


def test_step_beyond_the_stream_says_what_to_do(session, stream):
    session.jump(len(stream))
    with pytest.raises(EditError, match="undo some"):
        session.step()


def test_forgetting_matrix_measures_every_batch_after_every_later_step(session):
    session.run()
    before = session.metrics
    matrix = session.forgetting_matrix()
    pairs = set(zip(matrix.step, matrix.batch, strict=True))
    assert pairs == {(after, batch) for after in (1, 2, 3) for batch in range(1, after + 1)}
    assert session.steps == 3
    assert session.metrics.equals(before)


def test_measuring_one_metric_leaves_the_others_as_they_were(session):
    whole = session.run()
    again = session.evaluate(["reliability"])
    assert sorted(again.values.tolist()) == sorted(whole.values.tolist())


def test_what_is_not_wanted_is_not_asked(host, stream, monkeypatch):
    asked = []
    monkeypatch.setattr(evaluation, "base_answers", lambda _, prompts: asked.extend(prompts))
    wanted = ["reliability", "generality"]
    editor = ll.editors.LEMoE(**SETTINGS)
    with EditSession(host, editor, stream, progress=False, immediate=()) as session:
        session.step()
        assert sorted(set(session.evaluate(wanted)["metric"])) == sorted(wanted)
    assert asked == []


def test_interrupted_training_leaves_the_last_whole_step(session):
    session.step()
    before = session.metrics

    def interrupt(step: int, steps: int, loss: float) -> None:
        if step == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        session.step(on_step=interrupt)
    assert session.steps == 1
    assert session.metrics.equals(before)
    session.step()
    assert session.steps == 2


def test_edit_that_the_host_already_knows_is_named(host, stream):
    edit = stream.edits[0]
    known = Edit(id="known", prompt=edit.prompt, target=edit.old_answer)
    with pytest.raises(EditError, match="'known'"):
        EditSession(host, ll.editors.LEMoE(), EditStream.from_edits([known], 1))


def test_edit_longer_than_the_context_is_named(host, stream):
    long = Edit(id="long", prompt="river " * 500, target="sea")
    with pytest.raises(EditError, match="'long'"):
        EditSession(host, ll.editors.LEMoE(), EditStream.from_edits([long], 1))


def test_stream_without_calibration_facts_is_a_clear_error(host, stream):
    bare = stream.model_copy(update={"calibration": ()})
    with pytest.raises(ValueError, match="calibrates"):
        EditSession(host, ll.editors.LEMoE(), bare)


def test_resumed_run_ends_with_the_same_bytes(host, stream, saved, tmp_path):
    with EditSession.resume(saved, host) as resumed:
        resumed.run()
        expected = resumed.metrics
    with EditSession(
        host, ll.editors.LEMoE(**SETTINGS), stream, folder=tmp_path / "whole", progress=False
    ) as whole:
        assert whole.run().equals(expected)
    for name in ("adaptor.safetensors", "metrics.parquet"):
        assert (saved / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_resumed_session_can_undo(host, saved):
    with EditSession.resume(saved, host) as resumed:
        resumed.undo()
        assert resumed.steps == 1
        resumed.redo()
        assert resumed.steps == 2


def test_host_is_edited_by_one_session_at_a_time(host, stream, session):
    with pytest.raises(RuntimeError, match="close that session"):
        EditSession(host, ll.editors.LEMoE(**SETTINGS), stream)
    session.close()
    with EditSession(host, ll.editors.LEMoE(**SETTINGS), stream) as after:
        after.step()


def test_visiting_an_earlier_step_changes_the_answers_and_nothing_else(host, stream, session):
    session.jump(2)
    metrics, asked = session.metrics, [edit.prompt for edit in stream.batches[1]]
    edited = host.generate(asked)
    with session.at(1):
        assert session.steps == 1
        assert host.generate(asked) != edited
    assert session.steps == 2
    assert host.generate(asked) == edited
    assert session.metrics.equals(metrics)


def test_steps_that_were_never_learned_cannot_be_visited(session):
    session.step()
    with pytest.raises(EditError, match="0 to 1"), session.at(2):
        pass


def test_edits_that_the_host_already_knows_can_be_dropped(host, stream):
    edit = stream.edits[0]
    known = Edit(id="known", prompt=edit.prompt, target=edit.old_answer)
    longer = stream.with_batch([known])
    with pytest.raises(EditError, match="drop_known"):
        EditSession(host, ll.editors.LEMoE(), EditStream.from_groups([[known]]))
    assert ll.drop_known(host, EditStream.from_groups([[known], *stream])).edits == stream.edits
    assert ll.drop_known(host, longer) is longer  # it revises an earlier edit
    assert ll.drop_known(host, stream) is stream


def test_an_edit_back_to_the_known_answer_is_kept_in_whatever_words_it_asks(host, stream):
    edit = stream.edits[0]
    back = Edit(
        id="back", prompt=edit.prompt, target=edit.old_answer, subject="Foo", relation="bar"
    )
    away = Edit(id="away", prompt="Foo: bar?", target="Elsewhere", subject="foo", relation="Bar")
    revised = EditStream.from_groups([[away], [back]])
    assert ll.drop_known(host, revised) is revised


@pytest.mark.parametrize("learned", range(3))
def test_killed_run_resumes_to_the_bytes_of_an_undisturbed_one(
    learned, host, session, stream, tmp_path
):
    session.save(tmp_path / "undisturbed")
    session.run()
    session.close()
    with EditSession(host, ll.editors.LEMoE(**SETTINGS), stream, progress=False) as fresh:
        fresh.save(tmp_path / "killed")
    process = subprocess.Popen(
        [sys.executable, "-c", RUN, str(tmp_path / "killed")], stdout=subprocess.PIPE
    )
    process.stdout.readline()
    journal = tmp_path / "killed" / "journal.jsonl"
    while journal.read_bytes().count(b"\n") < learned:
        assert process.poll() is None, "the run ended before it could be killed"
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert learned <= len(storage.RunFolder(tmp_path / "killed").journal()) < len(stream)
    with EditSession.resume(tmp_path / "killed", host) as resumed:
        resumed.progress = False
        resumed.run()
    for name in ("adaptor.safetensors", "metrics.parquet"):
        killed, whole = tmp_path / "killed" / name, tmp_path / "undisturbed" / name
        assert killed.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize("damage", ["truncated", "altered", "missing"])
@pytest.mark.parametrize(
    "name", ["steps/0002.safetensors", "steps/0002.parquet", "adaptor.safetensors"]
)
def test_damaged_file_is_named_and_the_last_good_step_still_loads(host, saved, name, damage):
    path = saved / name
    spoil(path, damage)
    with pytest.raises(RunError, match=path.name):
        EditSession.resume(saved, host)
    with EditSession.resume(saved, host, repair=True) as resumed:
        assert resumed.steps == (2 if name == "adaptor.safetensors" else 1)
        resumed.progress = False
        resumed.run()
    with EditSession.resume(saved, host) as again:
        assert again.steps == 3


def test_run_of_another_host_is_refused(host, saved):
    import torch

    other = ll.load_host("almanac")
    with torch.no_grad():
        other.layers[0].mlp.up_proj.weight[0, 0] += 1
    with pytest.raises(RunError, match="weights"):
        EditSession.resume(saved, other)


def test_full_disk_loses_nothing(host, stream, session, tmp_path, monkeypatch):
    session.save(tmp_path / "run")
    session.step()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(storage, "save_file", full)
        with pytest.raises(RunError, match="No space left"):
            session.step()
        assert len(storage.RunFolder(tmp_path / "run").journal()) == 1
    assert session.steps == 2
    session.save(tmp_path / "run")
    session.close()
    with EditSession.resume(tmp_path / "run", host) as later:
        assert later.steps == 2


def test_folder_without_a_run_is_a_clear_error(host, tmp_path):
    with pytest.raises(RunError, match="no saved run"):
        EditSession.resume(tmp_path, host)


def test_added_batch_is_learned_by_the_next_step(host, stream, session):
    session.jump(len(stream))
    edit = Edit(id="mine", prompt="The capital of Nowhere is", target="Wilport")
    session.add_batch([edit])
    session.step()
    assert host.generate(edit.prompt) == "Wilport"


def test_saved_run_whose_stream_grew_resumes_with_the_added_batch(host, stream, session, tmp_path):
    session.save(tmp_path / "run")
    session.jump(len(stream))
    session.add_batch([Edit(id="mine", prompt="The capital of Nowhere is", target="Wilport")])
    session.step()
    session.close()
    with EditSession.resume(tmp_path / "run", host) as resumed:
        assert resumed.steps == len(stream) + 1
        assert resumed.stream.edits[-1].id == "mine"


@pytest.mark.parametrize("editor", [ll.editors.MoEAdaptor, ll.editors.FineTune])
def test_a_batch_that_is_learned_in_place_of_another_is_measured_anew(host, stream, editor):
    with EditSession(host, editor(steps=20), stream, progress=False) as session:
        session.jump(2)
        session.evaluate()
        session.undo()
        first, second, third = (batch.edits for batch in stream)
        session.stream = stream.with_groups([first, third, second])
        session.step()
        metrics = session.evaluate()
        session.evaluator.reuse = False
        assert session.evaluate().equals(metrics)


def test_a_batch_can_join_right_after_the_applied_ones(host, stream, session):
    session.jump(2)
    session.undo()
    edit = Edit(id="mine", prompt="The capital of Nowhere is", target="Wilport")
    session.add_batch([edit], at=1)
    assert session.redoable == 0
    session.step()
    assert host.generate(edit.prompt) == "Wilport"
    assert [len(batch) for batch in session.stream] == [8, 1, 8, 8]


def test_a_batch_cannot_join_before_the_applied_ones(session):
    session.jump(2)
    edit = Edit(id="mine", prompt="The capital of Nowhere is", target="Wilport")
    with pytest.raises(ll.EditError, match="after 2 to 3 batches, not after 1"):
        session.add_batch([edit], at=1)


def test_a_copy_is_left_alone_by_later_steps(session, tmp_path):
    session.step()
    session.save(tmp_path / "copy", follow=False)
    session.step()
    assert len(storage.RunFolder(tmp_path / "copy").journal()) == 1


def test_a_copy_does_not_end_the_writing_of_the_run(session, tmp_path):
    session.save(tmp_path / "run")
    session.save(tmp_path / "copy", follow=False)
    session.step()
    assert len(storage.RunFolder(tmp_path / "run").journal()) == 1


# What a resumed session has measured


class Killed(BaseException):
    """The process ends here."""


@pytest.fixture
def short(stream):
    """Five batches of one edit, measured by its prompt alone."""
    edits = [e.model_copy(update={"rephrases": (), "locality": ()}) for e in stream.edits[:5]]
    return stream.with_groups([[edit] for edit in edits])


def ordered(table):
    """Rows in one order, whichever they were measured in."""
    return table.sort_values(list(table.columns), ignore_index=True)


def some_action(session, rng: random.Random, spare: list) -> None:
    """Do one thing that a user may do, by chance."""
    possible = [session.evaluate]
    if session.steps < len(session.stream):
        possible += [session.step, session.step]
    if session.steps:
        possible += [session.undo]
    if session.redoable:
        possible += [session.redo]
    if spare:
        at = rng.randint(session.steps, len(session.stream))
        possible += [lambda: session.add_batch([spare.pop()], at=at)]
    rng.choice(possible)()


def end_at(patch, call: int) -> None:
    """Let the process end at one of the next times that something is made to last."""
    left = [call]

    def counting(real):
        def counted(*arguments, **named):
            left[0] -= 1
            if left[0] == 0:
                raise Killed
            return real(*arguments, **named)

        return counted

    patch.setattr(os, "fsync", counting(os.fsync))
    patch.setattr(os, "replace", counting(os.replace))


def resumed_as(folder, host) -> tuple:
    with EditSession.resume(folder, host) as again:
        return again.steps, ordered(again.metrics), again.stream


def as_it_is(session) -> tuple:
    return session.steps, ordered(session.metrics), session.stream


def equal(one: tuple, other: tuple) -> bool:
    return one[0] == other[0] and one[1].equals(other[1]) and one[2] == other[2]


@pytest.mark.parametrize("seed", range(3))
def test_resumed_metrics_are_those_of_the_session_whatever_happened_and_wherever_it_ended(
    seed, host, short, tmp_path, monkeypatch
):
    rng = random.Random(seed)
    batches = [batch.edits for batch in short]
    spare = [edit for batch in batches[3:] for edit in batch]
    editor = ll.editors.GRACE(steps=2)
    start = short.with_groups(batches[:3])
    session = EditSession(host, editor, start, folder=tmp_path / "run", progress=False)
    for round_ in range(5):
        for _ in range(rng.randint(1, 4)):
            some_action(session, rng, spare)
        session.close()
        assert equal(resumed_as(tmp_path / "run", host), as_it_is(session))
        session = EditSession.resume(tmp_path / "run", host)
        before = as_it_is(session)
        with monkeypatch.context() as patch, contextlib.suppress(Killed):
            end_at(patch, rng.randint(1, 9))
            some_action(session, rng, spare)
        after = as_it_is(session)
        session.close()
        found = resumed_as(tmp_path / "run", host)
        assert equal(found, before) or equal(found, after), round_
        session = EditSession.resume(tmp_path / "run", host)
    session.close()


def test_an_evaluation_outlives_later_steps_and_a_crash(host, short, tmp_path):
    editor = ll.editors.GRACE(steps=2)
    with EditSession(host, editor, short, folder=tmp_path / "run", progress=False) as session:
        session.evaluate()
        session.jump(2)
        session.evaluate()
        session.step()
        live = session.metrics
    with EditSession.resume(tmp_path / "run", host) as resumed:
        assert resumed.metrics.equals(live)
        resumed.undo()
        assert set(resumed.metrics["step"]) == {0, 1, 2}


def test_a_batch_comes_back_with_all_that_was_measured_after_it(host, short):
    with EditSession(host, ll.editors.GRACE(steps=2), short, progress=False) as session:
        session.jump(2)
        before = session.evaluate()
        session.undo()
        session.redo()
        assert session.metrics.equals(before)


def test_damaged_evaluation_is_named_and_repair_keeps_its_step(host, short, tmp_path):
    editor = ll.editors.GRACE(steps=2)
    with EditSession(host, editor, short, folder=tmp_path / "run", progress=False) as session:
        session.jump(2)
        session.evaluate()
    (path,) = (tmp_path / "run" / "steps").glob("0002.*.parquet")
    spoil(path, "altered")
    with pytest.raises(RunError, match=path.name):
        EditSession.resume(tmp_path / "run", host)
    with EditSession.resume(tmp_path / "run", host, repair=True) as resumed:
        assert resumed.steps == 2
        assert set(resumed.metrics["batch"]) == {1, 2}


# A new run where an older one lies


@pytest.fixture
def older(host, short, tmp_path):
    """The folder of a finished run of two batches."""
    first = short.with_groups([batch.edits for batch in short.batches[:2]])
    folder, editor = tmp_path / "run", ll.editors.GRACE(steps=2)
    with EditSession(host, editor, first, folder=folder, progress=False) as session:
        session.run()
    return folder


def contents(folder) -> dict:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_an_older_run_is_not_touched_and_the_error_says_what_it_is(host, short, older):
    before = contents(older)
    with pytest.raises(RunError, match=r"GRACE on almanac, 2 of 2 batches.*resume.*overwrite=True"):
        EditSession(host, ll.editors.FineTune(steps=1), short, folder=older)
    with EditSession(host, ll.editors.FineTune(steps=1), short) as session:  # the host is free
        with pytest.raises(RunError, match="another folder"):
            session.save(older)
        session.step()
    assert contents(older) == before


def test_an_older_run_gives_way_when_that_is_asked_for(host, short, older):
    editor = ll.editors.FineTune(steps=1)
    with EditSession(host, editor, short, folder=older, overwrite=True, progress=False) as session:
        session.step()
    with EditSession.resume(older, host) as resumed:
        assert resumed.editor.name == editor.name and resumed.steps == 1


def test_saving_again_to_the_same_run_needs_no_leave(host, short, older, monkeypatch):
    with EditSession.resume(older, host) as session:
        session.undo()
        session.save(older)
        monkeypatch.chdir(older.parent)
        session.save("run")
    with EditSession.resume(older, host) as again:
        assert again.steps == 1


@pytest.mark.parametrize("call", range(1, 30, 3))
def test_a_replaced_run_is_the_older_or_the_newer_one_wherever_it_ends(
    call, host, short, older, monkeypatch
):
    with EditSession(host, ll.editors.FineTune(steps=1), short, progress=False) as session:
        session.step()
        with monkeypatch.context() as patch, contextlib.suppress(Killed):
            end_at(patch, call)
            session.save(older, overwrite=True)
    with EditSession.resume(older, host) as found:
        learned = {edit.id for batch in found.stream.batches[: found.steps] for edit in batch}
        assert (found.editor.name, found.steps) in (("GRACE", 2), (session.editor.name, 1))
        assert set(found.metrics["edit"]) == learned


# Finding the host


@pytest.fixture
def saved_in_a_project(host, short, tmp_path, monkeypatch):
    """A project with a model and a run of it, made from inside."""
    project = tmp_path / "project"
    shutil.copytree(host.folder, project / "models" / "mine")
    monkeypatch.chdir(project)
    mine = ll.load_host("models/mine")
    editor = ll.editors.GRACE(steps=2)
    with EditSession(mine, editor, short, folder="runs/one", progress=False) as session:
        session.step()
    return project


def test_a_run_of_a_local_model_is_resumed_from_another_folder(
    saved_in_a_project, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    with EditSession.resume("project/runs/one") as resumed:
        assert resumed.steps == 1


def test_a_project_that_was_moved_finds_its_model(saved_in_a_project, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    saved_in_a_project.rename(tmp_path / "moved")
    with EditSession.resume("moved/runs/one") as resumed:
        assert resumed.steps == 1


def test_a_model_that_is_gone_can_be_passed(saved_in_a_project, tmp_path, host):
    shutil.rmtree(saved_in_a_project / "models")
    with pytest.raises(RunError, match="host="):
        EditSession.resume(saved_in_a_project / "runs" / "one")
    with EditSession.resume(saved_in_a_project / "runs" / "one", host) as resumed:
        assert resumed.steps == 1


def test_a_host_in_another_precision_is_loaded_as_it_was(short, tmp_path):
    import torch

    half = ll.load_host("almanac", dtype=torch.bfloat16)
    editor = ll.editors.GRACE(steps=2)
    with EditSession(half, editor, short, folder=tmp_path / "run", progress=False) as session:
        session.step()
    with EditSession.resume(tmp_path / "run") as resumed:
        assert resumed.host.model.dtype == torch.bfloat16
