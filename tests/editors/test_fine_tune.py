"""FT-L: two steps by hand, the norm ball, precision."""

from __future__ import annotations

import pytest
import torch
from helpers import attached, loss_of, prompts_of
from torch import Tensor, nn

from lemoe_lab import EditStream, load_host
from lemoe_lab.editors import FineTune
from lemoe_lab.editors.fine_tune import Descent
from lemoe_lab.editors.shared.gradients import edit_losses, keys_and_gradients

RADIUS = 7e-3


def adam_in_the_ball(host, weight, edits, steps: int, rate: float) -> tuple[Tensor, Tensor]:
    """What Adam's equations (arXiv 1412.6980, algorithm 1) and the projection make of a weight.

    Beside it, the smallest gradient that every entry had.
    """
    original = weight.data.clone()
    first, second = torch.zeros_like(original), torch.zeros_like(original)
    smallest = torch.full_like(original, torch.inf)
    weight.requires_grad_(True)
    for t in range(1, steps + 1):
        (gradient,) = torch.autograd.grad(loss_of(host, edits), weight)
        smallest = torch.minimum(smallest, gradient.abs())
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        direction = (first / (1 - 0.9**t)) / ((second / (1 - 0.999**t)).sqrt() + 1e-8)
        moved = weight.data - rate * direction - original
        weight.data = original + moved.abs().clamp(max=RADIUS) * moved.sign()
    weight.requires_grad_(False)
    result, weight.data = weight.data, original
    return result, smallest


def test_two_steps_are_those_of_the_equations(exact_host, stream):
    edits = stream.edits[:2]
    weight = exact_host.ffn_output(4).weight
    expected, gradient = adam_in_the_ball(exact_host, weight, edits, steps=2, rate=5e-3)
    # Adam divides by the gradient, and logits in float32 leave one near zero undetermined.
    clear = gradient > 1e-6
    editor = FineTune(layer=4, steps=2, learning_rate=5e-3, epsilon=RADIUS, loss_threshold=0)
    short = EditStream.from_edits(edits, batch_size=2)
    with attached(editor, exact_host, short):
        editor.edit(short.batches[0])
        assert clear.float().mean() > 0.99
        torch.testing.assert_close(weight[clear], expected[clear], rtol=0, atol=1e-5)


def test_no_entry_ever_leaves_the_ball_around_the_unedited_weight(host, stream):
    weight = host.ffn_output(4).weight
    original = weight.clone()
    with attached(FineTune(layer=4, epsilon=0.01), host, stream) as editor:
        for batch in stream:
            editor.edit(batch)
            distance = (weight - original).abs()
            assert distance.max() <= 0.01 + 1e-7
        assert (distance > 0.0099).float().mean() > 0.01  # the constraint was needed


def test_without_a_radius_the_weight_goes_further(host, stream):
    weight = host.ffn_output(4).weight
    original = weight.clone()
    with attached(FineTune(layer=4, epsilon=None), host, stream) as editor:
        editor.edit(stream.batches[0])
        assert (weight - original).abs().max() > 0.01


def test_only_the_named_weight_changes(host, stream):
    before = {name: p.clone() for name, p in host.model.named_parameters()}
    with attached(FineTune(layer=3), host, stream) as editor:
        editor.edit(stream.batches[0])
        changed = [n for n, p in host.model.named_parameters() if not torch.equal(p, before[n])]
        assert changed == list(editor.changed_tensors()) == ["model.layers.3.mlp.down_proj.weight"]


def test_a_learned_batch_is_answered_and_no_longer_trained(host, stream):
    with attached(FineTune(steps=60), host, stream) as editor:
        report = editor.edit(stream.batches[0])
        assert host.generate(prompts_of(stream)[:8]) == [e.target for e in stream.edits[:8]]
        assert len(report.losses) < 60
        assert report.losses[-1] < editor.config.loss_threshold


def test_steps_smaller_than_the_precision_of_the_host_add_up():
    parameter = nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
    descent = Descent([parameter], learning_rate=1e-3)  # bfloat16 near 1 moves by 4e-3
    for _ in range(8):
        descent.step(parameter.float().sum())
    assert parameter.dtype == torch.bfloat16
    assert parameter.detach().float().tolist() == pytest.approx([0.992] * 3, abs=2e-3)


def test_host_in_bfloat16_learns_and_stays_in_bfloat16(stream):
    host = load_host("almanac", dtype=torch.bfloat16)
    edit = stream.edits[0]
    short = EditStream.from_edits([edit], batch_size=1)
    with attached(FineTune(steps=60), host, short) as editor:
        editor.edit(short.batches[0])
        assert host.generate(edit.prompt) == edit.target
        assert host.ffn_output(editor.layer).weight.dtype == torch.bfloat16


def test_keys_and_gradients_of_a_matrix_make_its_gradient(exact_host, stream):
    layer, module = 4, exact_host.ffn_output(4)
    edits = stream.edits[:3]
    sequences = [exact_host.encode(edit.prompt, edit.target) for edit in edits]
    states = exact_host.states(sequences, layer)
    ((keys, gradients),) = keys_and_gradients(
        states, [module], lambda s: edit_losses(exact_host, s, layer).mean()
    )
    module.weight.requires_grad_(True)
    (expected,) = torch.autograd.grad(loss_of(exact_host, edits), module.weight)
    module.weight.requires_grad_(False)
    torch.testing.assert_close(torch.einsum("blo,bli->oi", gradients, keys), expected)


def test_losses_of_edits_do_not_hang_on_each_other(host, stream):
    sequences = [host.encode(edit.prompt, edit.target) for edit in stream.edits[:5]]
    together = edit_losses(host, host.states(sequences, 4), 4)
    alone = [edit_losses(host, host.states([s], 4), 4) for s in sequences]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-4)
