"""EWC: Fisher information and penalty by hand, and that they hold earlier edits."""

from __future__ import annotations

import pytest
import torch
from helpers import loss_of

from lemoe_lab import EditStream
from lemoe_lab.editors import FineTuneEWC


@pytest.fixture
def two(stream):
    """Two batches of three edits."""
    return EditStream.from_edits(stream.edits[:6], batch_size=3)


def fisher_by_hand(host, weight, edits) -> torch.Tensor:
    """sum_i (d log p(y_i | x_i) / dW)^2, one edit after another through the whole model."""
    total = torch.zeros_like(weight)
    weight.requires_grad_(True)
    for edit in edits:
        sequence = host.encode(edit.prompt, edit.target)
        ids = torch.tensor([sequence.prompt + sequence.target])
        log_p = host.model(input_ids=ids).logits[0].log_softmax(-1)
        places = torch.arange(len(sequence.prompt), len(sequence))
        (gradient,) = torch.autograd.grad(log_p[places - 1, ids[0, places]].sum(), weight)
        total += gradient**2
    weight.requires_grad_(False)
    return total


@pytest.mark.parametrize("kind", ["exact_host", "conv1d_host"])
def test_fisher_is_the_sum_over_batches_each_taken_when_learned(kind, two, request):
    host = request.getfixturevalue(kind)
    editor = FineTuneEWC(layer=1, steps=3)
    editor.attach(host, two)
    weight = host.ffn_output(1).weight
    expected = torch.zeros_like(weight)
    for batch in two:
        editor.edit(batch)
        expected += fisher_by_hand(host, weight, batch)
        torch.testing.assert_close(
            editor.memory["fisher"], expected, rtol=1e-3, atol=1e-6 * expected.max().item()
        )
    editor.detach()


def test_second_batch_steps_against_loss_and_penalty(exact_host, two):
    """Two steps of batch 2 by Adam's equations on L + lambda/2 sum F (W - W*)^2."""
    strength, rate = 1e3, 1e-3
    editor = FineTuneEWC(layer=5, steps=2, strength=strength, learning_rate=rate, loss_threshold=0)
    editor.attach(exact_host, two)
    weight = exact_host.ffn_output(5).weight
    editor.edit(two.batches[0])
    anchor = weight.clone()
    fisher = fisher_by_hand(exact_host, weight, two.batches[0])
    editor.edit(two.batches[1])
    result = weight.clone()
    editor.undo()

    first, second, clear = 0.0, 0.0, torch.ones_like(anchor, dtype=torch.bool)
    for t in (1, 2):
        gradient = loss_gradient(exact_host, weight, two.batches[1])
        gradient = gradient + strength * fisher * (weight - anchor)
        clear &= gradient.abs() > 1e-6  # Adam divides by it; logits come in float32
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        direction = (first / (1 - 0.9**t)) / ((second / (1 - 0.999**t)).sqrt() + 1e-8)
        weight.data = weight.data - rate * direction
    expected = weight.clone()
    editor.detach()
    assert clear.float().mean() > 0.99
    torch.testing.assert_close(result[clear], expected[clear], rtol=0, atol=1e-5)


def loss_gradient(host, weight, edits) -> torch.Tensor:
    weight.requires_grad_(True)
    (gradient,) = torch.autograd.grad(loss_of(host, edits), weight)
    weight.requires_grad_(False)
    return gradient


def test_first_batch_is_plain_fine_tuning(host, stream):
    weights = []
    for strength in (0, 1e6):
        editor = FineTuneEWC(strength=strength, steps=5)
        editor.attach(host, stream)
        editor.edit(stream.batches[0])
        weights.append(host.ffn_output(editor.layer).weight.clone())
        editor.detach()
    assert torch.equal(*weights)


def test_stronger_penalty_moves_important_entries_less(host, stream):
    moved = []
    for strength in (0, 100, 1000):
        editor = FineTuneEWC(strength=strength)
        editor.attach(host, stream)
        editor.edit(stream.batches[0])
        weight, important = host.ffn_output(editor.layer).weight, editor.memory["fisher"]
        anchor = weight.clone()
        editor.edit(stream.batches[1])
        moved.append((important * (weight - anchor) ** 2).sum().item())
        editor.detach()
    assert moved[0] > moved[1] > moved[2]


def test_undo_forgets_the_fisher_information_of_the_batch(host, stream):
    editor = FineTuneEWC(steps=3)
    editor.attach(host, stream)
    editor.edit(stream.batches[0])
    before = editor.memory["fisher"].clone()
    editor.edit(stream.batches[1])
    assert not torch.equal(editor.memory["fisher"], before)
    editor.undo()
    assert torch.equal(editor.memory["fisher"], before)
    editor.undo()
    assert not editor.memory
    editor.detach()
