"""The gate decides once a prompt and keeps that for its answer; where it cannot, it says so."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
from helpers import traces
from torch import Tensor
from transformers import DynamicCache

from lemoe_lab.host.hooks import PromptGate
from lemoe_lab.host.prompts import last_of

LAYER = 3


class Counting:
    """Decides by the last prompt token's state, and adds a constant to rows with a positive one."""

    def __init__(self) -> None:
        self.decided: list[int] = []
        self.state: int | None = 1
        self.gate = PromptGate(self.decide, self.add, lambda: self.state)

    def decide(self, x: Tensor, prompt) -> Tensor:
        self.decided.append(len(x))
        return last_of(x, prompt).sum(-1)

    def add(self, x: Tensor, output: Tensor, decision: Tensor, _prompt) -> Tensor:
        return output + (decision > -1e9).to(output.dtype)[:, None, None] * 0.5


@pytest.fixture
def method(host) -> Iterator[Counting]:
    before = traces(host)
    method = Counting()
    detach = method.gate.attach(host.model, host.decoder, host.ffn(LAYER))
    yield method
    detach()
    detach()
    assert traces(host) == before


@pytest.fixture
def ids(host) -> Tensor:
    return torch.tensor([host.encode_prompt("The prime minister of Gemland is")])


def generate(host, ids: Tensor, **options) -> Tensor:
    settings = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False}
    settings["attention_mask"] = torch.ones_like(ids)
    return host.model.generate(ids, **settings | options)


@torch.no_grad()
def logits(host, ids: Tensor, cache: object = None):
    return host.model(input_ids=ids, past_key_values=cache, use_cache=True)


def test_an_answer_takes_one_decision_with_and_without_a_cache(method, host, ids):
    generate(host, ids)
    generate(host, ids, use_cache=False)
    assert method.decided == [1, 1]


def test_prompts_that_come_in_chunks_are_decided_as_a_whole(method, host, ids):
    whole = generate(host, ids)
    assert torch.equal(generate(host, ids, prefill_chunk_size=2), whole)
    assert method.decided == [1, 1]


def test_a_row_for_every_beam_and_sequence(method, host, ids):
    generate(host, ids, num_beams=3, num_return_sequences=2)
    assert method.decided == [3]


def test_a_cached_beginning_is_read_anew_under_the_decision_of_the_whole(method, host, ids):
    whole, cache = generate(host, ids), DynamicCache(config=host.model.config)
    logits(host, ids[:, :3], cache)
    assert torch.equal(generate(host, ids, past_key_values=cache), whole)
    assert cache.get_seq_length() == whole.shape[1] - 1  # it holds the conversation


def test_a_cached_beginning_without_its_tokens_is_an_error(method, host, ids):
    cache = DynamicCache(config=host.model.config)
    logits(host, ids[:, :3], cache)
    with pytest.raises(RuntimeError, match="token ids of the whole text"):
        generate(host, ids[:, 3:], past_key_values=cache, attention_mask=torch.ones_like(ids))


def test_interleaved_answers_keep_their_own_decisions(method, host, ids):
    other = ids[:, :-2]
    alone = [logits(host, end, logits(host, given).past_key_values).logits
             for given, end in ((ids, ids[:, :1]), (other, ids[:, :1]))]  # fmt: skip
    first, second = logits(host, ids).past_key_values, logits(host, other).past_key_values
    decided = len(method.decided)
    assert torch.equal(logits(host, ids[:, :1], first).logits, alone[0])
    assert torch.equal(logits(host, ids[:, :1], second).logits, alone[1])
    assert len(method.decided) == decided


def test_a_copied_cache_keeps_its_decision(method, host, ids):
    cache = logits(host, ids).past_key_values
    copied = copy.deepcopy(cache)
    assert torch.equal(
        logits(host, ids[:, :1], cache).logits, logits(host, ids[:, :1], copied).logits
    )


def test_a_prompt_that_goes_on_in_another_pass_is_an_error(method, host, ids):
    cache = logits(host, ids[:, :3]).past_key_values
    with pytest.raises(RuntimeError, match="rest of a prompt"):
        logits(host, ids[:, 3:], cache)


def test_an_answer_begun_before_an_edit_cannot_go_on_after_it(method, host, ids):
    cache = logits(host, ids).past_key_values
    method.state = 2
    with pytest.raises(RuntimeError, match="before the last batch"):
        logits(host, ids[:, :1], cache)
    method.state = 1
    logits(host, ids[:, :1], cache)  # undone: it may


def test_a_cache_filled_while_muted_tells_nothing(method, host, ids):
    with method.gate.muted():
        cache = logits(host, ids).past_key_values
    with pytest.raises(RuntimeError, match="switched off"):
        logits(host, ids[:, :1], cache)


def test_with_nothing_applied_every_pass_is_the_plain_model(method, host, ids):
    method.state = None
    cache = logits(host, ids[:, :3]).past_key_values
    logits(host, ids[:, 3:], cache)
    generate(host, ids)
    assert not method.decided


def test_overridden_and_muted_passes_decide_nothing(method, host, ids):
    edited = logits(host, ids).logits
    with method.gate.overridden(torch.zeros(1)):
        assert torch.equal(logits(host, ids).logits, edited)
        with method.gate.muted():
            plain = logits(host, ids).logits
    with method.gate.overridden(None):
        assert torch.equal(logits(host, ids).logits, plain)
    assert not torch.equal(plain, edited)
    assert method.decided == [1]


def test_paged_generation_is_refused_before_it_begins(method, host, ids):
    with pytest.raises(RuntimeError, match="continuous batching"):
        host.model.generate_batch(inputs=[ids[0].tolist()])


def test_gates_may_leave_in_any_order(host, ids):
    before, first, second = traces(host), Counting(), Counting()
    leave_first = first.gate.attach(host.model, host.decoder, host.ffn(LAYER))
    leave_second = second.gate.attach(host.model, host.decoder, host.ffn(LAYER))
    leave_first()
    generate(host, ids, use_cache=False)
    assert second.decided == [1]
    leave_second()
    assert traces(host) == before


def test_a_part_of_a_prompt_has_no_last_token_but_the_last_part(method, host, ids):
    places = []
    method.gate.apply = lambda x, output, _decision, prompt: (places.append(prompt), output)[1]
    generate(host, ids, prefill_chunk_size=3, max_new_tokens=1, min_new_tokens=1)
    parts = [p for p in places[1:] if p is not None]  # the first is the whole, read to decide
    inside = [int(p.last) < p.mask.shape[1] for p in parts]
    assert inside == [False] * (len(parts) - 1) + [True]
    assert len(parts) > 1


def test_texts_packed_into_one_row_are_refused(method, host, ids):
    with pytest.raises(RuntimeError, match="continuous batching"):
        host.decoder(input_ids=ids, cu_seq_lens_q=torch.tensor([0, 3]), cache=object())
