"""What the unedited host says and computes is worked out once for equal questions."""

import copy

import pytest
import torch

from lemoe_lab.host import Host
from lemoe_lab.host import baseline as unedited
from lemoe_lab.host.baseline import base_answers, base_states

LAYER = 4


@pytest.fixture
def fresh(host) -> Host:
    """The embedded host, of which nothing was asked yet."""
    return Host(copy.deepcopy(host.model), host.tokenizer, "fresh")


@pytest.fixture
def sequences(host, stream):
    return [host.encode(edit.prompt, edit.target) for edit in stream.batches[0]]


@pytest.fixture
def runs(fresh, monkeypatch):
    """How often the host ran: one entry for every call of ``states`` or ``generate``."""
    calls = []
    for name in ("states", "generate"):
        plain = getattr(fresh, name)

        def counted(*args, _plain=plain, **kwargs):
            calls.append(args)
            return _plain(*args, **kwargs)

        monkeypatch.setattr(fresh, name, counted)
    return calls


def test_equal_sequences_run_once(fresh, sequences, runs):
    first = base_states(fresh, sequences, LAYER)
    assert base_states(fresh, list(sequences), LAYER) is first
    assert len(runs) == 1
    base_states(fresh, sequences[:2], LAYER)
    base_states(fresh, sequences, LAYER - 1)
    assert len(runs) == 3


def test_states_and_scores_are_the_hosts_own(fresh, sequences):
    base = base_states(fresh, sequences, LAYER)
    states = fresh.states(sequences, LAYER)
    assert torch.equal(base.states.hidden, states.hidden)
    assert base.states.final.untyped_storage().nbytes() == 0
    assert torch.equal(fresh.finish(base.states, LAYER), states.final)
    for kept, score in zip(base.scores, fresh.score_hidden(states.final, sequences), strict=True):
        assert torch.equal(kept.log_probabilities, score.log_probabilities)


def test_other_weights_share_nothing(fresh, sequences, runs):
    before = base_states(fresh, sequences, LAYER)
    with torch.no_grad():
        fresh.model.get_input_embeddings().weight.mul_(1.5)
    after = base_states(fresh, sequences, LAYER)
    assert not torch.equal(before.states.hidden, after.states.hidden)
    assert len(runs) == 2


def test_the_longest_unasked_go_when_room_is_short(fresh, sequences, runs, monkeypatch):
    first, second, third = sequences[:2], sequences[2:4], sequences[4:6]
    size = base_states(fresh, first, LAYER).bytes
    monkeypatch.setattr(unedited, "ROOM", int(2.5 * size))
    base_states(fresh, second, LAYER)
    base_states(fresh, first, LAYER)
    base_states(fresh, third, LAYER)
    assert len(runs) == 3
    base_states(fresh, first, LAYER)
    assert len(runs) == 3
    base_states(fresh, second, LAYER)
    assert len(runs) == 4


def test_each_prompt_is_answered_once(fresh, stream, runs):
    prompts = [edit.prompt for edit in stream.batches[0]]
    answers = base_answers(fresh, [*prompts, prompts[0]])
    assert answers == [*fresh.generate(prompts), answers[0]]
    assert base_answers(fresh, prompts[::-1]) == answers[-2::-1]
    asked = [len(asked) for asked, *_ in runs]
    assert asked == [len(prompts), len(prompts), 0]  # the second time by this test itself
