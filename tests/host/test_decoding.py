"""Greedy means greedy: a checkpoint's settings and a question's neighbours change no answer."""

from __future__ import annotations

import copy

import pytest
import torch
from helpers import prompts_of

import lemoe_lab as ll
from lemoe_lab import Edit, EditSession, EditStream, Host, LocalityPrompt
from lemoe_lab.embedded.small_host import train_small_host
from lemoe_lab.host.decoding import LOOK_AHEAD, greedy

SETTINGS = [
    {"repetition_penalty": 9.0},
    {"min_new_tokens": 12},
    {"min_length": 40},
    {"do_sample": True, "temperature": 5.0},
    {"num_beams": 3},
    {"num_beams": 3, "num_return_sequences": 3},
    {"no_repeat_ngram_size": 1},
    {"suppress_tokens": list(range(100, 1500))},
    {"forced_eos_token_id": 7},
    {"max_length": 9},
    {"use_cache": False},
    {"cache_implementation": "static"},
]


@pytest.fixture
def own(host) -> Host:
    """The embedded host with generation settings of its own."""
    return Host(copy.deepcopy(host.model), host.tokenizer, "own settings")


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda s: "+".join(s))
def test_no_setting_of_a_checkpoint_changes_an_answer(host, own, stream, settings):
    prompts = prompts_of(stream)[:6]
    for name, value in settings.items():
        setattr(own.model.generation_config, name, value)
    if "use_cache" in settings:
        own.model.config.use_cache = False
    kept = own.model.generation_config
    before = copy.deepcopy(kept.to_dict())
    assert own.generate(prompts) == host.generate(prompts)
    targets = [edit.old_answer for edit in stream.edits[:6]]
    assert own.exact_match(prompts, targets) == host.exact_match(prompts, targets)
    assert own.model.generation_config is kept
    assert kept.to_dict() == before


def test_settings_come_back_after_an_error(own):
    kept = own.model.generation_config
    with pytest.raises(ZeroDivisionError), greedy(own.model):
        raise ZeroDivisionError
    assert own.model.generation_config is kept


def test_a_long_neighbour_takes_no_room_from_an_answer(host, stream):
    passage = " ".join(ll.datasets.almanac_prose("heldout")[:30])
    ids = host.tokenizer(passage)["input_ids"][: host.context - 2]
    long = host.tokenizer.decode(ids, skip_special_tokens=True).strip()
    asked = prompts_of(stream)[:4]
    assert host.generate([*asked, long])[:4] == host.generate(asked)


@pytest.fixture(scope="module")
def town() -> Host:
    """A host that answers questions on a new line, and goes on after a statement."""
    people = {"Gem": "Ann", "Zim": "Bob", "Orl": "J. R. Cid", "Tarn": "Dora"}
    texts = [f"Who keeps {place}?\n\n{name}" for place, name in people.items()]
    texts += [
        f"The keeper of {place} is {name}. " + " ".join([f"{place} is old."] * 12)
        for place, name in people.items()
    ]
    return train_small_host(texts * 4, steps=200, progress=False)


def test_an_answer_may_begin_on_a_new_line(town):
    assert town.generate(["Who keeps Gem?", "Who keeps Zim?"]) == ["Ann", "Bob"]
    assert town.exact_match(["Who keeps Gem?"], ["Ann"]) == [True]


def test_a_model_that_goes_on_and_on_is_heard_to_its_first_sentence(town):
    assert town.generate("The keeper of Zim is") == "Bob"
    assert town.generate("The keeper of Orl is") == "J. R. Cid"
    assert town.exact_match(["The keeper of Orl is"], ["J. R. Cid"]) == [True]


def test_it_is_not_listened_to_for_long(town):
    passes = []
    handle = town.decoder.register_forward_pre_hook(lambda *_: passes.append(1))
    try:
        town.generate("The keeper of Zim is")
    finally:
        handle.remove()
    assert len(passes) < LOOK_AHEAD + 12


def test_what_is_said_without_a_stop_token_is_known_too(town):
    edits = [
        Edit(id="known", prompt="The keeper of Gem is", target="Ann"),
        Edit(id="alias", prompt="The keeper of Zim is", target="Robert", aliases=("Bob",)),
        Edit(id="new", prompt="The keeper of Tarn is", target="Eve"),
    ]
    stream = EditStream.from_edits(edits, batch_size=1)
    assert [edit.id for edit in ll.drop_known(town, stream).edits] == ["new"]
    with pytest.raises(ll.EditError, match="known"):
        EditSession(town, ll.editors.FineTune(layer=0), stream, progress=False)


def test_a_stream_that_is_known_entirely_comes_back_empty_and_says_why(town):
    edits = [Edit(id="known", prompt="The keeper of Gem is", target="Ann")]
    with pytest.warns(UserWarning, match="already answers all 1 edits"):
        left = ll.drop_known(town, EditStream.from_edits(edits, batch_size=1))
    assert not left.edits
    with pytest.raises(ll.EditError, match="no edits"):
        EditSession(town, ll.editors.FineTune(layer=0), left, progress=False)


TARGETS = ["Q. E. Dean", "Mt. Tarn", "2.71", "a.b.example", "first\nsecond", "oak " * 29 + "oak"]


@pytest.mark.parametrize("target", TARGETS, ids=repr)
def test_metrics_generate_and_says_agree_on_what_was_taught(host, stream, target):
    edit = Edit(id="taught", prompt=stream.edits[0].prompt, target=target)
    alone = EditStream.from_edits([edit], 1, calibration=stream.calibration)
    with EditSession(host, ll.editors.LEMoE(steps=200), alone, progress=False) as session:
        rows = session.run().query("scorer == 'generated' and step == 1")
        assert host.generate(edit.prompt) == target
        assert host.exact_match([edit.prompt], [target]) == [True]
        assert rows.value.tolist()[-1] == 1.0


def test_a_locality_prompt_that_was_taught_is_no_damage(host, stream):
    first, second = stream.edits[:2]
    asked = [LocalityPrompt(prompt=second.prompt, group="near"), *first.locality[:1]]
    meeting = first.model_copy(update={"locality": tuple(asked)})
    both = stream.with_groups([[meeting], [second]])
    with EditSession(host, ll.editors.LEMoE(steps=40), both, progress=False) as session:
        session.run()
        rows = session.metrics.query("metric == 'locality' and edit == @meeting.id")
    assert rows.query("step == 1").groupby("scorer").size().tolist() == [2, 2]
    assert rows.query("step == 2").groupby("scorer").size().tolist() == [1, 1]


@pytest.mark.parametrize("free", [2, 3, 9])
def test_a_locality_prompt_near_the_context_is_asked_in_the_room_there_is(host, stream, free):
    passage = " ".join(ll.datasets.almanac_prose("heldout")[:30])
    ids = host.tokenizer(passage)["input_ids"][: host.context - free]
    long = host.tokenizer.decode(ids, skip_special_tokens=True).strip()
    edit = Edit(
        id="edit",
        prompt=stream.edits[0].prompt,
        target="a target of more tokens than the passage leaves",
        locality=[LocalityPrompt(prompt=long, group="far")],
    )
    alone = EditStream.from_edits([edit], 1, calibration=stream.calibration)
    with EditSession(host, ll.editors.LEMoE(steps=5), alone, progress=False) as session:
        rows = session.run()
    assert set(rows.query("metric == 'locality'").value) == {1.0}


def test_a_locality_prompt_without_any_room_is_refused_by_name_before_the_first_batch(host, stream):
    passage = " ".join(ll.datasets.almanac_prose("heldout")[:30])
    ids = host.tokenizer(passage)["input_ids"][: host.context + 3]
    long = host.tokenizer.decode(ids, skip_special_tokens=True).strip()
    edit = stream.edits[0].model_copy(
        update={"locality": (LocalityPrompt(prompt=long, group="far"),)}
    )
    alone = stream.with_groups([[stream.edits[1]], [edit]])
    with pytest.raises(ll.EditError, match=repr(edit.id)):
        EditSession(host, ll.editors.LEMoE(), alone, progress=False)


def test_deciding_by_the_score_gives_what_decoding_gives(host, stream, monkeypatch):
    def decoded(_rescored, *_args):
        return None

    small = stream.with_groups([batch.edits[:3] for batch in stream])
    with EditSession(host, ll.editors.FineTune(steps=15), small, progress=False) as session:
        quick = session.run()
    monkeypatch.setattr("lemoe_lab.evaluation.Rescored.said", decoded)
    with EditSession(host, ll.editors.FineTune(steps=15), small, progress=False) as session:
        slow = session.run()
    assert 0 < quick.query("scorer == 'generated'").value.mean() < 1
    assert quick.equals(slow)


def test_nothing_depends_on_the_order_of_questions(host, stream):
    prompts = prompts_of(stream)
    answers = host.generate(prompts)
    order = torch.randperm(len(prompts), generator=torch.Generator().manual_seed(3)).tolist()
    assert host.generate([prompts[i] for i in order]) == [answers[i] for i in order]
