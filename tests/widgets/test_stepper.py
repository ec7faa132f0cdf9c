"""The stepper's model: what each command does, what interrupts what, and that nothing is lost."""

import time
from collections.abc import Callable, Iterator

import pandas as pd
import pytest
import torch

from lemoe_lab import EditSession, datasets
from lemoe_lab.editors import LEMoE
from lemoe_lab.edits import EditError, EditStream
from lemoe_lab.widgets.common.choices import Choice
from lemoe_lab.widgets.stepper.model import StepperModel

SLICE = 1e-4  # seconds: about one optimiser step
OWN = "LEMoE KV anchor, literal"  # the editor that the models here begin with


@pytest.fixture(scope="module")
def bare(stream) -> EditStream:
    """The shared stream without rephrases and locality prompts, so that a step is quick."""
    nothing = {"rephrases": (), "locality": ()}
    groups = [[edit.model_copy(update=nothing) for edit in batch] for batch in stream]
    return stream.with_groups(groups)


@pytest.fixture
def make_model(host, bare) -> Iterator[Callable[..., StepperModel]]:
    """Makes a stepper's model on the shared host; all sessions are closed afterwards."""
    made: list[StepperModel] = []

    def make(editor=None, edits=bare) -> StepperModel:
        editor = editor or LEMoE(routing="kv_anchor", steps=10)
        made.append(StepperModel(EditSession(host, editor, edits, progress=False)))
        return made[-1]

    yield make
    for model in made:
        model.abandon()
        model.session.close()


@pytest.fixture
def model(make_model) -> StepperModel:
    return make_model()


@pytest.fixture
def scoped(make_model, stream) -> StepperModel:
    """A model whose router keeps anchors and lets other prompts pass."""
    return make_model(LEMoE(steps=20), stream)


def begin_batch(model: StepperModel) -> None:
    """Play until the next batch is half learned."""
    model.play()
    while model.progress is None or model.progress.step < 3:
        model.tick(SLICE)


def weights(model: StepperModel) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.session.editor.state_dict().items()}


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


# Moving


def test_step_learns_one_batch(model):
    model.step()
    model.wait()

    assert (model.steps, model.phase) == (1, "idle")


def test_play_learns_to_the_end(model):
    model.play()
    model.wait()

    assert model.steps == model.batches


def test_step_after_the_last_batch_says_what_to_do(model):
    model.jump(model.batches)
    model.wait()

    with pytest.raises(EditError, match="undo some, or teach"):
        model.step()


def test_undo_takes_one_batch_back_and_redo_brings_it_again(model):
    model.jump(2)
    model.wait()
    learned = weights(model)

    model.undo()
    assert model.steps == 1
    model.redo()

    assert equal(weights(model), learned)


def test_undo_without_batches_says_so(model):
    with pytest.raises(EditError, match="nothing to undo"):
        model.undo()


def test_redo_is_gone_after_another_step(model):
    model.jump(2)
    model.wait()
    model.undo()
    model.step()
    model.wait()

    assert not model.can_redo


def test_jump_goes_back_and_forth_without_learning_again(model):
    model.jump(3)
    model.wait()
    learned = weights(model)

    model.jump(1)
    model.jump(3)

    assert model.phase == "idle" and equal(weights(model), learned)


def test_jump_outside_the_stream_is_refused(model):
    with pytest.raises(EditError, match="between 0 and 3, not 4"):
        model.jump(4)


# A running batch


def test_pause_holds_the_batch_between_two_optimiser_steps(model):
    begin_batch(model)
    model.pause()
    held_at = model.progress.step

    assert not model.tick(1.0)
    assert (model.phase, model.progress.step, model.steps) == ("held", held_at, 0)


def test_a_held_batch_goes_on_where_it_stood(model, make_model):
    begin_batch(model)
    model.pause()
    model.step()
    model.wait()
    interrupted = weights(model)
    model.session.close()

    straight = make_model()
    straight.step()
    straight.wait()

    assert equal(interrupted, weights(straight))


def test_pause_takes_effect_within_a_second(model):
    begin_batch(model)
    asked = time.perf_counter()
    model.tick(0.06)  # the slice that runs while the pause is asked for
    model.pause()

    assert time.perf_counter() - asked < 1 and not model.tick()


def test_abandoning_a_batch_keeps_those_before_it(model):
    model.step()
    model.wait()
    before = weights(model)
    begin_batch(model)

    model.abandon()

    assert (model.steps, model.phase) == (1, "idle") and equal(weights(model), before)


def test_undo_abandons_a_held_batch_only(model):
    model.step()
    model.wait()
    begin_batch(model)
    model.pause()

    model.undo()

    assert (model.steps, model.phase) == (1, "idle")


def test_jump_abandons_a_running_batch(model):
    model.jump(2)
    model.wait()
    begin_batch(model)

    model.jump(1)

    assert (model.steps, model.progress) == (1, None)


def test_progress_tells_step_and_loss(model):
    begin_batch(model)

    assert model.progress.batch == 1
    assert 0 < model.progress.share < 1
    assert model.progress.loss > 0


def test_progress_tells_how_much_of_the_batch_is_said(make_model, bare, monkeypatch):
    monkeypatch.setattr("lemoe_lab.widgets.stepper.model.LOOK_EVERY", 0.0)
    model = make_model(LEMoE(steps=40))
    prompts = [edit.prompt for edit in bare.batches[0]]
    targets = [edit.target for edit in bare.batches[0]]
    told = []
    model.step()
    while model.tick(SLICE) and model.progress is not None:
        said = [score.reproduced for score in model.session.host.score(prompts, targets)]
        told.append(model.progress.reliability)
        assert told[-1] == sum(said) / len(said)

    assert told[0] == 0
    assert len(set(told)) > 2
    assert told[-1] == 1


def test_questions_during_training_change_nothing_that_is_learned(model, make_model, stream):
    begin_batch(model)
    while model.progress is not None and model.tick(SLICE):
        model.ask(stream.edits[0].prompt)
    model.pause()
    model.abandon()
    asked = weights(model)
    steps = model.steps
    model.session.close()

    quiet = make_model()
    quiet.jump(steps)
    quiet.wait()

    assert equal(asked, weights(quiet))


def test_host_answers_plainly_after_an_abandoned_first_batch(model, host, stream):
    prompt = stream.edits[0].prompt
    before = host.generate(prompt)
    begin_batch(model)

    model.abandon()

    assert host.generate(prompt) == before


def test_playing_with_a_delay_waits_between_batches(model):
    model.delay = 0.6
    model.play()
    while model.steps == 0:
        started = time.perf_counter()  # the wait begins inside the tick that ends the batch
        model.tick(SLICE)
    while model.progress is None and model.tick(SLICE):
        pass

    assert model.progress.batch == 2
    assert time.perf_counter() - started >= 0.6


# Choosing


def test_reset_starts_the_same_edits_again_in_other_batches(model, stream):
    model.step()
    model.wait()

    model.reset(Choice(OWN, "k-means", batch_size=6, seed=3))

    assert model.steps == 0
    assert [len(batch) for batch in model.session.stream] == [6, 6, 6, 6]
    assert {e.id for e in model.session.stream.edits} == {e.id for e in stream.edits}
    assert model.session.stream.order == "k-means"
    assert model.session.editor.config.seed == 3


def test_reset_can_change_the_editor_and_learn_with_it(model):
    model.reset(Choice("MoE adaptor", "as given", batch_size=8, seed=0))
    model.step()
    model.wait()

    assert model.session.editor.name == "MoE adaptor" and model.steps == 1


@pytest.mark.parametrize(
    ("choice", "complaint"),
    [
        (Choice(OWN, "as given", batch_size=0, seed=0), "batch_size"),
        (Choice(OWN, "backwards", batch_size=8, seed=0), "planner must be one of"),
        (Choice("ChatGPT", "as given", batch_size=8, seed=0), "editor must be one of"),
    ],
)
def test_an_impossible_choice_keeps_the_session(model, stream, host, choice, complaint):
    model.step()
    model.wait()
    kept, edit = model.session, stream.edits[0]
    answer = host.generate(edit.prompt)

    with pytest.raises(EditError, match=complaint):
        model.reset(choice)
    assert (model.session, model.steps) == (kept, 1)
    assert host.generate(edit.prompt) == answer

    model.step()
    model.wait()
    assert model.steps == 2


def test_an_editor_that_cannot_start_keeps_the_session(make_model, bare):
    model = make_model(edits=bare.model_copy(update={"calibration": ()}))
    model.step()
    model.wait()
    learned = weights(model)

    with pytest.raises(ValueError, match="calibrates on facts"):
        model.reset(Choice("LEMoE scoped", "as given", batch_size=8, seed=0))

    assert model.steps == 1 and equal(weights(model), learned)


def test_reset_gives_the_host_to_the_new_session_only(model, host):
    model.reset(Choice(OWN, "as given", batch_size=8, seed=1))

    with pytest.raises(RuntimeError, match="another open session"):
        host.claim(object())
    model.session.close()
    host.claim(model)
    host.release()


# Teaching


def test_a_taught_edit_is_the_next_batch_and_is_learned(scoped):
    scoped.step()
    scoped.wait()

    scoped.teach("The inventor of the paper submarine is", "Ada Quill")
    scoped.wait()

    assert scoped.steps == 2 and len(scoped.session.stream.batches[1]) == 1
    assert scoped.ask("The inventor of the paper submarine is").edited == "Ada Quill"


def test_teaching_while_a_batch_trains_follows_that_batch(model):
    begin_batch(model)
    edit = model.teach("The inventor of the paper submarine is", "Ada Quill")
    model.wait()

    assert model.session.stream.batches[1].edits == (edit,)
    assert model.steps == model.batches == 4


def test_what_is_said_already_is_not_taught(model, host, stream):
    said = host.generate(stream.edits[0].prompt)

    with pytest.raises(EditError, match="already answers"):
        model.teach(stream.edits[0].prompt, said)


@pytest.mark.parametrize(("prompt", "target"), [("", "Ada"), ("The inventor is", "  ")])
def test_an_empty_edit_is_not_taught(model, prompt, target):
    with pytest.raises(EditError, match="empty"):
        model.teach(prompt, target)
    assert model.batches == 3


def test_a_taught_edit_survives_a_reset(model):
    model.teach("The inventor of the paper submarine is", "Ada Quill")
    model.wait()
    model.reset(Choice(OWN, "random", batch_size=5, seed=0))

    assert "asked/1" in {edit.id for edit in model.session.stream.edits}


# Asking


def test_ask_shows_both_answers_with_tokens_and_route(scoped, stream):
    edit = stream.edits[0]
    scoped.step()
    scoped.wait()

    answer = scoped.ask(edit.prompt)

    assert answer.base == edit.old_answer and answer.edited == edit.target
    assert len(answer.base_tokens) == len(answer.edited_tokens) == 5
    assert answer.route.expert == 0 and answer.route.gates == (1.0,)
    assert answer.route.nearest[0].edit == edit


def test_ask_shows_the_bypass(scoped):
    scoped.step()
    scoped.wait()

    answer = scoped.ask("We walked on the roof for an hour and talked about")

    assert answer.route.bypassed and answer.base == answer.edited


def test_token_probabilities_fall(model, stream):
    tokens = model.ask(stream.edits[0].prompt).base_tokens

    probabilities = pd.Series([probability for _, probability in tokens])
    assert probabilities.is_monotonic_decreasing and 0 < probabilities.sum() <= 1


def test_an_empty_question_is_refused(model):
    with pytest.raises(EditError, match="prompt is empty"):
        model.ask("  ")


# Opening


def test_an_opened_edit_shows_answers_to_its_rephrases_and_its_path(scoped, stream):
    scoped.jump(2)
    scoped.wait()
    edit = stream.edits[0]

    opened = scoped.open(edit.id)

    assert len(opened.base) == len(opened.edited) == 1 + len(edit.rephrases)
    assert opened.edited[0] == edit.target
    assert opened.path == {1: 0, 2: 0}


# Events


def test_listeners_hear_moves_and_growth(model):
    heard = []
    model.on_event.append(heard.append)

    model.teach("The inventor of the paper submarine is", "Ada Quill")
    model.wait()

    assert "grown" in heard and heard[-1] == "moved"


def test_an_error_while_learning_leaves_the_last_whole_step(model, monkeypatch):
    model.step()
    model.wait()

    def broken(*_):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(model.session.editor, "edit", broken)
    model.step()
    with pytest.raises(RuntimeError, match="out of memory"):
        model.wait()

    assert (model.steps, model.phase) == (1, "idle")


def test_a_session_that_was_stepped_before_is_taken_over(host):
    full = datasets.almanac(edits=16, batch_size=8, seed=11)
    small = full.model_copy(update={"calibration": full.calibration[::4]})
    with EditSession(host, LEMoE(steps=10), small, progress=False) as session:
        session.run()
        table = StepperModel(session).history.reliability()

    assert table["batch"].tolist() == [1, 2]
    assert table[["immediate", "now"]].notna().all(axis=None)
