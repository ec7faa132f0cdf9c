"""Routers, against calculations by hand."""

from __future__ import annotations

import math

import pytest
import torch
from helpers import same
from torch.nn import functional as F

from lemoe_lab import Edit
from lemoe_lab.adaptor.anchors import AnchorMemory, Threshold
from lemoe_lab.adaptor.calibration import CalibrationSet, rival_similarities, similarity_threshold
from lemoe_lab.adaptor.routing import KVAnchorRouter, ScopedRouter
from lemoe_lab.editors.moe_adaptor import SoftmaxRouter
from lemoe_lab.edits import EditBatch
from lemoe_lab.host.identity import prompt_numbers


def silu(x: float) -> float:
    return x / (1 + math.exp(-x))


def test_kv_anchor_routes_by_the_equation():
    router = KVAnchorRouter(width=2, value_width=2, seed=0)
    e = torch.tensor([[1.0, -2.0]])
    router.grow(e, 0)
    router.grow(e, 1)
    with torch.no_grad():
        router.down.copy_(torch.tensor([[1.0, 0.0], [1.0, 1.0]]))
        router.up.copy_(torch.tensor([[2.0, 0.0], [0.0, 3.0]]))
        router.keys[0].copy_(torch.tensor([1.0, 0.0]))
        router.keys[1].copy_(torch.tensor([0.0, 1.0]))
    value = 2 * silu(1.0), 3 * silu(-1.0)
    expected = math.exp(value[0]) / (math.exp(value[0]) + math.exp(value[1]))
    routes = router.route(e)
    assert routes.expert.tolist() == [[0]]
    assert routes.gate.item() == pytest.approx(expected)


def test_rehearsal_loss_falls_when_the_projection_learns_the_old_addresses():
    torch.manual_seed(0)
    router = KVAnchorRouter(8, 8, seed=0, mean=torch.zeros(8), centred=True)
    for expert in range(3):
        router.grow(torch.randn(5, 8), expert)
    optimizer = torch.optim.Adam([router.down, router.up], lr=0.05)
    before = router.rehearsal_loss().item()
    for _ in range(50):
        optimizer.zero_grad()
        router.rehearsal_loss().backward()
        optimizer.step()
    assert router.rehearsal_loss().item() < before / 4


def test_scoped_router_sends_a_prompt_to_its_nearest_anchor():
    router = ScopedRouter(torch.zeros(2), torch.eye(2), Threshold(torch.tensor([0.9])))
    router.grow(torch.tensor([[1.0, 0.0]]), 0)
    router.grow(torch.tensor([[0.0, 1.0]]), 1)
    routes = router.route(torch.tensor([[2.0, 0.1], [0.1, 3.0], [1.0, 1.0]]))
    assert routes.expert.flatten().tolist() == [0, 1, -1]
    assert routes.gate.flatten().tolist() == [1.0, 1.0, 0.0]


def test_a_new_anchor_never_takes_over_an_earlier_prompt():
    torch.manual_seed(0)
    router = ScopedRouter(torch.zeros(8), torch.eye(8), Threshold(torch.tensor([0.5])))
    first = torch.randn(20, 8)
    router.grow(first, 0)
    for expert in range(1, 30):
        router.grow(torch.randn(20, 8), expert)
        assert router.route(first).expert.eq(0).all()


def test_threshold_is_the_quantile_among_as_many_anchors_as_it_was_calibrated_with():
    torch.manual_seed(0)
    data = CalibrationSet(torch.zeros(12, 3, 4), torch.arange(12) // 2, torch.arange(12) % 4)
    addresses = F.normalize(torch.randn(12, 3, 4), dim=-1)
    rivals = rival_similarities(addresses, data)

    threshold = similarity_threshold(addresses, data, 0.2)

    for anchors in (1, 12):
        assert threshold.among(anchors) == pytest.approx(torch.quantile(rivals, 0.8).item())
    assert threshold.among(24) == pytest.approx(torch.quantile(rivals, 0.9).item())
    assert threshold.among(120) == pytest.approx(torch.quantile(rivals, 0.98).item())


def test_calibration_without_rivals_is_refused():
    data = CalibrationSet(torch.zeros(3, 2, 4), torch.arange(3), torch.arange(3))

    with pytest.raises(ValueError, match="share a subject or a relation"):
        similarity_threshold(torch.ones(3, 2, 4), data, 0.1)


def test_threshold_never_passes_the_most_similar_rival():
    threshold = Threshold(torch.tensor([0.9, 0.5]), rank=0.5, anchors=10)

    assert threshold.among(10) == pytest.approx(0.7)
    assert threshold.among(10_000_000) == pytest.approx(0.9)


def test_threshold_counts_the_anchors_that_are_not_retired():
    router = ScopedRouter(
        torch.zeros(2), torch.eye(2), Threshold(torch.tensor([0.9, 0.5]), rank=1.0, anchors=1)
    )
    here, there = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])

    router.grow(here, 0)
    router.grow(here, 1)
    assert router.threshold == pytest.approx(0.5)

    router.grow(there, 2)
    assert router.threshold == pytest.approx(0.7)


def test_router_without_anchors_bypasses_everything():
    router = ScopedRouter(torch.zeros(2), torch.eye(2), Threshold(torch.tensor([0.5])))
    assert router.route(torch.ones(3, 2)).expert.flatten().tolist() == [-1, -1, -1]


def test_anchor_at_an_old_address_retires_the_older_one():
    memory = AnchorMemory(2)
    here = torch.tensor([[1.0, 0.0]])
    memory.add(here, 0)
    memory.add(here, 1)
    assert memory.active.tolist() == [False, True]
    assert memory.nearest(here)[1].tolist() == [1]


# The newest edit of a prompt


def unit(*rows: tuple[float, ...]) -> torch.Tensor:
    return F.normalize(torch.tensor(rows), dim=-1)


def test_newer_edit_of_a_prompt_retires_the_older_one_wherever_its_state_came_to_lie():
    memory = AnchorMemory(2)
    memory.add(unit((1.0, 0.0), (0.0, 1.0)), 0, torch.tensor([11, 12]))
    memory.add(unit((1.0, 0.1)), 1, torch.tensor([11]))
    assert memory.active.tolist() == [False, True, True]
    assert memory.expert[memory.nearest(unit((1.0, 0.0)))[1]].tolist() == [1]


def test_two_prompts_that_lie_close_together_stay_two():
    memory = AnchorMemory(2)
    memory.add(unit((1.0, 0.0)), 0, torch.tensor([11]))
    memory.add(unit((1.0, 0.01)), 1, torch.tensor([12]))
    assert memory.count == 2
    found = memory.nearest(unit((1.0, 0.0), (1.0, 0.01)))[1]
    assert memory.expert[found].tolist() == [0, 1]


def test_prompts_that_nobody_numbered_are_not_one():
    memory = AnchorMemory(2)
    memory.add(unit((1.0, 0.0)), 0)
    memory.add(unit((0.0, 1.0)), 1)
    assert memory.count == 2


def test_prompts_are_one_where_the_stream_has_them_as_one(host):
    asked = ["The capital of Nowhere is", "the  capital of nowhere is:", "The mayor of Nowhere is"]
    batches = [
        EditBatch(step=1, edits=(Edit(id=str(i), prompt=prompt, target="Wilport"),))
        for i, prompt in enumerate(asked)
    ]
    one, same, other = (prompt_numbers(host, batch).item() for batch in batches)
    assert one == same != other
    assert one > 0


# Going back


def routers() -> dict:
    """A router of every kind that learns."""
    scoped = ScopedRouter(torch.zeros(8), torch.eye(8), Threshold(torch.tensor([0.5])))
    rehearsed = KVAnchorRouter(8, 6, seed=0, mean=torch.zeros(8), centred=True)
    return {
        "scoped": scoped,
        "KV anchor": rehearsed,
        "softmax": SoftmaxRouter(8, experts=3, top_k=1, per_token=False, seed=0),
    }


@pytest.mark.parametrize("kind", ["scoped", "KV anchor", "softmax"])
def test_any_way_back_and_forth_leads_to_the_same_bits(kind):
    router, generator = routers()[kind], torch.Generator().manual_seed(1)
    queries = torch.randn(30, 8, generator=generator)

    def seen() -> list[torch.Tensor]:
        routes = router.route(queries)
        tensors = [routes.expert, routes.gate, routes.similarity, routes.anchor]
        if memory := getattr(router, "memory", None):
            tensors += [memory.vectors, memory.expert, memory.prompt, memory.retired_by]
        return [t.clone() for t in (*tensors, *router.parameters())]

    states, expected = [router.step_state(-1)], [seen()]
    for expert in range(12):
        prompts = torch.randint(1, 9, (3,), generator=generator)  # most of them come again
        router.grow(torch.randn(3, 8, generator=generator), expert, prompts)
        with torch.no_grad():
            for parameter in filter(lambda p: p.requires_grad, router.parameters()):
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
        states.append(router.step_state(expert))
        expected.append(seen())
    now = 12
    for goal in (11, 7, 8, 9, 3, 0, 1, 2, 3, 4):
        router.forget(goal - 1)
        router.load_step_state(goal - 1, states[goal])
        assert goal <= now + 1
        now = goal
        assert same(seen(), expected[goal])


def test_what_an_anchor_costs_to_add_does_not_grow(monkeypatch):
    memory, copied = AnchorMemory(4), []
    real = AnchorMemory._make_room

    def counted(self: AnchorMemory, length: int) -> None:
        before = len(self._vectors)
        real(self, length)
        copied.append(before if len(self._vectors) != before else 0)

    monkeypatch.setattr(AnchorMemory, "_make_room", counted)
    for expert in range(1000):
        memory.add(F.normalize(torch.randn(1, 4), dim=-1), expert)
    assert sum(copied) < 2 * 1000
