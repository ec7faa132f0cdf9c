"""MEMIT's normal equations against an independent calculation in float64."""

from __future__ import annotations

import pytest
import torch

from lemoe_lab import EditSession, EditStream, load_host
from lemoe_lab.editors import MEMIT, memit
from lemoe_lab.editors.memit import normal_update
from lemoe_lab.editors.shared.target_values import target_values

SETTINGS = {"steps": 5, "text_tokens": 500}


@pytest.fixture(scope="module")
def exact_host():
    return load_host("almanac", dtype=torch.float64)


@pytest.fixture
def found(monkeypatch):
    """The optimised values, as the editor gets them."""
    seen = []

    def remembered(*given):
        seen.append(target_values(*given))
        return seen[-1]

    monkeypatch.setattr(memit, "target_values", remembered)
    return seen


def at_prompt_ends(host, batch, layer: int, last: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys (m, n) of a layer's output projection and outputs (d, n) of layer ``last``."""
    keys, outputs = [], []
    handles = [
        host.model.model.layers[layer].mlp.down_proj.register_forward_pre_hook(
            lambda _, args: keys.append(args[0][0, -1])
        ),
        host.model.model.layers[last].register_forward_hook(
            lambda _, args, output: outputs.append(output[0, -1])
        ),
    ]
    for edit in batch:
        with torch.no_grad():
            host.model(torch.tensor([host.encode_prompt(edit.prompt)]))
    for handle in handles:
        handle.remove()
    return torch.stack(keys, 1), torch.stack(outputs, 1)


def test_update_is_the_minimum_of_the_weighted_squares():
    torch.manual_seed(0)
    keys, residual, text = (torch.randn(*size).double() for size in [(3, 6), (3, 4), (40, 6)])
    kept = 7 * text.T @ text / len(text)
    update = normal_update(keys, residual, kept).requires_grad_(True)
    # |U K - R|^2 + tr(U kept U^T), whose gradient vanishes at the minimum
    cost = (update @ keys.T - residual.T).square().sum() + (update @ kept @ update.T).trace()
    (gradient,) = torch.autograd.grad(cost, update)
    assert gradient.abs().max() < 1e-10


def test_each_layer_solves_the_normal_equations_for_its_share(exact_host, stream, found):
    batch, layers = stream.batches[0], exact_host.model.model.layers
    weights = [layers[n].mlp.down_proj.weight for n in (1, 2)]
    before = [weight.clone() for weight in weights]
    lower_keys, start = at_prompt_ends(exact_host, batch, 1, 2)
    editor = MEMIT(layer=2, spread=2, statistics_weight=50, **SETTINGS)
    with EditSession(exact_host, editor, stream, progress=False):
        editor.edit(batch)
        after = [weight.clone() for weight in weights]
        weights[1].data.copy_(before[1])  # as it was when the upper layer's turn came
        upper_keys, between = at_prompt_ends(exact_host, batch, 2, 2)
        moments = [editor.calibrated[f"knowledge.{n}"].double() for n in (1, 2)]
    target = start + found[0].shift.T.double()
    shares = [(target - start) / 2, target - between]
    for old, new, keys, moment, share in zip(
        before, after, [lower_keys, upper_keys], moments, shares, strict=True
    ):
        left = (new - old) @ (50 * moment + keys @ keys.T)
        assert torch.allclose(left, share @ keys.T, rtol=1e-6, atol=1e-4)


def test_weak_statistics_reach_the_values(exact_host, stream, found):
    batch = stream.batches[0]
    _, start = at_prompt_ends(exact_host, batch, 2, 2)
    editor = MEMIT(statistics_weight=1e-4, **SETTINGS)
    with EditSession(exact_host, editor, stream, progress=False):
        editor.edit(batch)
        _, reached = at_prompt_ends(exact_host, batch, 2, 2)
    shift = found[0].shift.T.double()
    assert (reached - start - shift).norm() < 0.01 * shift.norm()


def test_layers_are_those_below_the_last_and_scale_with_the_host(host, stream):
    with EditSession(host, MEMIT(spread=9, **SETTINGS), stream) as session:
        assert list(session.editor.layers) == [0, 1, 2]
        assert session.editor.layer == 0
    with EditSession(host, MEMIT(layer=4, spread=2, **SETTINGS), stream) as session:
        assert session.editor.changed_tensors() == (
            "model.layers.3.mlp.down_proj.weight",
            "model.layers.4.mlp.down_proj.weight",
        )


def test_last_layer_can_be_edited(host, stream):
    editor = MEMIT(layer=5, **SETTINGS)
    with EditSession(host, editor, stream, progress=False):
        report = editor.edit(stream.batches[0])
        assert report.losses[-1] < report.losses[0]


def test_weights_in_bfloat16_are_edited(stream):
    rough = load_host("almanac", dtype=torch.bfloat16)
    editor = MEMIT(**SETTINGS)
    with EditSession(rough, editor, stream, progress=False):
        editor.edit(stream.batches[0])
        assert {p.dtype for p in editor.parameters.values()} == {torch.bfloat16}


def test_single_edits_succeed(host, stream):
    singles = EditStream.from_edits(stream.edits[:5], batch_size=1)
    editor = MEMIT()
    with EditSession(host, editor, singles, progress=False):
        for batch in singles:
            editor.edit(batch)
            assert host.generate(batch.edits[0].prompt) == batch.edits[0].target
            editor.undo()
