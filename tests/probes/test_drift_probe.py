"""The drift probe on hand-made tensors and on small sessions."""

from __future__ import annotations

import math

import pytest
import torch

from lemoe_lab import EditSession, datasets, editors, metrics, probes
from lemoe_lab.probes.drift import beginning_and_rest, kl_divergence, own_margin, relative_change


def unmeasured(session):
    """The session, quicker: it learns without asking every question after each batch."""
    session.evaluator.measure = lambda *_, **__: []
    return session


def drift_of(host, stream, editor, **keywords):
    with EditSession(host, editor, stream, progress=False) as session:
        unmeasured(session).jump(len(stream))
        return probes.drift(session, **keywords)


def values(frame, quantity):
    rows = frame[frame["quantity"] == quantity]
    return rows.set_index(["step", "batch"])["value"].to_dict()


@pytest.fixture(scope="module")
def literal(host, stream):
    return drift_of(host, stream, editors.LEMoE(routing="kv_anchor", steps=20))


@pytest.fixture(scope="module")
def scoped(host, stream):
    return drift_of(host, stream, editors.LEMoE(steps=10))


@pytest.fixture(scope="module")
def moe(host, stream):
    return drift_of(host, stream, editors.MoEAdaptor(steps=10))


# Computing


def test_kl_divergence_by_hand():
    one, other = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.25, 0.75]]).log()
    expected = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    assert kl_divergence(one, other).item() == pytest.approx(expected)
    assert kl_divergence(other, one).item() != pytest.approx(expected)


def test_relative_change_by_hand():
    then = {"a": torch.tensor([3.0, 0.0]), "b": torch.tensor([4.0])}
    now = {"a": torch.tensor([3.0, 2.0]), "b": then["b"], "new": torch.ones(9)}
    assert relative_change(then, now) == pytest.approx(2 / 5)
    assert relative_change(then, then) == 0


def test_own_margin_is_the_lead_over_the_best_other():
    logits = torch.tensor([[1.0, 4.0, 2.0], [1.0, 4.0, 2.0]])
    assert own_margin(logits, torch.tensor([1, 2])).tolist() == [2.0, -2.0]


@pytest.mark.parametrize(
    ("passage", "parts"),
    [
        ("It rained. We stayed in. Later we left.", ("It rained.", "We stayed in. Later we left.")),
        ("Did it rain? Yes.", ("Did it rain?", "Yes.")),
        ("one two three four", ("one two", "three four")),
    ],
)
def test_the_first_sentence_of_a_passage_decides_its_route(passage, parts):
    assert beginning_and_rest(passage) == parts


def test_a_passage_of_one_word_is_refused():
    with pytest.raises(ValueError, match="'Alone' is too short"):
        beginning_and_rest("Alone")


# Sessions


def test_the_frame_is_tidy(literal):
    assert list(literal.columns) == [
        *["editor", "order", "seed", "step", "batch", "quantity", "n", "value"]
    ]
    assert not literal.duplicated(["step", "batch", "quantity"]).any()
    assert set(literal["step"]) == {1, 2, 3}
    assert not literal["value"].isna().any()


def test_neutral_text_that_bypasses_every_expert_is_bit_for_bit_the_same(scoped):
    assert set(values(scoped, "kl").values()) == {0.0}
    assert set(values(scoped, "perplexity_ratio").values()) == {1.0}


def test_neutral_text_drifts_under_a_router_that_always_picks_an_expert(moe):
    kl = values(moe, "kl")
    assert 0 < kl[1, 0] < kl[3, 0]


def test_kl_and_perplexity_are_those_of_the_edited_model_itself(host, stream):
    passage = datasets.almanac_prose("heldout")[0]
    beginning, rest = beginning_and_rest(passage)
    (base,) = host.score([beginning], [rest])
    with EditSession(host, editors.MoEAdaptor(steps=10), stream, progress=False) as session:
        unmeasured(session).jump(2)
        (edited,) = host.score([beginning], [rest])
        frame = probes.drift(session, passages=[passage])
    expected = metrics.perplexity_ratio(
        metrics.perplexity(base.log_probabilities), metrics.perplexity(edited.log_probabilities)
    )
    assert values(frame, "perplexity_ratio")[2, 0] == pytest.approx(expected, rel=1e-4)
    assert frame.loc[frame["quantity"] == "kl", "n"].eq(len(base.target)).all()


def test_frozen_experts_do_not_move_at_all(scoped, literal):
    for frame in (scoped, literal):
        changes = values(frame, "weight_change")
        assert set(changes) == {(1, 1), (2, 1), (2, 2), (3, 1), (3, 2), (3, 3)}
        assert set(changes.values()) == {0.0}


def test_shared_experts_move_further_with_every_batch(moe):
    changes = values(moe, "weight_change")
    assert changes[1, 1] == 0 < changes[2, 1] < changes[3, 1]


def test_routing_values_are_compared_with_those_right_after_the_batch(literal):
    cosine = values(literal, "value_cosine")
    for batch in (1, 2, 3):
        assert cosine[batch, batch] == pytest.approx(1)
    assert cosine[3, 1] < 0.999


def test_margins_begin_with_the_second_key_and_agree_with_the_routes(host, stream):
    editor = editors.LEMoE(routing="kv_anchor", steps=20)
    with EditSession(host, editor, stream, progress=False) as session:
        unmeasured(session).jump(3)
        margin = values(probes.drift(session), "margin")
        features = editor.prompt_features([edit.prompt for edit in stream.batches[0]])
        logits = editor.adaptor.router.logits(features).detach()
    assert (1, 1) not in margin and set(step for step, _ in margin) == {2, 3}
    expected = (logits[:, 0] - logits[:, 1:].amax(1)).mean().item()
    assert margin[3, 1] == pytest.approx(expected, rel=1e-5)


def test_other_routers_have_no_routing_value(scoped, moe):
    for frame in (scoped, moe):
        assert not {"value_cosine", "margin"} & set(frame["quantity"])


def test_probing_leaves_the_session_where_it_was(host, stream):
    with EditSession(host, editors.MoEAdaptor(steps=5), stream, progress=False) as session:
        unmeasured(session).jump(2)
        asked = [edit.prompt for edit in stream.edits]
        answers = host.generate(asked)
        probes.drift(session)
        assert session.steps == 2
        assert host.generate(asked) == answers


def test_another_host_needs_texts_of_its_own(host, stream, monkeypatch):
    monkeypatch.setattr(host, "name", "some/other-model")
    with EditSession(host, editors.LEMoE(steps=5), stream, progress=False) as session:
        unmeasured(session).step()
        with pytest.raises(ValueError, match=r"some/other-model.*passages="):
            probes.drift(session)
        with pytest.raises(ValueError, match="at least one"):
            probes.drift(session, passages=[])


def test_a_closed_session_asks_to_be_probed_inside_its_block(host, stream):
    with EditSession(host, editors.LEMoE(steps=5), stream, progress=False) as session:
        unmeasured(session).step()
    with pytest.raises(ValueError, match="inside the `with` block"):
        probes.drift(session)
