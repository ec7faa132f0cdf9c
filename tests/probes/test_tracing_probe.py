"""Causal tracing against an independent calculation on two hosts, its summaries by hand."""

from __future__ import annotations

from itertools import product

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import traces
from transformers import GPT2Config, GPT2LMHeadModel

from lemoe_lab import EditError, EditSession, editors, probes
from lemoe_lab.edits import CalibrationFact, Edit
from lemoe_lab.host import Host
from lemoe_lab.host.encoding import TokenSequence
from lemoe_lab.probes import tracing
from lemoe_lab.probes.tracing import PARTS, CorruptedRun, TracedPrompt, traced_prompt

PROBABILITIES = ["clean", "corrupted", "restored", "effect"]


@pytest.fixture(scope="module")
def gpt2(host):
    """A tiny random GPT-2 that reads the embedded tokenizer's tokens."""
    torch.manual_seed(0)
    size = {"n_embd": 32, "n_layer": 4, "n_head": 2, "n_positions": 64}
    config = GPT2Config(vocab_size=2048, initializer_range=0.3, **size)
    return Host(GPT2LMHeadModel(config), host.tokenizer, "tiny GPT-2")


@pytest.fixture(scope="module")
def facts(stream):
    return [stream.calibration[0], stream.calibration[-1]]


def trace(host, facts, **settings):
    settings = {"samples": 2, "progress": False} | settings
    return probes.causal_tracing(host, facts, **settings)


@pytest.fixture(scope="module")
def table(host, facts):
    return trace(host, facts)


def close(one, other):
    return np.allclose(one, other, rtol=1e-4, atol=1e-6)


# Against what must be


def test_without_noise_nothing_is_corrupted(host, facts):
    table = trace(host, facts, noise=0.0)
    assert close(table["corrupted"], table["clean"])
    assert close(table["effect"], 0)


def test_noise_destroys_what_the_host_knows(table):
    assert table["clean"].min() > 0.9
    assert table["corrupted"].max() < 0.5


@pytest.mark.parametrize("name", ["host", "gpt2"])
def test_last_state_of_the_last_prompt_token_is_the_whole_answer(name, facts, request):
    host = request.getfixturevalue(name)
    table = trace(host, facts)
    last = table["layer"] == len(host.layers) - 1
    whole = table[last & (table["part"] == "state") & (table["token"] == "last prompt")]
    assert len(whole) == len(facts)
    assert close(whole["restored"], whole["clean"])
    elsewhere = table[last & (table["part"] == "state") & (table["token"] != "last prompt")]
    assert close(elsewhere["restored"], elsewhere["corrupted"])


def test_all_states_of_the_subject_are_the_whole_answer_if_nothing_follows_it(host):
    fact = CalibrationFact(subject="Kumistan", relation="capital", prompts=("Once in Kumistan",))
    table = trace(host, [fact])
    whole = table[(table["token"] == "whole subject") & (table["part"] == "state")]
    assert not close(whole["corrupted"], whole["clean"])
    assert close(whole["restored"], whole["clean"])


@pytest.mark.parametrize("layer", [0, 3, 5])
def test_all_states_of_a_layer_are_the_whole_answer(host, facts, layer):
    prompts = [traced_prompt(host, fact) for fact in facts]
    rows = torch.tensor([0, 1, 1])
    length = max(len(prompt.tokens) for prompt in prompts)
    run = CorruptedRun(host, prompts, rows, torch.randn(3, length, host.width))
    everywhere = torch.ones(3, length, dtype=torch.bool)
    assert not close(run.corrupted, run.clean)
    assert close(run.restored("state", [layer], everywhere), run.clean)
    assert close(run.restored("state", [layer], ~everywhere), run.corrupted)


# Against one forward pass per restored state


def modules_of(host, part, layer):
    """Written out for the two hosts, not found by structure."""
    if host.name == "almanac":
        block = host.model.model.layers[layer]
        return {"state": block, "ffn": block.mlp, "attention": block.self_attn}[part]
    block = host.model.transformer.h[layer]
    return {"state": block, "ffn": block.mlp, "attention": block.attn}[part]


def first(output):
    return output[0] if isinstance(output, tuple) else output


class PlainHooks:
    """One pass of one row; what was seen in a clean pass is put back by hand."""

    def __init__(self, host, fact, noise, subject):
        self.host, self.noise, self.subject = host, noise, subject
        self.ids = torch.tensor([host.encode_prompt(fact.prompts[0])])
        self.seen = {}
        places = list(product(PARTS, range(len(host.layers))))
        clean = self.run({place: self.remember(place) for place in places})
        self.answer = clean.argmax().item()
        self.clean = clean[self.answer].item()
        self.corrupted = self.noisy({})

    def run(self, hooks, embedding_hook=None):
        handles = [modules_of(self.host, *place).register_forward_hook(hook)
                   for place, hook in hooks.items()]  # fmt: skip
        if embedding_hook:
            embedding = self.host.model.get_input_embeddings()
            handles.append(embedding.register_forward_hook(embedding_hook))
        with torch.no_grad():
            logits = self.host.model(input_ids=self.ids).logits[0, -1]
        for handle in handles:
            handle.remove()
        return logits.softmax(-1)

    def remember(self, place):
        def hook(_module, _args, output):
            self.seen[place] = first(output).clone()

        return hook

    def noisy(self, hooks):
        def corrupt(_module, _args, output):
            output = output.clone()
            output[0, self.subject[0] : self.subject[1]] += self.noise
            return output

        return self.run(hooks, corrupt)[self.answer].item()

    def restored(self, part, layers, tokens):
        def hook_at(layer):
            def hook(_module, _args, output):
                changed = first(output).clone()
                for token in tokens:
                    changed[0, token] = self.seen[part, layer][0, token]
                return (changed, *output[1:]) if isinstance(output, tuple) else changed

            return hook

        return self.noisy({(part, layer): hook_at(layer) for layer in layers})


def tokens_by_group(start, end, length):
    groups = {
        "whole subject": [list(range(start, end))],
        "first subject": [[start]],
        "middle subject": [[i] for i in range(start + 1, end - 1)],
        "last subject": [[end - 1]],
        "first after": [[end]],
        "further after": [[i] for i in range(end + 1, length - 1)],
        "last prompt": [[length - 1]],
    }
    if end == length - 1:
        del groups["first after"]
    return {name: places for name, places in groups.items() if places}


@pytest.mark.parametrize(("name", "window"), [("host", 1), ("gpt2", 3)])
def test_batched_tracing_equals_one_forward_pass_per_restored_state(name, window, facts, request):
    host = request.getfixturevalue(name)
    table = trace(host, facts, window=window, seed=5, noise=1.5)
    spans, ids = [], []
    for fact in facts:
        prompt = fact.prompts[0]
        start = len(host.encode_prompt(prompt[: prompt.index(fact.subject)].rstrip()))
        end = len(host.encode_prompt(prompt[: prompt.index(fact.subject)] + fact.subject))
        spans.append((start, end))
        ids += host.encode_prompt(prompt)[start:end]
    scale = 1.5 * host.model.get_input_embeddings().weight[ids].std()
    layers = range(len(host.layers))
    expected = []
    for fact, span in zip(facts, spans, strict=True):
        noise = scale * traced_prompt(host, fact).noise(2, host.width, seed=5)
        runs = [PlainHooks(host, fact, draw, span) for draw in noise]
        groups = tokens_by_group(*span, runs[0].ids.shape[1])
        for part, layer, (token, places) in product(PARTS, layers, groups.items()):
            about = window // 2 if part != "state" else 0
            together = [i for i in layers if abs(i - layer) <= about]
            restored = [run.restored(part, together, place) for run in runs for place in places]
            row = {"fact": fact.prompts[0], "part": part, "layer": layer, "token": token}
            row |= {"clean": runs[0].clean, "corrupted": np.mean([r.corrupted for r in runs])}
            expected.append(row | {"restored": np.mean(restored)})
    expected = pd.DataFrame(expected)
    assert table[["fact", "part", "layer", "token"]].equals(expected.iloc[:, :4])
    assert expected["restored"].sub(expected["corrupted"]).abs().max() > 0.01
    for column in ("clean", "corrupted", "restored"):
        assert close(table[column], expected[column]), column


# The frame


def test_frame_has_one_row_per_fact_part_layer_and_token(host, facts, table):
    key = ["fact", "part", "layer", "token"]
    settings = ["host", "seed", "noise", "samples", "window"]
    assert list(table.columns) == [*settings, "fact", "answer", *key[1:], *PROBABILITIES]
    assert not table.duplicated(key).any()
    assert list(table["fact"].unique()) == [fact.prompts[0] for fact in facts]
    assert set(table["layer"]) == set(range(len(host.layers)))
    assert close(table["effect"], table["restored"] - table["corrupted"])


def test_answer_is_the_first_token_of_what_the_host_says(host, facts, table):
    for fact in facts:
        (answer,) = table.loc[table["fact"] == fact.prompts[0], "answer"].unique()
        assert host.generate(fact.prompts[0]).startswith(answer)


def test_edits_are_named_by_their_ids(host, stream):
    edits = [edit for edit in stream.edits if edit.subject in edit.prompt][:2]
    assert list(trace(host, edits, samples=1)["fact"].unique()) == [edit.id for edit in edits]


def test_same_seed_same_table_and_another_seed_another(host, facts, table):
    assert trace(host, facts).equals(table)
    other = trace(host, facts, seed=1)
    assert close(other["clean"], table["clean"])
    assert not close(other["corrupted"], table["corrupted"])


def test_rows_at_once_change_nothing(host, facts, table, monkeypatch):
    monkeypatch.setattr(tracing, "ROWS_AT_ONCE", 7)
    few = trace(host, facts)
    assert few.drop(columns=PROBABILITIES).equals(table.drop(columns=PROBABILITIES))
    assert close(few[PROBABILITIES], table[PROBABILITIES])


def test_a_prompts_noise_does_not_depend_on_the_others(host, facts):
    alone, again = (traced_prompt(host, fact).noise(2, 8, seed=0) for fact in facts[:1] * 2)
    other = traced_prompt(host, facts[1]).noise(2, 8, seed=0)
    assert torch.equal(alone, again)
    assert not torch.equal(alone[:, :1], other[:, :1])


@pytest.mark.parametrize(
    ("length", "subject", "tokens"),
    [
        (9, (2, 6), ["first subject", *["middle subject"] * 2, "last subject",
                     "first after", "further after", "last prompt"]),
        (5, (3, 4), ["last subject", "last prompt"]),
        (6, (2, 4), ["first subject", "last subject", "first after", "last prompt"]),
        (4, (2, 4), ["first subject", "last prompt"]),
        (3, (2, 3), ["last prompt"]),
    ],
)  # fmt: skip
def test_a_token_that_could_be_two_things_is_the_later_one(length, subject, tokens):
    prompt = TracedPrompt("", TokenSequence(tuple(range(length)), ()), subject)
    whole, *single = prompt.restorations
    assert whole == (*subject, "whole subject")
    assert single == [(subject[0] + i, subject[0] + i + 1, name) for i, name in enumerate(tokens)]


# The host


@pytest.mark.parametrize("name", ["host", "gpt2"])
def test_no_trace_is_left_on_the_host(name, facts, request):
    host = request.getfixturevalue(name)
    before = traces(host)
    trace(host, facts, samples=1)
    assert traces(host) == before


def test_no_trace_is_left_by_an_interrupted_run(host, facts, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    before = traces(host)
    monkeypatch.setattr(Host, "finish", interrupted)
    with pytest.raises(KeyboardInterrupt):
        trace(host, facts, samples=1)
    assert traces(host) == before


def test_a_host_that_is_being_edited_is_refused(host, stream, facts):
    with (
        EditSession(host, editors.MoEAdaptor(steps=1), stream, progress=False),
        pytest.raises(RuntimeError, match="close that session first"),
    ):
        trace(host, facts)


def test_a_host_without_attention_is_refused(host, facts):
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=2048, n_embd=8, n_layer=2, n_head=2, n_positions=64)
    odd = Host(GPT2LMHeadModel(config), host.tokenizer, "odd")
    for block in odd.layers:
        block.mixer = block.attn
        del block.attn
    with pytest.raises(ValueError, match=r"no attention .* layer 0 of odd .* has ln_1.*mixer"):
        tracing.attention(odd, 0)


# What is refused


def test_a_subject_that_does_not_stand_in_the_prompt_is_refused(host):
    edit = Edit(id="e1", prompt="The capital of Kumistan is", target="Lerwick", subject="Gemland")
    with pytest.raises(EditError, match="edit 'e1'.*does not contain the subject 'Gemland'"):
        trace(host, [edit])


def test_an_edit_without_a_subject_is_refused(host):
    edit = Edit(id="e1", prompt="The capital of Kumistan is", target="Lerwick")
    with pytest.raises(EditError, match="edit 'e1' has no subject.*give it subject"):
        trace(host, [edit])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"noise": -1.0}, "noise must be at least 0 standard deviations, not -1.0"),
        ({"samples": 0}, "samples must be at least 1, not 0"),
        ({"window": 0}, "window must be at least 1, not 0"),
    ],
)
def test_impossible_settings_are_refused(host, facts, settings, message):
    with pytest.raises(ValueError, match=message):
        trace(host, facts, **settings)


def test_no_facts_and_the_same_fact_twice_are_refused(host, facts):
    with pytest.raises(ValueError, match="no facts to trace"):
        trace(host, [])
    with pytest.raises(ValueError, match="given twice"):
        trace(host, [facts[0], facts[0]])


# Summaries of hand-made tables


def effects(by_layer, part="ffn", token="last subject", seed=0, host="tiny"):
    """A table with the effects of some facts (inner lists) at every layer."""
    return pd.DataFrame(
        [
            {"host": host, "seed": seed, "fact": f"fact {i}", "part": part, "layer": layer}
            | {"token": token, "clean": 0.9, "corrupted": 0.1, "restored": 0.1 + effect}
            | {"effect": effect}
            for layer, of_layer in enumerate(by_layer)
            for i, effect in enumerate(of_layer)
        ]
    )


def test_summary_holds_mean_total_and_an_interval_that_contains_it():
    summary = probes.tracing_summary(effects([[0.1, 0.3], [0.5, 0.5]]))
    assert summary["effect"].tolist() == pytest.approx([0.2, 0.5])
    assert summary["low"].tolist() == pytest.approx([0.1, 0.5])
    assert summary["high"].tolist() == pytest.approx([0.3, 0.5])
    assert summary["total"].tolist() == pytest.approx([0.8, 0.8])
    assert summary["facts"].tolist() == [2, 2]


def test_summary_averages_the_seeds_of_a_fact_first():
    table = pd.concat([effects([[0.1, 0.3]]), effects([[0.3, 0.3]], seed=1)])
    (row,) = probes.tracing_summary(table).to_dict("records")
    assert row["facts"] == 2
    assert row["effect"] == pytest.approx(0.25)


def test_summary_of_two_hosts_is_refused():
    with pytest.raises(ValueError, match="one host, the table has tiny, other"):
        probes.tracing_summary(pd.concat([effects([[0.1]]), effects([[0.1]], host="other")]))


def test_layers_with_most_effect_come_strongest_first():
    table = pd.concat(
        [effects([[0.1, 0.1], [0.9, 0.0], [0.3, 0.3]]), effects([[1], [0], [0]], part="state")]
    )
    assert probes.layers_with_most_effect(table) == [1]
    assert probes.layers_with_most_effect(table, count=3) == [1, 2, 0]
    assert probes.layers_with_most_effect(table, part="state") == [0]


def test_layers_that_the_table_lacks_are_refused():
    with pytest.raises(
        ValueError, match="cannot choose 3 of 2 layers with .* 2 layers with ffn at last"
    ):
        probes.layers_with_most_effect(effects([[0.1], [0.2]]), count=3)
    with pytest.raises(ValueError, match="1 of 0 layers with 'ffn' at 'nowhere'"):
        probes.layers_with_most_effect(effects([[0.1], [0.2]]), token="nowhere")
