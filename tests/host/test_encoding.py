"""How texts become tokens, with tokenizers of every kind."""

from __future__ import annotations

import copy

import pytest
import torch
from tokenizers_of_all_kinds import KINDS, Characters, byte_level, closing, tiny_host

import lemoe_lab as ll
from lemoe_lab import Edit, EditError, LocalityPrompt, Rephrase
from lemoe_lab.host.statistics import TextSample

PAIRS = [
    ("The capital of Gemland is", "Grolwick"),
    ("The mayor said: “", "yes"),
    ("Who is the mayor of Gemland?\n", "Ann Lee"),
    ("首都是", "北京"),
    ("宝石国的首都", "是宝石城"),  # 首都是 is one token for some
]


@pytest.fixture(params=KINDS)
def any_host(request):
    return tiny_host(KINDS[request.param]())


def read(host, ids) -> str:
    return host.tokenizer.decode(ids, skip_special_tokens=True).lstrip()


@pytest.mark.parametrize(("prompt", "target"), PAIRS)
def test_prompt_and_target_are_read_as_one_text(any_host, prompt, target):
    sequence = any_host.encode(prompt, target)
    joint = " " if target == "Grolwick" else ""
    assert read(any_host, sequence.prompt) == prompt
    assert read(any_host, sequence.prompt + sequence.target) == f"{prompt}{joint}{target}"


@pytest.mark.parametrize(("prompt", "target"), PAIRS)
def test_an_edit_is_trained_after_the_very_tokens_that_are_asked(any_host, prompt, target):
    assert any_host.encode(prompt, target).prompt == any_host.encode_prompt(prompt)


def test_only_the_target_ends_in_the_stop_token(any_host):
    sequence = any_host.encode("The capital of Gemland is", "Grolwick")
    assert sequence.target[-1] == any_host.stop_token
    assert any_host.stop_token not in sequence.prompt + sequence.target[:-1]


def test_a_start_token_is_put_there_once():
    host = tiny_host(closing())
    start = host.tokenizer.bos_token_id
    for prompt in ("The capital of Gemland is", "<s>The capital of Gemland is"):
        ids = host.encode_prompt(prompt)
        assert ids[0] == start and ids.count(start) == 1
    assert host.encode_prompt("<s>The capital") == host.encode_prompt("The capital")


def test_blanks_at_the_end_of_any_prompt_change_nothing(any_host):
    plain, blanks = ("The mayor of Gemland is", "The mayor of Gemland is \t ")
    edit = Edit(
        id="blanks",
        prompt=blanks,
        target="Ann",
        rephrases=(Rephrase(prompt=blanks),),
        locality=(LocalityPrompt(prompt=blanks, group="far"),),
    )
    asked = [edit.prompt, edit.rephrases[0].prompt, edit.locality[0].prompt, blanks]
    assert {any_host.encode(prompt, "Ann") for prompt in asked} == {any_host.encode(plain, "Ann")}


def test_an_answer_may_begin_on_a_new_line():
    edit = Edit(id="line", prompt="  Who is the mayor?\n ", target="Ann")
    assert edit.prompt == "Who is the mayor?\n"


@pytest.mark.parametrize("joint", ["", " ", "\n", " ... "])
def test_the_user_may_set_the_joint(joint):
    host = tiny_host(byte_level(), joint=joint)
    for prompt, target in (("首都是", "北京"), ("The capital is", "Gemland")):
        sequence = host.encode(prompt, target)
        assert read(host, sequence.prompt + sequence.target) == prompt + joint + target


def test_without_a_joint_a_prompt_keeps_its_own_blank():
    host = tiny_host(byte_level(), joint="")
    sequence = host.encode("The capital is ", "Gemland")
    assert read(host, sequence.prompt) == "The capital is "
    assert read(host, sequence.target) == "Gemland"


def test_the_tokenizer_of_the_user_stays_as_it_is(any_host):
    kinds = {type(tokenizer).__name__: tokenizer for tokenizer in (any_host.tokenizer,)}
    (tokenizer,) = kinds.values()
    before = copy.deepcopy(tokenizer)
    host = ll.Host(any_host.model, tokenizer, "again")
    host.generate(["The capital", "首都是 the capital of"], max_new_tokens=2)
    host.score(["The capital", "首"], ["Grolwick", "都"])
    assert tokenizer.special_tokens_map == before.special_tokens_map
    assert tokenizer.pad_token is None
    assert len(tokenizer) == len(before)


def test_without_any_stop_token_the_user_is_asked_for_one():
    tokenizer = byte_level(("<|pad|>",), pad_token="<|pad|>")
    with pytest.raises(ValueError, match="stop_token="):
        tiny_host(tokenizer)


@pytest.mark.parametrize("stop", ["\n", ".", "<|pad|>", 0])
def test_any_single_token_can_be_the_stop_token(stop):
    tokenizer = byte_level(("<|pad|>",), pad_token="<|pad|>")
    host = tiny_host(tokenizer, stop_token=stop)
    assert tokenizer.decode([host.stop_token]) == (stop or "<|pad|>")
    assert host.encode("The capital is", "Grolwick").target[-1] == host.stop_token


@pytest.mark.parametrize("stop", ["no single token", 100_000, -1])
def test_a_stop_token_that_is_none_is_refused(stop):
    with pytest.raises(ValueError, match=r"stop_token=.* is not one token"):
        tiny_host(byte_level(), stop_token=stop)


def test_a_tokenizer_without_a_stop_token_has_that_of_the_model():
    tokenizer = byte_level(("<|pad|>", "<|done|>"), pad_token="<|pad|>")
    assert tiny_host(tokenizer, model_stop=1).stop_token == 1


def test_a_pad_token_that_the_model_does_not_know_is_never_used():
    tokenizer = byte_level()
    known = len(tokenizer)
    tokenizer.add_special_tokens({"pad_token": "<|pad|>"})
    host = tiny_host(tokenizer, vocabulary=known)
    rows = [
        host.encode("The capital", "Grolwick"),
        host.encode("首", "都是 the capital of Gemland"),
    ]
    assert host.pad(rows).max() < known
    together = host.score(["The capital", "首"], ["Grolwick", "都是 the capital of Gemland"])
    (alone,) = host.score(["The capital"], ["Grolwick"])
    assert torch.allclose(alone.log_probabilities, together[0].log_probabilities, atol=1e-5)
    assert len(host.generate(["The capital", "The capital of Gemland is"], max_new_tokens=2)) == 2


def test_a_token_that_the_model_does_not_know_is_refused_by_name():
    tokenizer = byte_level()
    known = len(tokenizer)
    tokenizer.add_tokens(["<gem>"])
    host = tiny_host(tokenizer, vocabulary=known)
    with pytest.raises(EditError, match=r"<gem>.*resize_token_embeddings"):
        host.encode("The capital of <gem> is", "Grolwick")


def test_padding_never_changes_what_is_generated(any_host):
    prompts = ["The capital of Gemland is", "首都是", "Who is the mayor of Gemland?\n"]
    together = any_host.generate(prompts, max_new_tokens=4, stop=False)
    assert together == [any_host.generate(p, max_new_tokens=4, stop=False) for p in prompts]


def test_an_answer_ends_before_the_stop_token_also_where_that_is_ordinary_text():
    host = tiny_host(byte_level(), stop_token="of")
    ids = [*host.encode_prompt("Gemland"), host.stop_token, *host.encode_prompt("Gemland")]
    assert host.encoding.text(ids) == "Gemland"


def test_a_target_without_tokens_is_refused():
    tokenizer = Characters()
    tokenizer._tokenize = lambda text, **_: [c for c in text if c not in "\u200b "]
    with pytest.raises(EditError, match="no token of the target"):
        tiny_host(tokenizer).encode("The capital is", "\u200b")


def test_texts_for_statistics_are_opened_but_not_closed():
    host = tiny_host(closing())
    (row,) = TextSample(texts=("The capital of Gemland is Grolwick",)).rows(host)
    assert row == host.encode_prompt("The capital of Gemland is Grolwick")


@pytest.mark.parametrize("kind", KINDS)
def test_edits_are_learned_with_any_tokenizer(kind):
    host = tiny_host(KINDS[kind]())
    edits = [Edit(id=p, prompt=p, target=t, subject=p[:2]) for p, t in PAIRS[3:]]
    stream = ll.EditStream.from_edits(edits, batch_size=2)
    editor = ll.editors.FineTune(
        layer=0, epsilon=None, learning_rate=0.02, steps=100, loss_threshold=0
    )
    with ll.EditSession(host, editor, stream, progress=False) as session:
        session.step()
        scores = host.score([e.prompt for e in edits], [e.target for e in edits])
        assert all(score.reproduced for score in scores)
        for edit in edits:
            assert edit.target == host.generate(edit.prompt)
