"""The host: scores, generation, and the embedded model's knowledge."""

from __future__ import annotations

import random

import pytest
import torch

from lemoe_lab import EditError
from lemoe_lab.datasets import almanac_facts

PROMPTS = ["The capital of Kumistan is", "Once, a", "Who is the mayor of Lerwick?"]
TARGETS = ["Grolwick", "grey cat slept by the fire", "Erik Jones"]


def test_embedded_host_recalls_a_fixed_sample_of_its_facts(host):
    known = [fact for fact in almanac_facts() if fact.object]
    sample = random.Random(300).sample(known, 300)
    asked = [(prompt, fact.object) for fact in sample for prompt in fact.prompts]
    answers = host.generate([prompt for prompt, _ in asked])
    right = sum(answer == target for answer, (_, target) in zip(answers, asked, strict=True))
    assert right / len(asked) >= 0.99


def test_a_host_shown_in_a_notebook_says_what_it_is(host):
    config = host.model.config
    layers, width = config.num_hidden_layers, config.hidden_size
    assert repr(host) == (
        f"Host(almanac: {layers} layers, width {width}, "
        f"context {config.max_position_embeddings} tokens)"
    )


def test_padding_never_changes_a_score(host):
    together = host.score(PROMPTS, TARGETS)
    for prompt, target, score in zip(PROMPTS, TARGETS, together, strict=True):
        (alone,) = host.score([prompt], [target])
        assert torch.allclose(alone.log_probabilities, score.log_probabilities, atol=1e-4)
        assert torch.equal(alone.predicted, score.predicted)


def test_padding_never_changes_a_generation(host):
    assert host.generate(PROMPTS) == [host.generate(prompt) for prompt in PROMPTS]


def test_generation_ends_before_a_full_stop_or_newline(host):
    answer = host.generate("The quiet cat waited behind")
    assert answer and "." not in answer and "\n" not in answer


def test_what_greedy_decoding_reproduces_is_what_teacher_forcing_calls_reproduced(host):
    facts = [fact for fact in almanac_facts() if fact.object][:40]
    prompts, targets = [fact.cloze for fact in facts], [fact.object for fact in facts]
    targets[20:] = [f"{target} again" for target in targets[20:]]
    answers = host.generate(prompts)
    said = [answer == target for answer, target in zip(answers, targets, strict=True)]
    assert [score.reproduced for score in host.score(prompts, targets)] == said
    assert any(said[:20]) and not any(said[20:])


def test_prompt_longer_than_the_context_is_refused(host):
    with pytest.raises(EditError, match="reads at most"):
        host.generate("river " * 500)


def test_empty_prompt_is_refused(host):
    with pytest.raises(EditError, match="empty"):
        host.generate("  ")


def test_layer_that_does_not_exist_is_refused(host):
    with pytest.raises(ValueError, match=r"layers 0\.\.5"):
        host.ffn(6)


def test_states_run_on_from_a_layer_give_the_same_hidden_states(host):
    sequences = [host.encode(p, t) for p, t in zip(PROMPTS, TARGETS, strict=True)]
    states = host.states(sequences, layer=4)
    assert torch.equal(host.finish(states, layer=4), states.final)
