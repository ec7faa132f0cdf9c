"""One specification that every editor meets: what comes back, what leaves no trace, what is saved.

An editor is added here by a line in ``EDITORS``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial

import pytest
from helpers import UNRELATED, digest, logits, prompts_of, same, traces

from lemoe_lab import EditSession, EditStream, load_adaptor
from lemoe_lab.editors import (
    DEFER,
    GRACE,
    MEMIT,
    MEND,
    ROME,
    WISE,
    AlphaEdit,
    ConfigError,
    Editor,
    FineTune,
    FineTuneEWC,
    LEMoE,
    LocFT,
    MoEAdaptor,
    UltraEdit,
    preset,
)
from lemoe_lab.edits import normalise

EDITORS: dict[str, Callable[..., Editor]] = {
    "LEMoE scoped": LEMoE,
    "LEMoE by words": lambda **given: LEMoE(words=True, **given),
    "LEMoE literal": lambda **given: LEMoE(routing="kv_anchor", **given),
    "LEMoE rehearsed": partial(preset, "LEMoE KV anchor"),
    "LEMoE one expert": lambda **given: LEMoE(insert=False, **given),
    "MoE adaptor": MoEAdaptor,
    "MoE adaptor, two of four": lambda **given: MoEAdaptor(top_k=2, **given),
    "MoE adaptor, token-level": lambda **given: MoEAdaptor(level="token", **given),
    "FineTune": FineTune,
    "FineTuneEWC": FineTuneEWC,
    "LocFT replay": lambda steps=25, **given: LocFT(passes=steps, **given),
    "LocFT stream": lambda steps=25, **given: LocFT(replay=False, passes=steps, **given),
    "GRACE": GRACE,
    "DEFER": DEFER,
    "UltraEdit": lambda steps=1, layer=None, **given: UltraEdit(
        layers=None if layer is None else (layer,), **given
    ),
    "WISE": lambda **given: WISE(irrelevant=40, **given),
    "WISE merged": lambda **given: WISE(irrelevant=40, retrieve=False, merge_every=4, **given),
    "ROME": ROME,
    "MEMIT": MEMIT,
    "AlphaEdit": AlphaEdit,
    "MEND": lambda steps=None, **given: MEND(training_steps=20, training_edits=10, **given),
}

ONE_STEP = ("MEND", "UltraEdit")  # they write once, without looking at what the host then says


@pytest.fixture(params=EDITORS.values(), ids=EDITORS.keys())
def editor(request) -> Callable[..., Editor]:
    return request.param


@pytest.fixture(scope="session")
def stream(stream) -> EditStream:
    """Three batches of three: there are many editors."""
    return stream.with_groups([batch.edits[:3] for batch in stream])


@pytest.fixture
def session(host, stream, editor):
    with EditSession(host, editor(steps=15), stream, progress=False) as session:
        yield session


def test_only_the_named_tensors_change_and_closing_brings_them_back(session, host):
    def others() -> list:
        named = session.editor.changed_tensors()
        state = host.model.state_dict()
        return [tensor for name, tensor in state.items() if name not in named]

    before, kept = digest(host.model), [tensor.clone() for tensor in others()]
    session.run()
    assert same(others(), kept)
    assert bool(session.editor.changed_tensors()) == (digest(host.model) != before)
    session.close()
    assert digest(host.model) == before


def test_undo_restores_every_logit(session, host, stream):
    asked = prompts_of(stream) + UNRELATED
    history = [logits(host, asked)]
    while session.steps < len(stream):
        session.step()
        history.append(logits(host, asked))
    while session.steps:
        assert same(history[session.steps], logits(host, asked))
        session.undo()
    assert same(history[0], logits(host, asked))


def test_redo_restores_every_logit_and_measurement(session, host, stream):
    session.jump(2)
    before, metrics = logits(host, prompts_of(stream)), session.metrics
    session.jump(0)
    session.jump(2)
    assert same(before, logits(host, prompts_of(stream)))
    assert session.metrics.equals(metrics)


def test_closed_session_leaves_nothing_on_the_host(host, stream, editor):
    before = traces(host)
    with EditSession(host, editor(steps=5), stream, progress=False) as session:
        session.step()
        host.generate(stream.edits[0].prompt)
    assert traces(host) == before


def test_session_that_cannot_start_leaves_nothing_on_the_host(host, stream, editor):
    before = traces(host)
    with pytest.raises(ValueError, match="layer 99 does not exist"):
        EditSession(host, editor(layer=99), stream)
    assert traces(host) == before


def test_module_tree_is_the_same_while_attached(session, host):
    with_session = [name for name, _ in host.model.named_modules()]
    session.step()
    assert [name for name, _ in host.model.named_modules()] == with_session
    session.close()
    assert [name for name, _ in host.model.named_modules()] == with_session


def test_reused_scores_equal_scoring_everything(session):
    reused = session.run()
    session.evaluator.reuse = False
    assert session.evaluate().equals(reused)


def test_measured_scores_are_those_of_the_attached_model(session, host, stream):
    metrics = session.run().query("metric == 'reliability' and step == 3")
    by_scorer = metrics.pivot(index="edit", columns="scorer", values="value")
    answers = host.generate(prompts_of(stream))
    scores = host.score(prompts_of(stream), [edit.target for edit in stream.edits])
    for edit, answer, score in zip(stream.edits, answers, scores, strict=True):
        assert by_scorer.at[edit.id, "generated"] == (answer == edit.target)
        assert by_scorer.at[edit.id, "teacher_forced"] == pytest.approx(score.accuracy)


def test_generated_scores_are_what_greedy_decoding_says(session, host, stream):
    """Also where the scores alone told the evaluator what decoding would come to."""
    session.jump(2)
    measured = session.evaluate().query("step == 2 and scorer == 'generated'")
    edits = stream.batches[0].edits + stream.batches[1].edits
    asked = [
        (edit.id, "generality", rephrase.group, rephrase.prompt, edit.target)
        for edit in edits
        for rephrase in edit.rephrases
    ]
    others = [
        (edit.id, other) for edit in edits for other in edit.locality if other.group != "text"
    ]
    with session.editor.disabled():
        plain = host.generate([other.prompt for _, other in others])
    asked += [
        (edit, "locality", other.group, other.prompt, answer)
        for (edit, other), answer in zip(others, plain, strict=True)
    ]
    answers = host.generate([prompt for *_, prompt, _ in asked])
    expected = Counter()
    for (edit, metric, group, _, right), answer in zip(asked, answers, strict=True):
        expected[edit, metric, group] += normalise(answer) == normalise(right)
    found = measured[measured["metric"] != "reliability"]
    assert found.groupby(["edit", "metric", "group"])["value"].sum().to_dict() == expected


def test_resumed_session_has_every_logit_of_the_saved_one(session, host, stream, tmp_path):
    session.jump(2)
    session.save(tmp_path / "run")
    before = logits(host, prompts_of(stream))
    session.close()
    with EditSession.resume(tmp_path / "run", host) as resumed:
        assert same(before, logits(host, prompts_of(stream)))
        resumed.undo()
        resumed.redo()
        assert same(before, logits(host, prompts_of(stream)))


def test_exported_edits_give_every_logit_of_the_session(session, host, stream, tmp_path):
    asked = prompts_of(stream) + UNRELATED
    session.jump(2)
    session.export(tmp_path / "edits")
    before = logits(host, asked)
    session.close()
    with load_adaptor(host.model, tmp_path / "edits", host.tokenizer) as adaptor:
        assert same(before, logits(adaptor.host, asked))


def test_same_seed_gives_the_same_tensors(host, stream, editor):
    states = []
    for _ in range(2):
        with EditSession(host, editor(steps=5), stream, progress=False) as session:
            session.jump(2)
            states.append(session.editor.state_dict())
    first, second = states
    assert first.keys() == second.keys()
    assert same(list(first.values()), list(second.values()))


def test_superseding_edit_wins_and_undo_brings_the_older_one_back(host, stream, editor, request):
    older = stream.edits[0]
    newer = older.model_copy(update={"id": "newer", "target": stream.edits[1].target})
    revised = EditStream.from_groups([[older], [newer]], calibration=stream.calibration)
    with EditSession(host, editor(steps=200), revised, progress=False) as session:
        session.step()
        learned = host.generate(older.prompt)
        session.step()
        if request.node.callspec.id not in ONE_STEP:
            assert learned == older.target
            assert host.generate(older.prompt) == newer.target
        session.undo()
        assert host.generate(older.prompt) == learned


def test_unknown_setting_fails_at_construction_and_names_the_allowed_ones(editor):
    with pytest.raises(ConfigError, match="settings are"):
        editor(rate=1)
