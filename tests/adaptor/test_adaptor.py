"""The adaptor beside an FFN: experts at birth, what routes add, and which prompt decides."""

from __future__ import annotations

import copy

import pytest
import torch
from helpers import UNRELATED, logits, same
from torch import nn

from lemoe_lab.adaptor.experts import Expert
from lemoe_lab.adaptor.mixture import BypassMoE
from lemoe_lab.adaptor.routing import BYPASS, Router, Routes, bypass_routes, single_routes
from lemoe_lab.editors.shared.low_rank import LowRankExpert
from lemoe_lab.host.feed_forward import linears, sizes
from lemoe_lab.probes.oracle import ConstantRouter

LAYER = 4


class Times(nn.Module):
    """An expert that answers with its input, multiplied."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.factor * x


class Listening(ConstantRouter):
    """Sends everything to expert 0, and notes down what it was asked."""

    def __init__(self, feature: str) -> None:
        super().__init__(feature, 0)
        self.asked: list[torch.Tensor] = []

    def route(self, features: torch.Tensor) -> Routes:
        self.asked.append(features)
        return super().route(features)


def adaptor_of(*experts: nn.Module, scale: float = 1.0, router: Router | None = None) -> BypassMoE:
    adaptor = BypassMoE(router or ConstantRouter("state", 0), scale)
    adaptor.experts.extend(experts)
    return adaptor


# Experts at birth


@pytest.mark.parametrize("make", [lambda ffn, seed: Expert(ffn, 30, seed),
                                  lambda ffn, seed: LowRankExpert(ffn, 3, seed)],
                         ids=["full", "low rank"])  # fmt: skip
def test_an_expert_is_born_silent_and_from_its_seed(host, make):
    x = torch.randn(7, host.width)
    one, same_seed, other = (make(host.ffn(LAYER), seed) for seed in (1, 1, 2))
    assert torch.equal(one(x), torch.zeros(7, host.width))
    state = one.state_dict()
    assert all(torch.equal(state[k], tensor) for k, tensor in same_seed.state_dict().items())
    assert not all(torch.equal(state[k], tensor) for k, tensor in other.state_dict().items())
    assert all(parameter.requires_grad for parameter in one.parameters())


@pytest.mark.parametrize("intermediate", [None, 30])
def test_an_expert_has_the_hosts_sizes_except_for_its_hidden_one(host, intermediate):
    expert = Expert(host.ffn(LAYER), intermediate, seed=0)
    hidden = intermediate or host.model.config.intermediate_size
    *inner, last = linears(expert.body)
    assert [sizes(linear) for linear in inner] == [(hidden, host.width)] * len(inner)
    assert sizes(last) == (host.width, hidden)
    for linear in inner:  # rows of length one keep the hidden values of about unit size
        assert linear.weight.norm(dim=1).mean().item() == pytest.approx(1, rel=0.1)
        assert (linear.out_features, linear.in_features) == sizes(linear)


def test_low_rank_matrices_have_rows_of_length_one(host):
    expert = LowRankExpert(host.ffn(LAYER), 3, seed=0)
    outputs_inputs = [sizes(linear) for linear in linears(host.ffn(LAYER))]
    assert [tuple(down.shape) for down in expert.down] == [(3, i) for _, i in outputs_inputs]
    assert [tuple(up.shape) for up in expert.up] == [(o, 3) for o, _ in outputs_inputs]
    for down in expert.down:
        assert down.norm(dim=1).mean().item() == pytest.approx(1, rel=0.2)


def test_an_expert_beside_biased_transposed_matrices_is_born_silent_too(conv1d_host):
    ffn = copy.deepcopy(conv1d_host.ffn(1))
    for linear in linears(ffn):
        nn.init.ones_(linear.bias)
    expert = Expert(ffn, 5, seed=0)
    assert torch.equal(expert(torch.randn(3, 16)), torch.zeros(3, 16))
    assert [sizes(linear) for linear in linears(expert.body)] == [(5, 16), (16, 5)]
    assert not any(linear.bias.any() for linear in linears(expert.body))


@pytest.mark.parametrize("make", [Expert, LowRankExpert])
def test_what_hangs_on_the_hosts_ffn_does_not_hang_on_an_expert(host, make):
    """Hooks of an attached adaptor, and the forward that accelerate puts in place of a module's."""
    asked, ffn = [], copy.deepcopy(host.ffn(LAYER))
    ffn._old_forward, ffn._hf_hook = ffn.forward, object()
    ffn.forward = lambda x: x / 0
    ffn.register_forward_pre_hook(lambda *_: asked.append("before"))
    ffn.register_forward_hook(lambda *_: asked.append("after"))
    expert = make(ffn, 3, seed=0)
    assert torch.equal(expert(torch.ones(2, host.width)), torch.zeros(2, host.width))
    assert asked == []


def test_an_expert_learns_without_touching_the_hosts_ffn(host):
    ffn = host.ffn(LAYER)
    before = [parameter.clone() for parameter in ffn.parameters()]
    for expert in (Expert(ffn, None, 0), LowRankExpert(ffn, 3, 0)):
        with torch.no_grad():
            for parameter in expert.parameters():
                parameter.add_(1.0)
        assert expert(torch.randn(2, host.width)).any()
    assert same(before, list(ffn.parameters()))


# What routes add


def test_every_routed_expert_adds_its_gate_times_the_scale():
    adaptor = adaptor_of(Times(1.0), Times(10.0), Times(100.0), scale=0.5)
    x, output = torch.randn(4, 3, 2), torch.randn(4, 3, 2)
    zeros = torch.zeros(4)
    routes = Routes(
        torch.tensor([[0, 2], [2, 1], [BYPASS, BYPASS], [1, 0]]),
        torch.tensor([[0.5, 0.25], [1.0, 0.5], [0.0, 0.0], [0.25, 0.125]]),
        zeros,
        zeros,
    )
    factor = torch.tensor([0.5 + 25.0, 100.0 + 5.0, 0.0, 2.5 + 0.125]).view(4, 1, 1)
    combined = adaptor.combine(x, output, routes)
    torch.testing.assert_close(combined, output + 0.5 * factor * x)
    assert torch.equal(combined[2], output[2])


@pytest.mark.parametrize("length", [1, 3])
def test_one_expert_for_all_rows_and_one_per_row_add_alike(length):
    x, output = torch.randn(4, length, 2), torch.randn(4, length, 2)
    gates = torch.tensor([1.0, 0.5, 0.25, 0.0])
    alone = adaptor_of(Times(3.0)).combine(
        x, output, single_routes(torch.zeros(4, dtype=torch.long), gates)
    )
    each = adaptor_of(*[Times(3.0)] * 4).combine(x, output, single_routes(torch.arange(4), gates))
    torch.testing.assert_close(alone, output + 3 * gates.view(4, 1, 1) * x)
    torch.testing.assert_close(each, alone)


def test_new_routes_for_rows_of_the_same_shape_are_followed():
    adaptor = adaptor_of(Times(1.0), Times(2.0))
    x = torch.randn(2, 1, 2)
    first, second = (single_routes(torch.tensor(e), torch.ones(2)) for e in ([0, 1], [1, BYPASS]))
    torch.testing.assert_close(adaptor.combine(x, x, first)[0], 2 * x[0])
    torch.testing.assert_close(adaptor.combine(x, x, second)[0], 3 * x[0])
    assert torch.equal(adaptor.combine(x, x, second)[1], x[1])


# On a host


@pytest.mark.parametrize("scale", [1.0, 0.25])
def test_the_ffns_output_becomes_its_own_and_what_the_expert_adds(host, scale):
    adaptor, seen = adaptor_of(Times(2.0), scale=scale), []

    def see(_module: nn.Module, args: tuple, output: torch.Tensor) -> None:
        seen.append((args[0], output))

    ffn = host.ffn(LAYER)
    plain = ffn.register_forward_hook(see)
    try:
        with adaptor.attach(host, LAYER):
            after = ffn.register_forward_hook(see)
            logits(host, UNRELATED[:1])
            after.remove()
    finally:
        plain.remove()
    (x, output), (_, edited) = seen
    torch.testing.assert_close(edited, output + scale * 2 * x)


def test_the_route_hangs_on_the_mean_embedding_of_the_prompts_own_tokens(host):
    router = Listening("embedding")
    with adaptor_of(Times(0.0), router=router).attach(host, LAYER):
        inputs = host.tokenizer([*UNRELATED, "It"], return_tensors="pt", padding=True)
        assert not inputs["attention_mask"].all()
        host.model(**inputs)
    (asked,) = router.asked
    embedding = host.model.get_input_embeddings()
    for row, ids, mask in zip(asked, inputs["input_ids"], inputs["attention_mask"], strict=True):
        torch.testing.assert_close(row, embedding(ids[mask.bool()]).mean(0))


def test_the_route_hangs_on_the_ffns_input_at_the_last_token_of_the_prompt(host):
    router = Listening("state")
    with adaptor_of(Times(0.0), router=router).attach(host, LAYER):
        host.score([UNRELATED[0]], ["a fence"])
        inputs = host.tokenizer(UNRELATED, return_tensors="pt", padding=True)
        host.model(**inputs)
    scored, padded = router.asked
    expected = host.prompt_states(UNRELATED, LAYER)
    torch.testing.assert_close(scored, expected[:1], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(padded, expected, atol=1e-4, rtol=1e-4)


def test_a_route_is_decided_once_for_a_whole_generation(host):
    for feature in ("embedding", "state"):
        router = Listening(feature)
        with adaptor_of(Times(0.0), router=router).attach(host, LAYER):
            host.generate(UNRELATED[0], max_new_tokens=5)
            host.generate(UNRELATED[1], max_new_tokens=5)
        assert len(router.asked) == 2


def test_an_adaptor_without_experts_asks_no_router_for_states(host):
    router = Listening("state")
    before = logits(host, UNRELATED)
    with adaptor_of(router=router).attach(host, LAYER):
        assert same(logits(host, UNRELATED), before)
    assert router.asked == []


def test_pinned_routes_hold_until_the_block_ends(host):
    adaptor = adaptor_of(Times(5.0))
    plain = logits(host, UNRELATED)
    with adaptor.attach(host, LAYER):
        edited = logits(host, UNRELATED)
        assert not same(edited, plain)
        with adaptor.pinned(bypass_routes(1)):
            assert same(logits(host, UNRELATED), plain)
            with adaptor.pinned(single_routes(torch.tensor([0]), torch.ones(1))):
                assert same(logits(host, UNRELATED), edited)
            assert same(logits(host, UNRELATED), plain)
            with adaptor.pinned(None):
                assert same(logits(host, UNRELATED), plain)
        assert same(logits(host, UNRELATED), edited)


def test_pins_come_off_after_an_error(host):
    adaptor = adaptor_of(Times(5.0))
    with adaptor.attach(host, LAYER):
        edited = logits(host, UNRELATED)
        with pytest.raises(ZeroDivisionError), adaptor.pinned(None):
            _ = 1 / 0
        assert same(logits(host, UNRELATED), edited)


def test_detaching_twice_is_detaching_once(host):
    plain = logits(host, UNRELATED)
    detach = adaptor_of(Times(5.0)).attach(host, LAYER)
    assert not same(logits(host, UNRELATED), plain)
    for _ in range(2):
        detach()
        assert same(logits(host, UNRELATED), plain)
