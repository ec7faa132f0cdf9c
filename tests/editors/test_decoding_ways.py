"""However an answer is decoded, it is the same: the route of its prompt holds to its last token.

An editor's answers are taken from ``host.generate``, and every way of decoding that transformers
offers must write the same tokens, for prompts that are edited and for others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import pytest
import torch
from helpers import UNRELATED, prompts_of
from test_editors import EDITORS
from transformers import AutoModelForCausalLM, DynamicCache, StaticCache

import lemoe_lab as ll
from lemoe_lab import EditSession

TOKENS = 6


def padded(host, prompts: Sequence[str]) -> dict[str, torch.Tensor]:
    """Left-padded rows (B, P) and their mask."""
    rows = [host.encode_prompt(prompt) for prompt in prompts]
    longest, pad = max(map(len, rows)), host.pad_token
    return {
        "input_ids": torch.tensor([(pad,) * (longest - len(r)) + tuple(r) for r in rows]),
        "attention_mask": torch.tensor([(0,) * (longest - len(r)) + (1,) * len(r) for r in rows]),
    }


def written(host, prompts: Sequence[str], model=None, **options) -> list[list[int]]:
    """What ``model.generate`` writes after prompts that are one batch, without the stop token."""
    given = padded(host, prompts)
    settings = {"max_new_tokens": TOKENS, "do_sample": False, "pad_token_id": host.pad_token}
    settings["eos_token_id"] = host.stop_token
    output = (model or host.model).generate(**given, **settings | options)
    return [until_stop(host, row) for row in output[:, given["input_ids"].shape[1] :].tolist()]


def until_stop(host, row: list[int]) -> list[int]:
    return row[: row.index(host.stop_token)] if host.stop_token in row else row


def no_cache(host, prompts):
    return written(host, prompts, use_cache=False)


def static_cache(host, prompts):
    return written(host, prompts, cache_implementation="static")


def own_static_cache(host, prompts):
    room = padded(host, prompts)["input_ids"].shape[1] + TOKENS
    cache = StaticCache(config=host.model.config, max_cache_len=room)
    return written(host, prompts, past_key_values=cache)


def prefill_in_chunks(host, prompts):
    return written(host, prompts, prefill_chunk_size=3)


def cached_prefix(host, prompts):
    """The first tokens are in the cache already, one prompt after another."""
    answers = []
    for prompt in prompts:
        cache = DynamicCache(config=host.model.config)
        with torch.no_grad():
            ids = padded(host, [prompt])["input_ids"][:, :2]
            host.model(input_ids=ids, past_key_values=cache, use_cache=True)
        answers += written(host, [prompt], past_key_values=cache)
    return answers


def several_sequences(host, prompts):
    """Three sampled continuations of every prompt, each of which can only be the likeliest."""
    settings = {"do_sample": True, "top_k": 1, "num_return_sequences": 3}
    answers = written(host, prompts, **settings)
    assert answers[::3] == answers[1::3] == answers[2::3]
    return answers[::3]


def one_beam_of_two(host, prompts):
    """Beams may find another answer than greedy decoding, but the same in a batch and alone."""
    together = written(host, prompts, num_beams=2)
    assert together == [written(host, [prompt], num_beams=2)[0] for prompt in prompts]
    return None


def embeddings(host, prompts):
    given = padded(host, prompts)
    embeds = host.model.get_input_embeddings()(given["input_ids"])
    output = host.model.generate(
        inputs_embeds=embeds, attention_mask=given["attention_mask"], max_new_tokens=TOKENS,
        do_sample=False, pad_token_id=host.pad_token, eos_token_id=host.stop_token,
    )  # fmt: skip
    return [until_stop(host, row) for row in output.tolist()]


def prompt_lookup(host, prompts):
    return [written(host, [p], prompt_lookup_num_tokens=3)[0] for p in prompts]


def pass_by_pass(host, prompts):
    """By hand, all prompts in turns, each with a cache of its own."""
    steps = [hand_written(host, prompt) for prompt in prompts]
    for _ in range(TOKENS):
        rows = [next(step) for step in steps]
    return [until_stop(host, row) for row in rows]


@torch.no_grad()
def hand_written(host, prompt):
    ids, cache, answer = torch.tensor([host.encode_prompt(prompt)]), None, []
    while True:
        output = host.model(input_ids=ids, past_key_values=cache, use_cache=True)
        cache, ids = output.past_key_values, output.logits[:, -1:].argmax(-1)
        answer.append(int(ids))
        yield answer


WAYS: list[Callable] = [
    no_cache, static_cache, own_static_cache, prefill_in_chunks, cached_prefix, several_sequences,
    one_beam_of_two, embeddings, prompt_lookup, pass_by_pass,
]  # fmt: skip


@pytest.fixture(scope="module", params=range(3), ids="seed {}".format)
def small(request):
    """Two batches of two edits, others for every seed."""
    full = ll.datasets.almanac(edits=4, batch_size=2, seed=request.param)
    bare = [edit.model_copy(update={"locality": ()}) for edit in full.edits]
    groups = [bare[:2], bare[2:]]
    return full.model_copy(update={"calibration": full.calibration[::8]}).with_groups(groups)


ALL = EDITORS | {"GRACE, last token": partial(ll.editors.GRACE, replacement="replace_last")}


@pytest.fixture(scope="module", params=ALL, ids=ALL.keys())
def session(request, host, small):
    editor = ALL[request.param](steps=8, seed=small.seed)
    with EditSession(host, editor, small, progress=False, immediate=[]) as session:
        session.jump(2)
        yield session


def asked(stream) -> list[str]:
    return [*prompts_of(stream)[1:], stream.edits[0].rephrases[-1].prompt, UNRELATED[0]]


def test_every_way_of_decoding_writes_the_same_answer(session, host, tmp_path):
    prompts = asked(session.stream)
    alone = [written(host, [prompt])[0] for prompt in prompts]
    said = [host.encoding.text(row).strip() for row in alone]
    assert host.generate(prompts, max_new_tokens=TOKENS, stop=False) == said
    assert [host.generate(p, max_new_tokens=TOKENS, stop=False) for p in prompts] == said
    assert written(host, prompts) == alone
    for way in WAYS:
        answers = way(host, prompts)
        assert answers is None or answers == alone, way.__name__
    session.export(tmp_path / "exported")
    model = AutoModelForCausalLM.from_pretrained(ll.datasets.data_folder() / "host")
    with ll.load_adaptor(model, tmp_path / "exported"):
        assert written(host, prompts, model) == alone
