"""The LEMoE that teaches and the LEMoE that works are one method."""

from __future__ import annotations

import pytest
import torch
from helpers import UNRELATED, traces

from lemoe_lab import EditSession, EditStream
from lemoe_lab.editors import LEMoE
from lemoe_lab.editors.lemoe_barebones import BarebonesLEMoE

SETTINGS = {"steps": 20}


@pytest.fixture(scope="module")
def small(stream) -> EditStream:
    """Two batches; the second revises an edit of the first."""
    first, second = stream.batches[0].edits[:4], stream.batches[1].edits[:3]
    newer = first[0].model_copy(update={"id": "newer", "target": second[0].target})
    return stream.with_groups([first, [*second, newer]])


@pytest.fixture(scope="module")
def barebones(host, small) -> BarebonesLEMoE:
    before = traces(host)
    lemoe = BarebonesLEMoE(host, small.calibration, **SETTINGS)
    for batch in small:
        lemoe.edit(batch)
    assert traces(host) == before
    return lemoe


@pytest.fixture(scope="module")
def session(host, small, barebones):
    with EditSession(host, LEMoE(**SETTINGS), small, progress=False, immediate=[]) as session:
        session.jump(len(small))
        yield session


def asked(stream: EditStream) -> list[str]:
    """Prompts of edits, one rewording and one locality prompt of each, and prompts of nothing."""
    rephrases = [edit.rephrases[-1].prompt for edit in stream.edits]
    locality = [edit.locality[0].prompt for edit in stream.edits]
    return [edit.prompt for edit in stream.edits] + rephrases + locality + UNRELATED


def test_experts_are_trained_to_the_same_weights(barebones, session):
    for taught, working in zip(barebones.experts, session.editor.adaptor.experts, strict=True):
        for ours, theirs in zip(taught.parameters(), working.parameters(), strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=0)


def test_every_prompt_takes_the_same_route(barebones, session, host, small):
    prompts = asked(small)
    experts = session.editor.routes(session.editor.prompt_features(prompts)).expert[:, 0].tolist()
    own = [barebones.route(host.encode_prompt(prompt)) for prompt in prompts]
    found = [-1 if e is None else barebones.experts.index(e) for e in own]
    assert found == experts
    assert set(found) == {-1, 0, 1}


def test_every_answer_is_the_same_token_for_token(barebones, session, host, small):
    for prompt in asked(small):
        ids = torch.tensor([host.encode_prompt(prompt)])
        output = host.model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=8, do_sample=False,
            pad_token_id=host.stop_token, eos_token_id=host.stop_token,
        )  # fmt: skip
        said = [i for i in output[0, ids.shape[1] :].tolist() if i != host.stop_token]
        # The session's hooks would answer within the barebones pass, too.
        with session.editor.disabled():
            assert barebones.answer(prompt, tokens=8) == said
