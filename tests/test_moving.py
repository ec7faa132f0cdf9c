"""Moving through a stream: what stepping, undoing, redoing, jumping and closing keep."""

from __future__ import annotations

import pytest

import lemoe_lab as ll
from lemoe_lab import Edit, EditError, EditSession, EditStream, LocalityPrompt, Rephrase
from lemoe_lab.checking import known_edits


@pytest.fixture(scope="module")
def bare(stream) -> EditStream:
    """Three batches of two edits, each asked in two ways."""
    one = [
        [
            edit.model_copy(update={"rephrases": edit.rephrases[:1], "locality": ()})
            for edit in batch.edits[:2]
        ]
        for batch in stream
    ]
    return stream.with_groups(one)


@pytest.fixture
def session(host, bare):
    with EditSession(host, ll.editors.LEMoE(steps=3), bare, progress=False) as session:
        yield session


def counted(session: EditSession) -> tuple[int, int]:
    return session.steps, session.redoable


def edit(**other) -> Edit:
    return Edit(
        **{"id": "mine", "prompt": "The capital of Nowhere is", "target": "Wilport"} | other
    )


# Steps


def test_a_session_counts_what_is_applied_and_what_can_be_redone(session):
    places = [counted(session)]
    for move in (session.step, session.step, session.undo, session.undo, session.redo):
        move()
        places.append(counted(session))
    assert places == [(0, 0), (1, 0), (2, 0), (1, 1), (0, 2), (1, 1)]


def test_a_session_shown_in_a_notebook_says_where_it_is(session):
    session.step()
    assert repr(session) == "EditSession(LEMoE scoped on almanac, 1 of 3 batches applied)"


def test_a_new_step_gives_up_what_could_be_redone(session):
    session.jump(2)
    session.undo()
    session.step()
    assert counted(session) == (2, 0)
    with pytest.raises(EditError, match="nothing to redo"):
        session.redo()


def test_a_step_that_fails_while_measuring_is_taken_back(session, host, bare):
    session.step()
    before, answer = session.metrics, host.generate(bare.edits[2].prompt)

    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        session.step(checkpoint=stop)
    assert counted(session) == (1, 0)
    assert session.metrics.equals(before)
    assert host.generate(bare.edits[2].prompt) == answer
    assert len(session.reports) == 1


@pytest.mark.parametrize("step", [-1, 4])
def test_a_jump_stays_within_the_stream(session, step):
    session.step()
    with pytest.raises(EditError, match=f"between 0 and 3, not {step}"):
        session.jump(step)
    assert session.steps == 1


def test_a_jump_redoes_what_was_learned_and_learns_only_the_rest(session, monkeypatch):
    session.jump(2)
    learned = []
    edit_batch = session.editor.edit
    monkeypatch.setattr(
        session.editor,
        "edit",
        lambda batch, *rest: learned.append(batch) or edit_batch(batch, *rest),
    )
    session.jump(0)
    assert counted(session) == (0, 2)
    session.jump(1)
    assert counted(session) == (1, 1)
    session.jump(3)
    assert counted(session) == (3, 0)
    assert [batch.step for batch in learned] == [3]


def test_a_report_tells_what_a_batch_took(session, host):
    told = session.step()
    (report,) = session.reports
    assert set(report) == {
        "losses", "experts", "train_seconds", "evaluate_seconds", "peak_bytes",
    }  # fmt: skip
    assert (report["losses"], report["experts"]) == (told.losses, told.experts)
    assert len(told.losses) == 3 and told.experts == [0, 0]
    assert report["train_seconds"] > 0 and report["evaluate_seconds"] > 0


def test_reports_come_and_go_with_their_batches(session):
    session.jump(2)
    first, second = session.reports
    session.undo()
    assert session.reports == [first]
    session.redo()
    assert session.reports == [first, second]


# Measurements


def test_undo_takes_back_what_was_measured_since(session):
    session.step()
    before = session.metrics
    session.step()
    session.evaluate()
    assert set(session.metrics["step"]) == {1, 2}
    session.undo()
    assert session.metrics.equals(before)


def test_redo_brings_back_all_that_was_measured_at_the_step(session):
    session.jump(2)
    session.evaluate()
    before = session.metrics
    session.undo()
    assert set(session.metrics["step"]) == {1}
    session.redo()
    assert session.metrics.equals(before)
    assert set(session.metrics.query("step == 2")["batch"]) == {1, 2}


def test_measuring_again_replaces_what_was_measured_at_this_step(session):
    session.jump(2)
    session.evaluate()
    once = session.metrics
    session.evaluate()
    assert session.metrics.equals(once)
    assert not once.duplicated(["step", "edit", "metric", "group", "scorer"]).any()


@pytest.mark.parametrize("wanted", [(), ("reliability",), ("reliability", "generality")])
def test_a_step_measures_what_was_asked_for(host, bare, wanted):
    editor = ll.editors.LEMoE(steps=1)
    with EditSession(host, editor, bare, progress=False, immediate=wanted) as session:
        session.step()
        assert set(session.metrics["metric"]) == set(wanted)


def test_the_forgetting_matrix_ends_where_it_began_after_an_undo(session):
    session.jump(3)
    session.undo()
    matrix = session.forgetting_matrix()
    assert counted(session) == (2, 1)
    assert set(zip(matrix["step"], matrix["batch"], strict=True)) == {(1, 1), (2, 1), (2, 2)}
    assert set(matrix["metric"]) == {"reliability"}


def test_a_later_step_that_was_undone_can_be_visited(session, host, bare):
    session.jump(2)
    prompts = [e.prompt for e in bare.edits]
    after = host.generate(prompts)
    session.undo()
    with session.at(2):
        assert host.generate(prompts) == after
    assert counted(session) == (1, 1)
    with session.at(0):
        assert session.steps == 0


@pytest.mark.parametrize("step", [-1, 3])
def test_only_learned_steps_can_be_visited(session, step):
    session.jump(2)
    with pytest.raises(EditError, match="steps 0 to 2"), session.at(step):
        pass
    assert session.steps == 2


# Closing


def test_a_closed_session_says_so_whatever_is_asked_of_it(session, tmp_path):
    session.step()
    assert session.is_open
    session.close()
    session.close()
    assert not session.is_open
    asked = [
        session.step, session.undo, session.redo, session.evaluate, session.forgetting_matrix,
        lambda: session.save(tmp_path / "run"), lambda: session.export(tmp_path / "export"),
        session.at(0).__enter__,
    ]  # fmt: skip
    for ask in asked:
        with pytest.raises(RuntimeError, match="closed"):
            ask()
    assert not list(tmp_path.iterdir())


def test_the_block_closes_the_session_after_an_error(host, bare):
    with pytest.raises(ZeroDivisionError), EditSession(host, ll.editors.LEMoE(steps=1), bare):
        _ = 1 / 0
    host.require_free()


# What the stream holds


def test_a_batch_joins_between_steps_and_keeps_what_comes_before_it_redoable(session):
    session.jump(2)
    session.undo()
    session.add_batch([edit()], at=2)
    assert counted(session) == (1, 1)
    session.add_batch([edit(id="other", prompt="The mayor of Nowhere is")], at=1)
    assert counted(session) == (1, 0)
    assert [[e.id for e in batch][:1] for batch in session.stream][1:3] == [
        ["other"], [session.stream.batches[2].edits[0].id],
    ]  # fmt: skip


def test_a_batch_joins_at_the_end_unless_a_place_is_named(session):
    session.add_batch([edit()])
    assert [e.id for e in session.stream.batches[3]] == ["mine"]
    with pytest.raises(EditError, match="not after 5"):
        session.add_batch([edit(id="other", prompt="The mayor of Nowhere is")], at=5)


TOO_LONG = "river " * 500


@pytest.mark.parametrize(
    "part",
    [
        {"prompt": TOO_LONG},
        {"target": TOO_LONG},
        {"rephrases": (Rephrase(prompt=TOO_LONG, group="light"),)},
        {"locality": (LocalityPrompt(prompt=TOO_LONG, group="near"),)},
        {"locality": (LocalityPrompt(prompt="Once", target=TOO_LONG, group="text"),)},
    ],
    ids=["prompt", "target", "rephrase", "locality prompt", "passage"],
)
def test_an_edit_with_any_part_beyond_the_context_is_refused_by_name(session, part):
    before = session.stream
    with pytest.raises(EditError, match="^edit 'mine': .* at most"):
        session.add_batch([edit(**part)])
    assert session.stream == before


def test_the_host_knows_edits_that_it_already_says_unless_they_revise_an_earlier_one(host, bare):
    first = bare.edits[0]
    known = edit(id="known", prompt=bare.edits[1].prompt, target=bare.edits[1].old_answer)
    back = edit(id="back", prompt=first.prompt.upper(), target="Wilport")
    stream = EditStream.from_groups([[known, first], [back]])
    assert [e.id for e in known_edits(host, stream)] == ["known"]
    assert [[e.id for e in batch] for batch in ll.drop_known(host, stream)] == [
        [first.id], ["back"],
    ]  # fmt: skip
    alone = EditStream.from_groups([[known], [first]])
    assert [[e.id for e in batch] for batch in ll.drop_known(host, alone)] == [[first.id]]
