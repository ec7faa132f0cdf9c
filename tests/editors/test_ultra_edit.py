"""UltraEdit: the closed form by hand, and statistics that know all batches."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lemoe_lab import EditStream
from lemoe_lab.editors import ConfigError, UltraEdit
from lemoe_lab.editors.ultra_edit import Moments


def rows_by_hand(host, module, edits, everywhere: bool) -> tuple[np.ndarray, np.ndarray]:
    """h_i (n, in) and v_i (n, out) of one linear module, one edit after another."""
    seen = {}

    def keep(_module, args, output):
        seen["in"], seen["out"] = args[0], output

    handle = module.register_forward_hook(keep)
    keys, gradients = [], []
    module.weight.requires_grad_(True)
    for edit in edits:
        sequence = host.encode(edit.prompt, edit.target)
        ids = torch.tensor([sequence.prompt + sequence.target])
        log_p = host.model(input_ids=ids).logits[0].log_softmax(-1)
        places = torch.arange(len(sequence.prompt), len(sequence))
        loss = -log_p[places - 1, ids[0, places]].mean()
        (gradient,) = torch.autograd.grad(loss, seen["out"])
        chosen = torch.arange(0, len(sequence) - 1) if everywhere else places - 1
        keys.append(seen["in"][0, chosen].detach().numpy())
        gradients.append(gradient[0, chosen].numpy())
    module.weight.requires_grad_(False)
    handle.remove()
    return np.concatenate(keys), np.concatenate(gradients)


def shift_by_hand(keys, gradients, seen_keys, seen_gradients, step_size):
    """D^T of the paper's normal equations, normalised by all rows seen so far."""
    h = (keys - seen_keys.mean(0)) / seen_keys.std(0, ddof=1)
    v = (gradients - seen_gradients.mean(0)) / seen_gradients.std(0, ddof=1)
    u = -step_size * np.linalg.norm(h, axis=1, keepdims=True) ** 2 * v
    return (np.linalg.inv(keys.T @ keys + np.eye(keys.shape[1])) @ keys.T @ u).T


@pytest.mark.parametrize("tokens", ["target", "all"])
def test_two_batches_shift_the_weight_by_the_closed_form(exact_host, stream, tokens):
    module = exact_host.ffn_output(5)
    two = EditStream.from_edits(stream.edits[:6], batch_size=3)
    editor = UltraEdit(layers=(5,), tokens=tokens, step_size=1e-3)
    editor.attach(exact_host, two)
    try:
        keys, gradients = [], []
        for batch in two:
            new_keys, new_gradients = rows_by_hand(exact_host, module, batch, tokens == "all")
            keys.append(new_keys)
            gradients.append(new_gradients)
            shift = shift_by_hand(
                new_keys, new_gradients, np.concatenate(keys), np.concatenate(gradients), 1e-3
            )
            before = module.weight.numpy(force=True).copy()
            editor.edit(batch)
            change = module.weight.numpy(force=True) - before
            np.testing.assert_allclose(change, shift, rtol=1e-3, atol=1e-6 * abs(shift).max())
    finally:
        editor.detach()


def test_statistics_after_all_batches_are_those_of_all_rows_at_once():
    rows = torch.randn(50, 7, generator=torch.Generator().manual_seed(3), dtype=torch.double)
    rows = rows * torch.arange(1, 8) + 100
    running = Moments.of(rows[:1])
    for part in rows[1:].split([4, 20, 1, 24]):
        running = running.merged(Moments.of(part))
    expected = (rows - rows.mean(0)) / rows.std(0)
    torch.testing.assert_close(running.normalise(rows), expected)


def test_transposed_weights_get_the_same_closed_form(conv1d_host, stream):
    module = conv1d_host.ffn_output(1)
    edits = stream.edits[:3]
    keys, gradients = rows_by_hand(conv1d_host, module, edits, everywhere=False)
    shift = shift_by_hand(keys, gradients, keys, gradients, 1e-3)
    short = EditStream.from_edits(edits, batch_size=3)
    editor = UltraEdit(layers=(1,), step_size=1e-3)
    editor.attach(conv1d_host, short)
    before = module.weight.clone()
    editor.edit(short.batches[0])
    change = (module.weight - before).numpy(force=True)
    editor.detach()
    np.testing.assert_allclose(change.T, shift, rtol=1e-3, atol=1e-6 * abs(shift).max())


@pytest.mark.parametrize(
    ("part", "names"),
    [("out", ["down"]), ("in", ["gate", "up"]), ("both", ["gate", "up", "down"])],
)
def test_part_says_which_matrices_change(host, stream, part, names):
    before = {name: p.clone() for name, p in host.model.named_parameters()}
    editor = UltraEdit(layers=(2, 4), part=part)
    editor.attach(host, stream)
    editor.edit(stream.batches[0])
    changed = [n for n, p in host.model.named_parameters() if not torch.equal(p, before[n])]
    assert editor.layer == 2
    assert changed == list(editor.changed_tensors())
    editor.detach()
    assert changed == [f"model.layers.{i}.mlp.{n}_proj.weight" for i in (2, 4) for n in names]


def test_what_is_remembered_does_not_grow(host, stream):
    editor = UltraEdit()
    editor.attach(host, stream)
    sizes = []
    for batch in stream:
        editor.edit(batch)
        sizes.append({name: tensor.shape for name, tensor in editor.memory.items()})
    editor.detach()
    assert sizes[0] and sizes[0] == sizes[-1]


def test_most_single_edits_are_learned_in_one_step(host, stream):
    single = EditStream.from_edits(stream.edits, batch_size=1)
    editor = UltraEdit()
    editor.attach(host, single)
    right = 0
    for batch in single:
        (edit,) = batch.edits
        assert len(editor.edit(batch).losses) == 1
        right += host.generate(edit.prompt) == edit.target
        editor.undo()
    editor.detach()
    assert right >= 0.75 * len(single)


def test_no_layer_at_all_is_refused():
    with pytest.raises(ConfigError, match="layers"):
        UltraEdit(layers=())
