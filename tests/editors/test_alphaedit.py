"""AlphaEdit's projector and closed form against independent calculations in float64."""

from __future__ import annotations

import pytest
import torch
from helpers import same

from lemoe_lab import EditSession, EditStream, load_host
from lemoe_lab.editors import AlphaEdit, memit
from lemoe_lab.editors.alphaedit import null_space
from lemoe_lab.editors.shared.target_values import target_values

SETTINGS = {"steps": 5, "text_tokens": 500}


@pytest.fixture(scope="module")
def exact_host():
    return load_host("almanac", dtype=torch.float64)


def known_keys() -> torch.Tensor:
    """Keys (m, N) that fill 5 of 12 directions."""
    torch.manual_seed(0)
    return (torch.randn(12, 5) @ torch.randn(5, 40)).double()


def projector(basis: torch.Tensor) -> torch.Tensor:
    return basis.double() @ basis.double().T


def test_projector_is_symmetric_and_idempotent():
    keys = known_keys()
    project = projector(null_space(keys @ keys.T / 40, threshold=1e-6, relative=True))
    assert torch.allclose(project @ project, project, atol=1e-12)
    assert torch.equal(project, project.T)
    assert project.trace().item() == pytest.approx(7)


def test_projector_takes_the_known_keys_to_nothing():
    keys = known_keys()
    project = projector(null_space(keys @ keys.T / 40, threshold=1e-6, relative=True))
    assert (project @ keys).norm() < 1e-6 * keys.norm()


def test_threshold_is_an_eigenvalue_or_a_multiple_of_their_mean():
    moment = torch.diag(torch.tensor([0.5, 1.0, 2.0, 8.5]))  # mean 3
    assert null_space(moment, threshold=0.6, relative=False).shape == (4, 1)
    assert null_space(moment, threshold=0.6, relative=True).shape == (4, 2)
    with pytest.raises(ValueError, match="smallest eigenvalue is 0.5"):
        null_space(moment, threshold=0.1, relative=False)


def keys_of(host, batch) -> torch.Tensor:
    """Keys (m, n) of layer 2 at the prompts' last tokens."""
    projection, keys = host.model.model.layers[2].mlp.down_proj, []
    handle = projection.register_forward_pre_hook(lambda _, args: keys.append(args[0][0, -1]))
    for edit in batch:
        with torch.no_grad():
            host.model(torch.tensor([host.encode_prompt(edit.prompt)]))
    handle.remove()
    return torch.stack(keys, 1)


def test_two_batches_follow_the_closed_form(exact_host, stream, monkeypatch):
    shifts = []

    def remembered(*given):
        values = target_values(*given)
        shifts.append(values.shift.T.double())
        return values

    monkeypatch.setattr(memit, "target_values", remembered)
    weight = exact_host.model.model.layers[2].mlp.down_proj.weight
    editor = AlphaEdit(layer=2, spread=1, ridge=3.0, **SETTINGS)
    with EditSession(exact_host, editor, stream, progress=False):
        project = projector(editor.calibrated["knowledge.2"])
        eye = torch.eye(len(project)).double()
        earlier = torch.zeros_like(project)
        for batch in stream.batches[:2]:
            keys = keys_of(exact_host, batch)
            before = weight.clone()
            editor.edit(batch)
            inner = earlier @ project + keys @ keys.T @ project + 3.0 * eye
            expected = shifts.pop() @ keys.T @ project @ torch.linalg.inv(inner)
            assert torch.allclose(weight - before, expected, rtol=1e-4, atol=1e-6)
            earlier += keys @ keys.T


def test_updates_leave_the_protected_directions_alone(exact_host, stream):
    editor = AlphaEdit(**SETTINGS)
    with EditSession(exact_host, editor, stream, progress=False):
        before = {name: p.clone() for name, p in editor.parameters.items()}
        editor.edit(stream.batches[0])
        for layer in editor.layers:
            name = f"model.layers.{layer}.mlp.down_proj.weight"
            update = editor.parameters[name] - before[name]
            protected = torch.eye(432).double() - projector(editor.calibrated[f"knowledge.{layer}"])
            assert update.norm() > 0
            assert (update @ protected).norm() < 1e-5 * update.norm()


def test_newer_edit_of_a_prompt_takes_the_older_ones_place_among_the_keys(exact_host, stream):
    first = stream.batches[0]
    newer = first.edits[0].model_copy(update={"id": "newer", "target": stream.edits[1].target})
    revised = EditStream.from_groups([first.edits, [newer]])
    weight = exact_host.model.model.layers[2].mlp.down_proj.weight
    editor = AlphaEdit(layer=2, spread=1, ridge=3.0, **SETTINGS)
    with EditSession(exact_host, editor, revised, progress=False):
        basis = editor.calibrated["knowledge.2"].double()
        keys = basis.T @ keys_of(exact_host, first)
        editor.edit(first)
        before = weight.clone()
        editor.edit(revised.batches[1])
        change = (weight - before) @ basis
    # one edit: change is a multiple of k^T (others + ridge I)^-1, without the older edit's key
    others = keys[:, 1:] @ keys[:, 1:].T
    direction = torch.linalg.solve(others + 3.0 * torch.eye(len(keys)).double(), keys[:, 0])
    cosine = torch.nn.functional.cosine_similarity(change, direction[None].double(), dim=1).abs()
    assert change.norm() > 0
    assert cosine.min() > 0.999


def test_a_step_saves_the_keys_of_its_own_batch_alone(host, stream):
    editor = AlphaEdit(**SETTINGS)
    with EditSession(host, editor, stream, progress=False):
        for batch in stream.batches[:2]:
            editor.edit(batch)
        remembered = {name for name in editor.step_state(2) if name.startswith("memory")}
    assert remembered == {"memory.prompts.2", "memory.keys.1.2", "memory.keys.2.2"}


def test_undo_forgets_the_keys_of_the_batch(host, stream):
    editor = AlphaEdit(**SETTINGS)
    with EditSession(host, editor, stream, progress=False):
        editor.edit(stream.batches[0])
        remembered = dict(editor.memory)
        editor.edit(stream.batches[1])
        assert not same(list(remembered.values()), list(editor.memory.values()))
        editor.undo()
        assert same(list(remembered.values()), list(editor.memory.values()))
        editor.undo()
        assert editor.memory == {}


def test_single_edits_succeed(host, stream):
    singles = EditStream.from_edits(stream.edits[:5], batch_size=1)
    editor = AlphaEdit()
    with EditSession(host, editor, singles, progress=False):
        for batch in singles:
            editor.edit(batch)
            assert host.generate(batch.edits[0].prompt) == batch.edits[0].target
            editor.undo()
