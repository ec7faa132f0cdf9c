"""An address in two parts: whom a prompt names, word for word, and what it asks of them."""

from __future__ import annotations

import pytest
import torch

import lemoe_lab as ll
from lemoe_lab import EditSession
from lemoe_lab.adaptor.anchors import Threshold
from lemoe_lab.adaptor.routing import BYPASS
from lemoe_lab.editors.shared.addresses import AddressRouter
from lemoe_lab.host.names import Asked, key_of, named_in, runs_of, together
from lemoe_lab.host.prompts import tokens_of

WIDTH = 4


@pytest.mark.parametrize(
    ("name", "prompt", "found"),
    [
        ("Gem Land", "What is the capital of gem land?", True),
        ("St. Louis", "The mayor of St Louis is", True),
        ("J. R. R. Tolkien", "J.R.R. Tolkien wrote", True),
        ("Ann", "Annapolis is where Bob lives", False),
        ("Gem Land", "The land of the gem is", False),
        ("北京", "谁是北京的市长", True),
        ("Ｇｅｍ", "Gem is", True),
        ("", "Gem is", False),
    ],
)
def test_a_name_is_found_word_for_word(name, prompt, found):
    assert (key_of(name) in runs_of(prompt)) is found


def test_finding_names_takes_no_look_at_every_name():
    names = torch.tensor([key_of(f"person number {i}") for i in range(5000)])
    runs = Asked.of(torch.zeros(2, WIDTH), ["Where is person number 17?", "Nobody is there"]).runs
    found = named_in(names, runs)
    assert found[0].nonzero().flatten().tolist() == [17]
    assert not found[1].any()


def test_an_anchor_without_a_name_stands_everywhere():
    runs = Asked.of(torch.zeros(1, WIDTH), ["Who is there?"]).runs
    assert named_in(torch.tensor([0, key_of("Bob")]), runs).tolist() == [[True, False]]


def test_rows_of_features_are_put_together():
    texts = ["Where is Orl?", "What is the name of the river that flows through Orl?"]
    parts = [Asked.of(torch.randn(1, WIDTH), [text]) for text in texts]
    both = together(parts)
    assert len(both) == 2
    for part, row in zip(parts, (both[:1], both[1:]), strict=True):
        assert torch.equal(part.state, row.state)
        assert set(part.runs.flatten().tolist()) | {0} == set(row.runs.flatten().tolist()) | {0}


def asked(*rows: tuple[list[float], str]) -> Asked:
    return Asked.of(torch.tensor([state for state, _ in rows]), [text for _, text in rows])


@pytest.fixture
def router() -> AddressRouter:
    """Who is Orl's mayor (expert 0), where is Orl (1), who is Gem's mayor (2)."""
    router = AddressRouter(torch.zeros(2), torch.eye(2), Threshold(torch.tensor([0.8])))
    learned = [([1.0, 0.0], "Orl"), ([0.0, 1.0], "Orl"), ([1.0, 0.1], "Gem")]
    for expert, (state, name) in enumerate(learned):
        router.grow(asked((state, f"{name} it is")), expert, None, [name])
    return router


def test_whom_a_prompt_names_and_what_it_asks_decide_together(router):
    routes = router.route(
        asked(
            ([0.9, 0.1], "Who leads Orl?"),
            ([0.1, 0.9], "In which country is Orl?"),
            ([0.9, 0.1], "Gem is led by"),
            ([0.9, 0.1], "Who leads Zet?"),
            ([0.7, 0.7], "Orl is rich in"),
        )
    )
    assert routes.expert[:, 0].tolist() == [0, 1, 2, BYPASS, BYPASS]
    assert routes.gate[:, 0].tolist() == [1, 1, 1, 0, 0]


def test_undo_and_step_states_bring_names_and_inputs_back(router):
    query = asked(([0.9, 0.1], "Gem is led by"), ([0.1, 0.9], "Where is Orl?"))
    before, state = router.route(query), router.step_state(2)
    router.forget(2)
    assert router.route(query).expert[:, 0].tolist() == [BYPASS, 1]
    router.load_step_state(2, state)
    after = router.route(query)
    assert torch.equal(before.expert, after.expert)
    assert torch.equal(router.memory.inputs, torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.1]]))


def test_an_edit_whose_prompt_does_not_name_its_subject_is_found_by_meaning(router):
    router.grow(asked(([-1.0, 0.0], "It is there")), 3, None, ["Xan"])
    assert router.route(asked(([-1.0, 0.1], "Where is it?"))).expert.item() == 3


def test_embeddings_of_tokens_are_read_back_and_others_refused():
    table = torch.randn(20, 8)
    ids = torch.tensor([[3, 7, 1], [0, 0, 19]])
    assert torch.equal(tokens_of(table[ids], table), ids)
    with pytest.raises(RuntimeError, match="words=False"):
        tokens_of(table[ids] + 0.1, table)


@pytest.fixture(scope="module")
def session(host, stream):
    editor = ll.editors.LEMoE(words=True, steps=40)
    with EditSession(host, editor, stream, progress=False) as session:
        session.run()
        yield session


def test_edits_are_learned_and_kept_by_words(session):
    final = session.metrics.query("step == 3 and scorer == 'generated'")
    means = final.groupby("metric")["value"].mean()
    assert means["reliability"] == 1
    assert means["generality"] > 0.9
    assert final.query("group == 'near'")["value"].mean() == 1


def test_prompts_that_name_no_edited_subject_are_bit_for_bit_the_hosts(session, host):
    prompt = "The founder of a village far away is"
    with session.editor.disabled():
        plain = host.score([prompt], ["unknown"])[0]
    edited = host.score([prompt], ["unknown"])[0]
    assert torch.equal(plain.log_probabilities, edited.log_probabilities)


def test_model_generate_takes_the_same_routes(session, host):
    for edit in session.stream.edits[:6]:
        ids = torch.tensor([host.encode_prompt(edit.prompt)])
        embeds = host.model.get_input_embeddings()(ids)
        for given in ({"input_ids": ids}, {"inputs_embeds": embeds}):
            out = host.model.generate(**given, max_new_tokens=24, do_sample=False)
            new = out[0, ids.shape[1] :] if "input_ids" in given else out[0]
            assert host.tokenizer.decode(new, skip_special_tokens=True).strip() == edit.target


def test_words_belong_to_scoped_routing():
    with pytest.raises(ll.editors.ConfigError, match="words"):
        ll.editors.LEMoE(routing="kv_anchor", words=True)


def test_the_oracle_asks_what_experts_by_words_know(session):
    found = ll.probes.oracle(session).query("metric == 'reliability' and scorer == 'generated'")
    assert found["value"].mean() == 1
