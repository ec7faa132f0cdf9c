"""Sessions: moving through a stream, errors that lose nothing, and runs that survive."""

from __future__ import annotations

import errno
import random
import signal
import subprocess
import sys
import time

import pytest
from helpers import spoil

import lemoe_lab as ll
from lemoe_lab import (
    Edit,
    EditError,
    EditSession,
    EditStream,
    RunError,
    evaluation,
    metrics,
    storage,
)

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


@pytest.mark.parametrize("kill", range(3))
def test_killed_run_resumes_to_the_bytes_of_an_undisturbed_one(
    kill, host, session, stream, tmp_path
):
    session.save(tmp_path / "undisturbed")
    session.run()
    session.close()
    with EditSession(host, ll.editors.LEMoE(**SETTINGS), stream, progress=False) as fresh:
        fresh.save(tmp_path / "killed")
    seed = random.randrange(10**6)
    print("kill seed", seed)
    process = subprocess.Popen(
        [sys.executable, "-c", RUN, str(tmp_path / "killed")], stdout=subprocess.PIPE
    )
    process.stdout.readline()
    time.sleep(random.Random(seed).uniform(0, 1.5) * (kill + 1) / 2)
    process.send_signal(signal.SIGKILL)
    process.wait()
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
