"""Second moments over the host's own text: right, repeatable, and kept where they may be."""

from __future__ import annotations

import shutil

import pytest
import torch
from helpers import same

from lemoe_lab import load_host
from lemoe_lab.datasets import data_folder
from lemoe_lab.host import statistics
from lemoe_lab.host.statistics import TextSample, openings, own_text, second_moments

SMALL = TextSample(tokens=300, length=12, seed=3)


@pytest.fixture
def fresh_host(tmp_path):
    """A host in a folder of its own, unknown to any cache."""
    folder = tmp_path / "host"
    shutil.copytree(data_folder() / "host", folder, ignore=shutil.ignore_patterns("statistics"))
    return load_host(folder)


@pytest.fixture
def counted(monkeypatch):
    """How often statistics were measured."""
    calls = []
    measured = statistics._measured
    monkeypatch.setattr(
        statistics, "_measured", lambda *given: calls.append(given[1]) or measured(*given)
    )
    return calls


def test_own_text_is_the_same_for_the_same_seed_and_leaves_the_global_generator_alone(host):
    before = torch.get_rng_state()
    first = own_text(host, tokens=300, length=12, seed=3)
    assert torch.equal(torch.get_rng_state(), before)
    assert first == own_text(host, tokens=300, length=12, seed=3)
    assert first != own_text(host, tokens=300, length=12, seed=4)


def test_own_text_starts_with_the_start_token_and_never_contains_the_stop_token(host):
    texts = own_text(host, tokens=300, length=12, seed=3)
    assert sum(map(len, texts)) >= 300
    assert all(text[0] == host.tokenizer.bos_token_id for text in texts)
    assert all(host.stop_token not in text and len(text) <= 12 for text in texts)


def test_own_text_follows_the_probabilities_of_the_host(host):
    texts = own_text(host, tokens=4000, length=2, seed=0)
    with torch.no_grad():
        start = torch.tensor([[host.tokenizer.bos_token_id]])
        likely = host.model(start).logits[0, -1].softmax(-1)
    most = likely.argmax().item()
    share = sum(text[1:] == (most,) for text in texts) / len(texts)
    assert share == pytest.approx(likely[most].item(), abs=0.05)


def test_openings_have_their_length_and_go_on(host):
    tokens = openings(host, count=5, length=4, seed=0)
    assert tokens.shape == (5, 4)
    assert host.stop_token not in tokens


def test_second_moment_is_the_mean_outer_product_of_the_keys(host):
    sample = TextSample(texts=("The quiet cat waited.", "It rained in the garden, and"))
    projection = host.model.model.layers[2].mlp.down_proj
    keys = []
    handle = projection.register_forward_pre_hook(lambda _, args: keys.append(args[0][0]))
    for text in sample.texts:
        with torch.no_grad():
            host.model(torch.tensor([host.encode_prompt(text)]))
    handle.remove()
    keys = torch.cat(keys).double()
    expected = sum(torch.outer(key, key) for key in keys) / len(keys)
    measured = second_moments(host, [2], sample)[2].double()
    assert torch.allclose(measured, expected, atol=1e-5)


def test_statistics_are_measured_once_and_only_for_missing_layers(fresh_host, counted):
    second_moments(fresh_host, [1, 2], SMALL)
    second_moments(fresh_host, [2, 3], SMALL)
    second_moments(fresh_host, [1, 2, 3], SMALL)
    assert counted == [[1, 2], [3]]


def test_statistics_beside_the_host_are_read_by_the_next_process(fresh_host, counted):
    first = second_moments(fresh_host, [1], SMALL)[1]
    again = second_moments(load_host(fresh_host.folder), [1], SMALL)[1]
    assert counted == [[1]]
    assert same([first], [again])
    assert [path.suffix for path in (fresh_host.folder / "statistics").iterdir()] == [
        ".safetensors"
    ]


def test_other_samples_and_other_weights_have_statistics_of_their_own(fresh_host, counted):
    second_moments(fresh_host, [1], SMALL)
    second_moments(fresh_host, [1], TextSample(tokens=300, length=12, seed=4))
    with torch.no_grad():
        fresh_host.model.model.layers[0].mlp.down_proj.weight[0, 0] += 1
    second_moments(fresh_host, [1], SMALL)
    assert len(counted) == 3


def test_a_damaged_file_is_measured_and_written_anew(fresh_host, counted):
    first = second_moments(fresh_host, [1], SMALL)[1]
    (path,) = (fresh_host.folder / "statistics").iterdir()
    path.write_bytes(path.read_bytes()[:100])
    again = second_moments(load_host(fresh_host.folder), [1], SMALL)[1]
    second_moments(load_host(fresh_host.folder), [1], SMALL)
    assert same([first], [again])
    assert len(counted) == 2


def test_a_folder_that_takes_no_files_leaves_statistics_in_memory(fresh_host, counted):
    (fresh_host.folder / "statistics").write_text("a file where the folder would be")
    second_moments(fresh_host, [1], SMALL)
    second_moments(fresh_host, [1], SMALL)
    assert len(counted) == 1


def test_a_host_without_a_folder_has_statistics_too(fresh_host, counted):
    folder, fresh_host.folder = fresh_host.folder, None
    second_moments(fresh_host, [1], SMALL)
    assert len(counted) == 1
    assert not (folder / "statistics").exists()
