"""Fingerprints: equal for equal weights, another for any other byte, hashed once."""

from __future__ import annotations

import copy
import hashlib
import random

import pytest
import torch
from torch import nn

from lemoe_lab import load_host
from lemoe_lab.host import fingerprint
from lemoe_lab.host.fingerprint import Fingerprint


class Small(nn.Module):
    """Weights of several types and odd sizes, two of them tied, one a buffer, one transposed."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.wide = nn.Parameter(torch.randn(37, 1031, generator=generator))
        self.low = nn.Parameter(torch.randn(3, 5, generator=generator).bfloat16())
        self.turned = nn.Parameter(torch.randn(6, 4, generator=generator).T)
        self.octets = nn.Parameter(torch.arange(13, dtype=torch.uint8), requires_grad=False)
        self.single = nn.Parameter(torch.tensor(1.5))
        self.tied = self.wide
        self.register_buffer("mask", torch.ones(9, dtype=torch.bool))
        self.register_buffer("none", torch.empty(0))


@pytest.fixture
def model() -> Small:
    return Small()


def in_place(w):
    with torch.no_grad():
        w[-1, -1] += 1


def through_data(w):
    w.data[0, 0] += 1


def other_data(w):
    w.data = w.data + 1


def by_numpy(w):
    w.detach().numpy()[3, 3] = 9


def by_an_optimizer(w):
    w.grad = torch.ones_like(w)
    torch.optim.SGD([w], lr=1e-3).step()


def swapped_rows(w):
    with torch.no_grad():
        w[[0, 1]] = w[[1, 0]]


def swapped_rows_through_data(w):
    w.data[[0, 1]] = w.data[[1, 0]]


def one_bit(w):
    w.data.view(torch.int32)[5, 7] ^= 1


def nothing_but_the_sign_of_zero(w):
    w.data[2, 2] = -0.0


WAYS = (
    in_place,
    through_data,
    other_data,
    by_numpy,
    by_an_optimizer,
    swapped_rows,
    swapped_rows_through_data,
    one_bit,
    nothing_but_the_sign_of_zero,
)


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_every_way_to_change_a_weight_is_seen(model, way):
    model.wide.data[2, 2] = 0.0
    known = Fingerprint()
    before = known.of(model)
    way(model.wide)
    after = known.of(model)
    assert after != before
    assert after == Fingerprint().of(model)


def test_every_single_byte_counts(model):
    known, rng = Fingerprint(), random.Random(0)
    seen = {known.of(model)}
    tensors = [tensor for tensor in model.state_dict().values() if tensor.numel()]
    for tensor in tensors:
        content = tensor.as_strided((tensor.numel(),), (1,)).view(torch.uint8)
        for place in {0, len(content) - 1, rng.randrange(len(content))}:
            content[place] ^= 1
            seen.add(known.of(model))
            content[place] ^= 1
    places = sum(len({0, t.nbytes - 1}) for t in tensors)
    assert len(seen) > places


def test_a_weight_that_comes_back_gives_the_old_fingerprint(model):
    known = Fingerprint()
    before, original = known.of(model), model.wide.data
    model.wide.data = original + 1
    assert known.of(model) != before
    model.wide.data = original
    assert known.of(model) == before


def test_other_data_at_the_same_place_is_seen(model):
    known, found = Fingerprint(), set()
    for number in range(5):
        model.wide.data = torch.full((37, 1031), float(number))  # the allocator gives the same room
        found.add(known.of(model))
    assert len(found) == 5


@pytest.mark.parametrize("change", ["name", "shape", "type", "class"])
def test_what_is_around_the_bytes_counts(model, change):
    other = copy.deepcopy(model)
    if change == "name":
        other.renamed = other._parameters.pop("single")
    elif change == "shape":
        other.low.data = other.low.data.view(5, 3)
    elif change == "type":
        other.octets.data = other.octets.data.view(torch.int8)
    else:
        other.__class__ = type("Other", (Small,), {})
    assert Fingerprint().of(other) != Fingerprint().of(model)


def test_a_copy_has_the_same_fingerprint_however_it_lies_in_memory(model):
    other = copy.deepcopy(model)
    other.turned.data = other.turned.data.contiguous()
    assert Fingerprint().of(other) == Fingerprint().of(model)


def test_only_what_was_written_to_is_hashed_again(model, monkeypatch):
    known, hashed = Fingerprint(), []
    real = fingerprint._digest
    monkeypatch.setattr(
        fingerprint, "_digest", lambda *parts: (hashed.append(parts), real(*parts))[1]
    )
    known.of(model)
    assert len(hashed) == len(dict(model.named_parameters())) + 2  # tied weights once, and buffers
    hashed.clear()
    known.of(model)
    assert hashed == []
    in_place(model.wide)
    known.of(model)
    assert len(hashed) == 1


def test_weights_that_are_not_in_memory_are_a_clear_error(model):
    with pytest.raises(ValueError, match="is not in memory"):
        Fingerprint().of(model.to("meta"))


def test_a_host_with_one_other_weight_is_another_host(host):
    other = load_host("almanac")
    assert other.fingerprint() == host.fingerprint()
    rng = random.Random(1)
    parameters = dict(other.model.named_parameters())
    for name in rng.sample(sorted(parameters), 8):
        weight = parameters[name].data.view(-1)
        place = rng.randrange(len(weight))
        before = weight[place].item()
        weight[place] += 1
        assert other.fingerprint() != host.fingerprint(), name
        weight[place] = before
    assert other.fingerprint() == host.fingerprint()


def test_digest_is_of_the_bytes_in_order():
    content = torch.arange(3, dtype=torch.int64)
    expected = hashlib.sha256(content.numpy().tobytes() + b"\x07").hexdigest()
    assert fingerprint._digest(content, torch.tensor([7], dtype=torch.uint8)) == expected
