"""What every router does before, between and after batches, and each one's own equation."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import FrozenInstanceError

import pytest
import torch
from torch.nn import functional as F

from lemoe_lab.adaptor.anchors import Threshold
from lemoe_lab.adaptor.routing import (
    BYPASS,
    KVAnchorRouter,
    Router,
    Routes,
    ScopedRouter,
    bypass_routes,
)
from lemoe_lab.editors.moe_adaptor import SoftmaxRouter
from lemoe_lab.probes.oracle import ConstantRouter

WIDTH = 6
RISING = Threshold(torch.tensor([0.9, 0.6, 0.2], dtype=torch.double), rank=2.0, anchors=4)


def features(seed: int, count: int = 5) -> torch.Tensor:
    """Features (n, d) of one batch."""
    return torch.randn(count, WIDTH, generator=torch.Generator().manual_seed(seed))


def scoped() -> ScopedRouter:
    return ScopedRouter(features(90)[0], features(91, 4), RISING)


def rehearsed(seed: int = 0) -> KVAnchorRouter:
    return KVAnchorRouter(WIDTH, 4, seed, mean=features(90)[0], centred=True, bypass=RISING)


ROUTERS: dict[str, Callable[[], Router]] = {
    "softmax": lambda: SoftmaxRouter(WIDTH, experts=4, top_k=2, per_token=False, seed=3),
    "softmax, per token": lambda: SoftmaxRouter(WIDTH, experts=3, top_k=1, per_token=True, seed=3),
    "KV anchor": lambda: KVAnchorRouter(WIDTH, 4, seed=3),
    "KV anchor, rehearsed": rehearsed,
    "scoped": scoped,
}


@pytest.fixture(params=ROUTERS.values(), ids=ROUTERS.keys())
def new(request) -> Callable[[], Router]:
    return request.param


def grown(router: Router, batches: int) -> Router:
    """The router after some batches."""
    for expert in range(batches):
        learn(router, expert)
    return router


@torch.no_grad()
def learn(router: Router, expert: int) -> None:
    """Grow by a batch; then all that can be trained moves."""
    router.grow(features(expert), expert)
    generator = torch.Generator().manual_seed(expert)
    for parameter in router.parameters():
        if parameter.requires_grad:
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))


def equal(one: Routes, other: Routes) -> bool:
    pairs = zip(vars(one).values(), vars(other).values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


# Every router


def test_before_the_first_batch_every_prompt_is_bypassed(new):
    assert equal(new().route(features(0)), bypass_routes(5))


def test_a_bypassed_prompt_has_no_expert_no_gate_and_no_anchor():
    routes = bypass_routes(2)
    assert len(routes) == 2
    assert routes.expert.tolist() == [[BYPASS], [BYPASS]]
    assert routes.gate.tolist() == [[0.0], [0.0]]
    assert routes.similarity.tolist() == [0.0, 0.0]
    assert routes.anchor.tolist() == [BYPASS, BYPASS]


def test_routes_of_some_rows_are_the_routes_of_those_rows_alone(new):
    router = grown(new(), 2)
    routes, rows = router.route(features(0)), torch.tensor([3, 1])
    alone = router.route(features(0)[rows])
    for kept, asked in zip(vars(routes[rows]).values(), vars(alone).values(), strict=True):
        torch.testing.assert_close(kept, asked)


def test_a_router_hangs_on_its_own_seed_and_not_on_what_was_drawn_before(new):
    routes = []
    for global_seed in (1, 2):
        torch.manual_seed(global_seed)
        routes.append(grown(new(), 2).route(features(2)))
    assert equal(*routes)


def test_step_states_one_after_another_make_the_same_router(new):
    first, states = new(), []
    for expert in range(3):
        learn(first, expert)
        states.append({k: v.clone() for k, v in first.step_state(expert).items()})
    second = new()
    for expert, state in enumerate(states):
        second.load_step_state(expert, state)
    asked = torch.cat([features(0), features(1), features(2), features(9)])
    assert equal(first.route(asked), second.route(asked))
    for expert, state in enumerate(states):
        assert second.step_state(expert).keys() == state.keys()


@pytest.mark.parametrize(
    ("name", "feature", "per_token"),
    [
        ("softmax", "embedding", False),
        ("softmax, per token", "state", True),
        ("KV anchor", "embedding", False),
        ("scoped", "state", False),
    ],
)
def test_a_router_says_which_feature_of_a_prompt_it_looks_at(name, feature, per_token):
    router = ROUTERS[name]()
    assert (router.feature, router.per_token) == (feature, per_token)


@pytest.mark.parametrize("name", ["KV anchor", "KV anchor, rehearsed", "scoped"])
def test_routes_that_are_not_trained_carry_no_gradient(name):
    assert not grown(ROUTERS[name](), 2).route(features(0)).gate.requires_grad


def test_states_are_detached_from_training(new):
    router = grown(new(), 2)
    assert not any(tensor.requires_grad for tensor in router.step_state(1).values())


# A threshold


def test_a_fixed_threshold_is_the_same_among_any_number_of_anchors():
    threshold = Threshold(torch.tensor([0.7]))
    assert [threshold.among(n) for n in (0, 1, 1000)] == pytest.approx([0.7] * 3)


@pytest.mark.parametrize(
    ("anchors", "expected"), [(0, 0.2), (1, 0.2), (4, 0.2), (5, 0.36), (8, 0.6), (16, 0.75)]
)
def test_a_threshold_rises_past_the_anchors_that_it_was_found_with(anchors, expected):
    assert RISING.among(anchors) == pytest.approx(expected)


def test_a_threshold_is_the_same_after_storing():
    stored = Threshold.of_state(RISING.state())
    assert (stored.rank, stored.anchors) == (2.0, 4)
    assert [stored.among(n) for n in (1, 5, 16)] == [RISING.among(n) for n in (1, 5, 16)]
    between = Threshold(RISING.rivals, rank=1.1)
    assert Threshold.of_state(between.state()).rank == 1.1


def test_a_threshold_cannot_be_changed_behind_a_router():
    with pytest.raises(FrozenInstanceError):
        RISING.rank = 0.0


def test_a_router_without_bypass_has_no_threshold():
    assert KVAnchorRouter(WIDTH, 4, seed=0).threshold is None
    assert grown(scoped(), 1).threshold == pytest.approx(RISING.among(5))


# One expert for all


@pytest.mark.parametrize(("expert", "gate"), [(2, 1.0), (0, 1.0), (BYPASS, 0.0)])
def test_a_constant_router_sends_everything_to_its_expert(expert, gate):
    router = ConstantRouter("state", expert)
    routes = router.route(features(0, 3))
    assert router.feature == "state"
    assert routes.expert.tolist() == [[expert]] * 3
    assert routes.gate.tolist() == [[gate]] * 3


def test_a_constant_router_learns_nothing():
    router = ConstantRouter("state", 0)
    assert router.calibration_state() == router.step_state(0) == {}
    with pytest.raises(NotImplementedError, match="learns nothing"):
        router.grow(features(0), 0)
    with pytest.raises(NotImplementedError, match="learns nothing"):
        router.load_step_state(0, {})


# The conventional router


def test_softmax_gates_fall_and_carry_gradients():
    router = SoftmaxRouter(WIDTH, experts=4, top_k=3, per_token=False, seed=0)
    router.grow(features(0), 0)
    routes = router.route(features(1))
    assert routes.gate.shape == (5, 3)
    assert (routes.gate.diff(dim=1) < 0).all() and (routes.gate > 0).all()
    assert torch.equal(routes.similarity, routes.gate[:, 0])
    assert routes.anchor.tolist() == [BYPASS] * 5
    routes.gate.sum().backward()
    assert router.weight.grad.any()


def test_balance_needs_routes():
    router = SoftmaxRouter(WIDTH, experts=4, top_k=1, per_token=False, seed=0)
    with pytest.raises(RuntimeError, match=r"call route\(features\) first"):
        router.balance_loss()


def test_weights_at_birth_hang_on_the_seed_and_keep_logits_of_unit_size():
    def weights(seed: int) -> torch.Tensor:
        return SoftmaxRouter(400, experts=50, top_k=1, per_token=False, seed=seed).weight

    assert torch.equal(weights(0), weights(0))
    assert not torch.equal(weights(0), weights(1))
    assert weights(0).norm(dim=1).mean().item() == pytest.approx(1, rel=0.02)


def test_a_first_batch_of_one_prompt_gets_a_tenth_of_its_size_for_a_spread():
    router = SoftmaxRouter(2, experts=2, top_k=1, per_token=False, seed=0)
    router.grow(torch.tensor([[3.0, -4.0]]), 0)
    assert router.centre.tolist() == [3.0, -4.0]
    assert router.spread.tolist() == pytest.approx([math.sqrt(12.5) / 10] * 2)
    assert router.route(torch.tensor([[3.0, -4.0]])).gate.tolist() == [[0.5]]


def test_batches_without_an_expert_of_their_own_share_one():
    own, shared = scoped(), ScopedRouter(features(90)[0], features(91, 4), RISING, one_expert=True)
    for router in (own, shared):
        grown(router, 3)
    seen = torch.cat([features(batch) for batch in range(3)])
    assert own.route(seen).expert[:, 0].tolist() == [0] * 5 + [1] * 5 + [2] * 5
    assert shared.route(seen).expert[:, 0].tolist() == [0] * 15
    assert torch.equal(shared.route(features(7)).anchor, own.route(features(7)).anchor)
    assert torch.equal(
        shared.route(features(7)).expert == BYPASS, own.route(features(7)).expert == BYPASS
    )


# The paper's router


@torch.no_grad()
def by_hand(router: KVAnchorRouter, e: torch.Tensor) -> torch.Tensor:
    """softmax_i(k_i . W_up SiLU(W_down e)) of one prompt, (T,)."""
    value = router.up @ F.silu(router.down @ e)
    return torch.stack([key @ value for key in router.keys]).softmax(0)


def test_kv_anchor_takes_the_key_nearest_to_the_routing_value():
    router = grown(KVAnchorRouter(WIDTH, 4, seed=5), 3)
    routes = router.route(features(7))
    expected = torch.stack([by_hand(router, e) for e in features(7)])
    assert torch.equal(routes.expert[:, 0], expected.argmax(1))
    assert len(routes.expert.unique()) > 1
    torch.testing.assert_close(routes.gate[:, 0], expected.amax(1))


def test_the_gate_of_an_expert_that_trains_alone_is_that_of_its_key():
    router = grown(KVAnchorRouter(WIDTH, 4, seed=5), 3)
    expected = torch.stack([by_hand(router, e) for e in features(7)])
    torch.testing.assert_close(router.gate_of(features(7), 1).detach(), expected[:, 1])
    assert scoped().gate_of(features(7), 0).tolist() == [1.0] * 5


def test_a_centred_router_sees_the_distance_from_the_mean_at_length_sqrt_d():
    router = grown(rehearsed(), 2)
    e = features(7)
    away = e - features(90)[0]
    seen = away / away.norm(dim=1, keepdim=True) * math.sqrt(WIDTH)
    torch.testing.assert_close(router.value(e), F.silu(seen @ router.down.T) @ router.up.T)


def test_kv_anchor_bypasses_below_the_similarity_of_its_nearest_address():
    router = KVAnchorRouter(
        2, 4, seed=0, mean=torch.tensor([1.0, 1.0]), bypass=Threshold(torch.tensor([0.5]))
    )
    router.grow(torch.tensor([[3.0, 1.0], [1.0, 4.0]]), 0)
    routes = router.route(torch.tensor([[1.0, 2.0], [2.0, 1.5], [0.0, 0.5]]))
    assert routes.anchor.tolist() == [1, 0, 1]
    assert routes.similarity.tolist() == pytest.approx(
        [1.0, 2 / math.sqrt(5), -1 / math.sqrt(5)], abs=1e-6
    )
    assert routes.expert.flatten().tolist() == [0, 0, BYPASS]
    assert routes.gate.flatten().tolist() == [1.0, 1.0, 0.0]


def test_only_the_newest_key_and_the_projection_are_trained():
    router = grown(KVAnchorRouter(WIDTH, 4, seed=0), 3)
    assert [key.requires_grad for key in router.keys] == [False, False, True]
    assert router.down.requires_grad and router.up.requires_grad


def test_keys_hang_on_the_seed_and_on_the_expert():
    one, same, other = (KVAnchorRouter(WIDTH, 4, seed) for seed in (0, 0, 1))
    for router in (one, same, other):
        for expert in range(2):
            router.grow(features(0), expert)
    assert torch.equal(one.keys[0], same.keys[0])
    assert not torch.equal(one.keys[0], one.keys[1])
    assert not torch.equal(one.keys[0], other.keys[0])
    assert not torch.equal(one.down, other.down)


@pytest.mark.parametrize("part", ["down", "up", "key"])
def test_values_and_keys_have_unit_size_at_birth(part):
    router = KVAnchorRouter(400, 300, seed=0)
    router.grow(features(0)[:, :1].expand(5, 400), 0)
    rows = router.keys[0][None] if part == "key" else getattr(router, part)
    assert rows.norm(dim=1).mean().item() == pytest.approx(1, rel=0.1)


def test_rehearsal_asks_every_address_for_its_own_expert():
    router = grown(rehearsed(), 2)
    e = torch.cat([features(0), features(1)])
    own = torch.tensor([0] * 5 + [1] * 5)
    expected = F.cross_entropy(router.logits(e), own)
    assert router.rehearsal_loss().item() == pytest.approx(expected.item(), rel=1e-5)


def test_the_address_of_a_replaced_edit_is_not_rehearsed():
    router = rehearsed()
    router.grow(features(0), 0)
    router.grow(features(0), 1)
    expected = F.cross_entropy(router.logits(features(0)), torch.ones(5, dtype=torch.long))
    assert router.rehearsal_loss().item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("make", [rehearsed, scoped])
def test_calibration_holds_the_centre_and_the_threshold(make):
    router = make()
    state = router.calibration_state()
    assert torch.equal(state["centre"], features(90)[0])
    assert Threshold.of_state(state).among(8) == RISING.among(8)


def test_scoped_calibration_holds_the_projection_too():
    assert torch.equal(scoped().calibration_state()["projection"], features(91, 4))


# The scoped router


def test_scoped_similarity_is_the_cosine_after_centring_and_projecting():
    router = grown(scoped(), 2)
    centre, projection = features(90)[0], features(91, 4)
    points = [projection @ (e - centre) for e in torch.cat([features(0), features(1)])]
    query = projection @ (features(7)[2] - centre)
    cosines = torch.stack([F.cosine_similarity(query, point, dim=0) for point in points])
    routes = router.route(features(7))
    assert routes.anchor[2] == cosines.argmax()
    assert routes.similarity[2].item() == pytest.approx(cosines.max().item(), abs=1e-6)


def test_a_prompt_exactly_at_the_threshold_is_taken_for_the_edit():
    router = ScopedRouter(torch.zeros(2), torch.eye(2), Threshold(torch.tensor([0.6])))
    router.grow(torch.tensor([[1.0, 0.0]]), 0)
    router.bypass = Threshold(
        torch.tensor([router.route(torch.tensor([[3.0, 4.0]])).similarity.item()])
    )
    assert router.route(torch.tensor([[3.0, 4.0]])).expert.item() == 0


def test_a_scoped_edit_keeps_its_route_whatever_is_learned_later():
    router = grown(scoped(), 1)
    before = router.route(features(0))
    for expert in range(1, 6):
        router.grow(features(expert), expert)
    after = router.route(features(0))
    assert torch.equal(after.expert, before.expert)
    assert after.anchor.tolist() == list(range(5))
