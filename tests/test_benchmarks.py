"""Every benchmark can be imported; those of big hosts and of latency run in miniature."""

import importlib
from pathlib import Path

import pytest
import torch

import lemoe_lab as ll
from lemoe_lab.adaptor.routing import BYPASS

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
SCRIPTS = sorted(path.stem for path in BENCHMARKS.glob("*.py"))


@pytest.fixture
def script(monkeypatch):
    """Import a benchmark by name, as if it were run from its folder."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_benchmark_can_be_imported_and_says_what_it_does(script, name):
    module = script(name)
    assert callable(module.main)
    assert f"python benchmarks/{name}.py" in module.__doc__


# Latency of generation


@pytest.fixture(scope="module")
def small_stream(stream):
    """Three batches of two edits."""
    return stream.with_groups([stream.edits[i : i + 2] for i in (0, 2, 4)])


def test_latency_has_a_row_for_every_kind_of_prompts_and_leaves_the_host_bare(
    script, host, small_stream
):
    latency = script("generation_latency").latency
    editor = ll.editors.LEMoE(steps=1)
    hooks = [len(module._forward_hooks) for module in host.model.modules()]
    table = latency(host, editor, small_stream, (1, 3), (1, 4), tokens=2, repetitions=1)
    cases = [(e, p, t) for e in (1, 3) for p in ("to experts", "bypass") for t in (1, 4)]
    assert list(table[["experts", "prompts", "together"]].itertuples(index=False)) == cases
    assert (table[["bare (ms)", "edited (ms)"]] > 0).all().all()
    assert (table["ratio"] == table["edited (ms)"] / table["bare (ms)"]).all()
    assert [len(module._forward_hooks) for module in host.model.modules()] == hooks
    host.require_free()


def test_prompts_are_spread_over_the_experts_and_others_use_none(script, host, small_stream):
    latency = script("generation_latency").latency
    table = latency(host, ll.editors.LEMoE(steps=1), small_stream, (1, 3), (4,), 1, 1)
    used = table.set_index(["experts", "prompts"])["used"].to_dict()
    assert used == {
        (1, "to experts"): 1,
        (1, "bypass"): 0,
        (3, "to experts"): 3,
        (3, "bypass"): 0,
    }


def test_an_adaptor_is_kept_as_it_was_after_so_many_batches(script, host, small_stream):
    benchmark = script("generation_latency")
    editor = ll.editors.LEMoE(steps=1)
    editor.attach(host, small_stream)
    try:
        adaptors = benchmark.grown(editor, small_stream, (1, 3))
        layer = editor.layer
    finally:
        editor.detach()
    assert {count: len(adaptor.experts) for count, adaptor in adaptors.items()} == {1: 1, 3: 3}
    last = [small_stream.batches[2].edits[0].prompt]
    assert benchmark.routes_of(host, adaptors[3], layer, last) == [2]
    assert benchmark.routes_of(host, adaptors[1], layer, last) == [BYPASS]


# The host of seven billion parameters


def test_the_small_host_goes_through_all_of_the_big_hosts_measurements(script):
    tables = script("seven_b").measure(
        "small",
        device="cpu",
        batch_size=2,
        experts=(1, 2),
        intermediate=None,
        rank=2,
        steps=3,
        tokens=2,
        repetitions=1,
        calibration=60,
    )
    learning, generation = tables["learning"], tables["generation"]
    assert list(learning.index) == ["LEMoE, hidden size 172", "FT-L", "LEMoE, rank 2"]
    assert (learning["learning (s/edit)"] > 0).all()
    assert learning["steps"].between(1, 3).all()
    assert set(generation.index) == {1, 2}
    assert set(generation["hidden size"]) == {172}
    assert "to experts" in set(generation["prompts"])


def test_llama_2_7b_has_its_published_size(script):
    from transformers import AutoModelForCausalLM, LlamaConfig

    sizes, layer = script("seven_b").HOSTS["7b"]
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(LlamaConfig(**sizes))
    assert sum(parameter.numel() for parameter in model.parameters()) == 6_738_415_616
    assert (layer, len(model.model.layers)) == (18, 32)


def test_a_random_host_never_says_what_its_tokenizer_lacks(script):
    benchmark = script("seven_b")
    host = benchmark.random_host(benchmark.SMALL, "cpu")
    assert host.model.dtype == torch.bfloat16
    ids = torch.randint(len(host.tokenizer), (50, 4), generator=torch.Generator().manual_seed(0))
    assert host.model(input_ids=ids).logits.argmax(-1).max() < len(host.tokenizer)


def test_experts_are_halved_until_they_fit_together(script, monkeypatch):
    benchmark = script("seven_b")
    host = benchmark.random_host(benchmark.SMALL, "cpu")
    one = 3 * 64 * 172 * 4  # bytes
    monkeypatch.setattr(benchmark, "available_memory", lambda _: 30 * one / benchmark.SPARE)
    assert benchmark.fitting(host, 172, experts=10) == 172
    assert benchmark.fitting(host, 172, experts=100) == 43


def test_tables_are_printed_as_markdown(script):
    import pandas as pd

    table = pd.DataFrame({"seconds": [0.12345], "steps": [7]}, index=pd.Index(["a"], name="editor"))
    lines = script("seven_b").markdown(table).splitlines()
    assert lines == ["| editor | seconds | steps |", "| --- | --- | --- |", "| a | 0.123 | 7 |"]
