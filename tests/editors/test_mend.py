"""MEND: the gradients' factors, what the networks make of them, and what trained them."""

from __future__ import annotations

import pytest
import torch
from helpers import attached, prompts_of
from transformers import GPT2Config, GPT2LMHeadModel

from lemoe_lab import EditStream
from lemoe_lab.editors import MEND, ConfigError
from lemoe_lab.editors.shared.mend_training import (
    EditDraws,
    GradientNetwork,
    factors,
    linears_above,
)
from lemoe_lab.edits import CalibrationFact, EditBatch
from lemoe_lab.host import Host

QUICK = {"training_steps": 20, "training_edits": 10}  # as in the specification of all editors


def untrained(host, stream, **settings):
    """MEND on the host, before any edit, with networks trained briefly."""
    return attached(MEND(**QUICK | settings), host, stream)


def gradients(host, editor: MEND, batch) -> dict[str, torch.Tensor]:
    """Gradients (out, in) of the summed losses of a batch, by automatic differentiation."""
    with editor.trainable():
        total = torch.zeros(())
        for edit in batch:
            sequence = host.encode(edit.prompt, edit.target)
            ids = torch.tensor([[*sequence.prompt, *sequence.target]])
            rows = host.model(input_ids=ids).logits[0, len(sequence.prompt) - 1 : -1]
            total = total - rows.log_softmax(-1)[range(len(rows)), sequence.target].mean()
        total.backward()
        return {name: p.grad.clone() for name, p in editor.parameters.items()}


def factors_of(host, editor: MEND, edits) -> dict:
    states = host.states([host.encode(e.prompt, e.target) for e in edits], editor.layer)
    return factors(host, states, editor.layer, linears_above(host, editor.layer))


def test_outer_products_of_the_factors_sum_to_the_gradient(host, stream):
    batch = stream.batches[0]
    with untrained(host, stream) as editor:
        expected = gradients(host, editor, batch)
        for name, part in factors_of(host, editor, batch).items():
            inputs, errors = part.inputs[part.tokens], part.errors[part.tokens]
            assert torch.allclose(errors.T @ inputs, expected[name], atol=1e-4), name


def test_factors_of_weights_that_are_stored_transposed_sum_to_the_gradient(host, stream):
    size = {"vocab_size": 2048, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64}
    config = GPT2Config(initializer_range=0.3, bos_token_id=1, eos_token_id=2, **size)
    transposed = Host(GPT2LMHeadModel(config), host.tokenizer, "random GPT-2")
    linears = linears_above(transposed, 1)
    for module in linears.values():
        module.weight.requires_grad_(True)
    sequence = transposed.encode(stream.edits[0].prompt, stream.edits[0].target)
    states = transposed.states([sequence], 1)
    given = factors(transposed, states, 1, linears)
    logits = transposed.target_logits(transposed.finish(states, 1), [sequence])
    log_probabilities = logits.log_softmax(-1)[range(len(logits)), sequence.target]
    (-log_probabilities.mean()).backward()
    for name, module in linears.items():
        change = given[name].errors[0].T @ given[name].inputs[0]
        assert torch.allclose(change, module.weight.grad.T, atol=1e-5), name


def test_a_batch_does_not_dilute_the_factors_of_an_edit(host, stream):
    batch = stream.batches[0]
    with untrained(host, stream) as editor:
        together = factors_of(host, editor, batch)
        alone = factors_of(host, editor, batch.edits[:1])
    for name, part in alone.items():
        assert torch.equal(part.tokens[0], together[name].tokens[0, : part.tokens.shape[1]])
        inside = part.errors[0, part.tokens[0]]
        assert torch.allclose(inside, together[name].errors[0, : len(inside)], atol=1e-5)


def transformed(state: dict[str, torch.Tensor], network: int, weight: int, z: torch.Tensor):
    """g of rows z (n, in + out) in float64, equation by equation."""
    part = {
        name.removeprefix(f"networks.{network}."): tensor.double()
        for name, tensor in state.items()
        if name.startswith(f"networks.{network}.")
    }
    z = (z.double() - part["mean"][weight]) / part["deviation"][weight]
    low = z @ part["down"][0].T
    first = part["scale"][weight, 0] * (low @ part["up"][0].T + part["bias"][0])
    h = z + torch.relu(first + part["offset"][weight, 0])
    second = part["scale"][weight, 1] * (h @ part["down"][1].T @ part["up"][1].T + part["bias"][1])
    return h + second + part["offset"][weight, 1]


@pytest.mark.parametrize("edits", [1, 4])
def test_update_is_the_sum_of_outer_products_of_transformed_factors(host, stream, edits):
    batch = EditBatch(step=1, edits=stream.edits[:edits])
    with untrained(host, stream) as editor:
        given = factors_of(host, editor, batch)
        state, before = editor.step_state(0), {n: p.clone() for n, p in editor.parameters.items()}
        editor.edit(batch)
        shapes = list(dict.fromkeys(tuple(p.shape) for p in before.values()))
        seen: dict[tuple, int] = {}
        for number, (name, weight) in enumerate(before.items()):
            shape = tuple(weight.shape)
            place = seen.get(shape, 0)
            seen[shape] = place + 1
            part = given[name]
            change = torch.zeros(shape, dtype=torch.double)
            for row in range(edits):
                for token in part.tokens[row].nonzero()[:, 0]:
                    z = torch.cat([part.inputs[row, token], part.errors[row, token]])
                    g = transformed(state, shapes.index(shape), place, z)
                    change -= state["rates"][number].double() * torch.outer(
                        g[shape[1] :], g[: shape[1]]
                    )
            after = editor.parameters[name]
            assert torch.allclose(after.double(), weight.double() + change, atol=1e-5), name
            assert not torch.equal(after, weight)


@pytest.mark.parametrize("edits", [1, 3])
def test_rank_of_an_update_is_at_most_the_number_of_tokens(host, stream, edits):
    batch = EditBatch(step=1, edits=stream.edits[:edits])
    tokens = sum(len(host.encode(e.prompt, e.target)) - 1 for e in batch)
    with untrained(host, stream) as editor:
        given = factors_of(host, editor, batch)
        with torch.no_grad():
            changes = editor.networks.changes(given, groups=1)
        for change in changes.values():
            values = torch.linalg.svdvals(change[0].double())
            rank = (values > 1e-6 * values[0]).sum().item()
            assert 0.9 * tokens < rank <= tokens


def test_new_network_only_normalises():
    network = GradientNetwork(3, 2, weights=1, rank=2, seed=0)
    network.mean.fill_(1.0)
    network.deviation.fill_(2.0)
    inputs, errors = network(torch.tensor([[3.0, 1.0, -1.0]]), torch.tensor([[5.0, 2.0]]), 0)
    assert inputs.tolist() == [[1.0, 0.0, -1.0]]
    assert errors.tolist() == [[2.0, 0.5]]


def test_training_reads_nothing_of_the_stream(host, stream, monkeypatch):
    read: list[str] = []
    encode, encode_prompt = host.encode, host.encode_prompt
    monkeypatch.setattr(
        host, "encode", lambda prompt, target: read.append(prompt) or encode(prompt, target)
    )
    monkeypatch.setattr(
        host, "encode_prompt", lambda prompt: read.append(prompt) or encode_prompt(prompt)
    )
    with untrained(host, stream, training_steps=2, training_edits=4, seed=5):
        pass
    of_facts = {prompt for fact in stream.calibration for prompt in fact.prompts}
    assert read and set(read) <= of_facts
    asked = {p for e in stream.edits for p in (e.prompt, *(r.prompt for r in e.rephrases))}
    assert not asked & set(read)


def test_drawn_target_is_the_hosts_answer_to_another_fact_of_the_relation(host, stream):
    draws = EditDraws(host, stream.calibration, seed=0)
    for index, target in draws.edits(20):
        relation = stream.calibration[index].relation
        answers = {
            draws.answers[other]
            for other, fact in enumerate(stream.calibration)
            if fact.relation == relation and other != index
        }
        assert target in answers
        assert target != draws.answers[index]


def test_networks_are_trained_once_for_equal_facts_and_settings(host, stream):
    settings = {"training_steps": 1, "training_edits": 2, "batch_sizes": (1,)}
    states = []
    for steps in (1, 1, 2):
        with untrained(host, stream, **settings | {"training_steps": steps}) as editor:
            states.append(editor.calibrated)
    assert states[0] is states[1]
    assert states[0] is not states[2]


def test_single_edits_are_answered_with_their_targets(host, stream):
    right = 0
    with untrained(host, stream) as editor:
        for edit in stream.edits[:12]:
            editor.edit(EditBatch(step=1, edits=(edit,)))
            right += host.generate(edit.prompt) == edit.target
            editor.undo()
    assert right >= 6


def test_most_of_a_batch_is_answered_with_its_targets(host, stream):
    with untrained(host, stream) as editor:
        editor.edit(stream.batches[0])
        answers = host.generate(prompts_of(stream)[:8])
    assert sum(a == e.target for a, e in zip(answers, stream.edits, strict=False)) >= 4


def test_all_linear_weights_of_the_last_three_ffns_are_changed(host, stream):
    with untrained(host, stream) as editor:
        changed = set(editor.changed_tensors())
    expected = {
        f"model.layers.{layer}.mlp.{part}_proj.weight"
        for layer in (3, 4, 5)
        for part in ("gate", "up", "down")
    }
    assert changed == expected


def test_stream_without_calibration_facts_is_refused(host, stream):
    with pytest.raises(ValueError, match="give the stream `calibration`"):
        MEND().attach(host, EditStream(batches=stream.batches))


def test_facts_that_offer_no_other_answer_are_refused(host, stream):
    fact = stream.calibration[0]
    alone = CalibrationFact(subject=fact.subject, relation=fact.relation, prompts=fact.prompts)
    with pytest.raises(ValueError, match="different answers"):
        MEND().attach(host, EditStream(batches=stream.batches, calibration=(alone,)))


def test_impossible_settings_fail_at_construction():
    with pytest.raises(ConfigError, match="batch size must be at least 1"):
        MEND(batch_sizes=(0,))
