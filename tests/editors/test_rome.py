"""ROME against its equations, in float64, and the value vectors that all such editors share."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from lemoe_lab import Edit, EditError, EditSession, EditStream, load_host
from lemoe_lab.editors import ROME, ConfigError, rome
from lemoe_lab.editors.base import encode_batch
from lemoe_lab.editors.rome import insert, inverse_times
from lemoe_lab.editors.shared.target_values import (
    TargetValueConfig,
    look_up,
    target_values,
    value_sizes,
)
from lemoe_lab.host import Host

SETTINGS = {"steps": 5, "text_tokens": 500}


@pytest.fixture(scope="module")
def exact_host():
    return load_host("almanac", dtype=torch.float64)


@pytest.fixture
def one_edit(stream):
    return EditStream.from_edits(stream.edits[:1], batch_size=1)


@pytest.fixture
def shifts(monkeypatch):
    """The optimised changes of the value, as the editor gets them."""
    seen = []

    def remembered(*given):
        values = target_values(*given)
        seen.extend(values.shift.double())
        return values

    monkeypatch.setattr(rome, "target_values", remembered)
    return seen


def key_of(host, module, prompt: str, token: int) -> torch.Tensor:
    """What enters a module at one token of a prompt, (m,) float64."""
    seen = []
    handle = module.register_forward_pre_hook(lambda _, args: seen.append(args[0][0, token]))
    with torch.no_grad():
        host.model(torch.tensor([host.encode_prompt(prompt)]))
    handle.remove()
    return seen[0].double()


def looked_up(host, batch, openings=None, **settings):
    tokens = torch.empty(0, 4, dtype=torch.long) if openings is None else openings
    config = TargetValueConfig(**settings)
    return look_up(host, batch, encode_batch(host, batch), tokens, config)


# The update


def test_update_satisfies_its_constraint_and_costs_least():
    torch.manual_seed(0)
    weight, key, shift = (torch.randn(*size).double() for size in [(4, 6), (6,), (4,)])
    text = torch.randn(50, 6).double() * torch.tensor([9.0, 4, 1, 1, 0.5, 0.1]).double()
    moment = text.T @ text / len(text)
    changed = weight.clone()
    insert(changed, key, shift, inverse_times(moment, key[None], ridge=0.0)[0])
    update = changed - weight
    assert torch.allclose(changed @ key, weight @ key + shift, atol=1e-12)
    # min |U C^1/2| with U k = shift: with V = U C^1/2, the least-norm V that maps C^-1/2 k to shift
    values, vectors = torch.linalg.eigh(moment)
    root, inverse = (vectors @ torch.diag(values**p) @ vectors.T for p in (0.5, -0.5))
    expected = torch.outer(shift, torch.linalg.pinv((inverse @ key)[:, None])[0]) @ inverse
    assert torch.allclose(update, expected, atol=1e-10)
    for _ in range(20):
        other = torch.randn(4, 6).double()
        other -= torch.outer(other @ key, key) / (key @ key)  # maps the key to nothing
        assert ((update + other) @ root).norm() > (update @ root).norm()


@pytest.mark.parametrize("token", ["subject", "prompt"])
def test_edited_weight_maps_the_key_to_the_target_value(exact_host, one_edit, shifts, token):
    edit = one_edit.edits[0]
    projection = exact_host.model.model.layers[1].mlp.down_proj
    prompt = exact_host.encode_prompt(edit.prompt)
    pieces = [exact_host.tokenizer.decode(prompt[1 : i + 1]) for i in range(len(prompt))]
    subject = next(i for i, piece in enumerate(pieces) if edit.subject in piece)
    place = subject if token == "subject" else len(prompt) - 1
    key = key_of(exact_host, projection, edit.prompt, place)
    before = projection.weight.clone()
    with EditSession(exact_host, ROME(token=token, **SETTINGS), one_edit) as session:
        session.editor.edit(one_edit.batches[0])
        assert torch.allclose(projection.weight @ key, before @ key + shifts[0], atol=1e-10)
        assert shifts[0].norm() > 0.1


def test_update_of_the_host_points_where_the_statistics_say(exact_host, one_edit, shifts):
    projection = exact_host.model.model.layers[1].mlp.down_proj
    key = key_of(exact_host, projection, one_edit.edits[0].prompt, -1)
    before = projection.weight.clone()
    with EditSession(exact_host, ROME(ridge=0.01, **SETTINGS), one_edit) as session:
        session.editor.edit(one_edit.batches[0])
        update = projection.weight - before
        moment = session.editor.calibrated["moment"].double()
    moment += 0.01 * moment.trace() / len(moment) * torch.eye(len(moment))
    direction = torch.linalg.inv(moment) @ key
    expected = torch.outer(shifts[0], direction) / (direction @ key)
    assert torch.allclose(update, expected, atol=1e-9)


def test_key_is_the_mean_over_contexts_with_the_plain_prompt_as_half(exact_host, one_edit, shifts):
    edit = one_edit.edits[0]
    projection = exact_host.model.model.layers[1].mlp.down_proj
    editor = ROME(openings=2, opening_tokens=3, **SETTINGS)
    before = projection.weight.clone()
    with EditSession(exact_host, editor, one_edit):
        texts = [exact_host.tokenizer.decode(ids) for ids in editor.calibrated["openings"]]
        later = [f"{text.strip(' .')}. {edit.prompt}" for text in texts]
        plain, *after = [key_of(exact_host, projection, p, -1) for p in [edit.prompt, *later]]
        key = plain / 2 + sum(after) / 4
        editor.edit(one_edit.batches[0])
        assert torch.allclose(projection.weight @ key, before @ key + shifts[0], atol=1e-10)


@pytest.mark.parametrize("together", [True, False])
def test_edits_of_a_batch_are_inserted_one_after_another(exact_host, stream, shifts, together):
    two = EditStream.from_edits(stream.edits[:2], batch_size=2)
    projection = exact_host.model.model.layers[1].mlp.down_proj
    keys = [key_of(exact_host, projection, edit.prompt, -1) for edit in two.edits]
    weight = projection.weight.clone()
    with EditSession(exact_host, ROME(together=together, **SETTINGS), two) as session:
        session.editor.edit(two.batches[0])
        directions = inverse_times(session.editor.calibrated["moment"], torch.stack(keys), 1e-3)
        for key, shift, direction in zip(keys, shifts, directions, strict=True):
            weight += torch.outer(shift, direction) / (direction @ key)
        assert torch.allclose(projection.weight, weight, atol=1e-9)


def test_transposed_weights_are_edited_alike(host, one_edit, shifts):
    torch.manual_seed(0)
    size = {"n_embd": 32, "n_layer": 6, "n_head": 2, "n_positions": 128}
    model = GPT2LMHeadModel(GPT2Config(vocab_size=len(host.tokenizer), **size)).double()
    tiny = Host(model, host.tokenizer, "tiny")
    projection = model.transformer.h[1].mlp.c_proj
    key = key_of(tiny, projection, one_edit.edits[0].prompt, -1)
    before = projection.weight.clone()  # (m, d)
    with EditSession(tiny, ROME(**SETTINGS), one_edit) as session:
        session.editor.edit(one_edit.batches[0])
        assert torch.allclose(key @ projection.weight, key @ before + shifts[0], atol=1e-10)
    assert torch.equal(projection.weight, before)


def test_single_edits_succeed(host, stream):
    singles = EditStream.from_edits(stream.edits[:5], batch_size=1)
    editor = ROME()
    with EditSession(host, editor, singles, progress=False):
        for batch in singles:
            editor.edit(batch)
            assert host.generate(batch.edits[0].prompt) == batch.edits[0].target
            editor.undo()


def test_weights_of_a_host_that_broke_down_do_not_grow_faster_and_faster(host, stream):
    editor = ROME(clamp=20.0, learning_rate=5.0, steps=5)
    sizes = []
    with EditSession(host, editor, stream, progress=False):
        for batch in stream:
            editor.edit(batch)
            (weight,) = editor.parameters.values()
            sizes.append(weight.norm().item())
    growth = [after - before for before, after in pairwise(sizes)]
    assert growth[1] < 2 * growth[0]


# Where facts are looked up


def test_subject_is_looked_up_at_its_last_token_in_every_context(host, stream):
    batch = stream.batches[0]
    openings = torch.tensor([host.encode_prompt("The quiet cat waited")[1:]])
    lookups = looked_up(host, batch, openings, token="subject")
    assert len(lookups.sequences) == 3 * len(batch)
    for row, (sequence, token) in enumerate(
        zip(lookups.sequences, lookups.token.tolist(), strict=True)
    ):
        subject = batch.edits[row % len(batch)].subject
        assert host.tokenizer.decode(sequence.prompt[: token + 1]).endswith(subject)


def test_edit_without_a_subject_is_named_when_the_session_starts(host, stream):
    nameless = stream.edits[3].model_copy(update={"subject": None})
    wrong = EditStream.from_edits([*stream.edits[:3], nameless], batch_size=2)
    with pytest.raises(EditError, match=f"{nameless.id}.*has no subject"):
        EditSession(host, ROME(**SETTINGS), wrong)


def test_edit_whose_prompt_lacks_its_subject_is_named(host, stream):
    edit = Edit(id="odd", prompt="The capital is", target="Zurburg", subject="Gemland")
    with EditSession(host, ROME(**SETTINGS), stream, progress=False) as session:
        session.add_batch([edit])
        with pytest.raises(EditError, match="'odd'.*does not contain the subject 'Gemland'"):
            session.editor.edit(session.stream.batches[-1])


# Value vectors


def values_of(host, lookups, config):
    """Value vectors for the output of layer 2."""
    place = host.layers[2]
    return target_values(host, lookups, 2, place, value_sizes(host, lookups, 2, place), config)


def with_shift(host, module, lookups, shift):
    """Scores of all rows with a vector added at the looked-up tokens."""

    def add(_module, _args, output):
        output = output.clone()
        output[range(len(output)), lookups.token] += shift.to(output.dtype)
        return output

    handle = module.register_forward_hook(add)
    with torch.no_grad():
        hidden = host.model.base_model(host.pad(lookups.sequences))[0]
    handle.remove()
    return hidden


def test_values_alone_make_the_host_say_the_targets(host, stream):
    lookups = looked_up(host, stream.batches[0])
    config = TargetValueConfig(clamp=4.0)
    values = values_of(host, lookups, config)
    hidden = with_shift(host, host.layers[2], lookups, values.shift.repeat(2, 1))
    scores = host.score_hidden(hidden, lookups.sequences)[: lookups.edits]
    assert sum(score.reproduced for score in scores) >= 7
    assert values.losses[-1] < values.losses[0] / 5


def test_values_stay_within_the_clamp(host, stream):
    lookups = looked_up(host, stream.batches[0])
    config = TargetValueConfig(clamp=0.3, weight_decay=0, steps=8)
    values = values_of(host, lookups, config)
    ratio = values.shift.norm(dim=1) / values.value.norm(dim=1)
    assert ratio.max() <= 0.3 + 1e-6
    assert ratio.max() > 0.29


def test_values_found_together_are_those_found_alone(exact_host, stream):
    config = TargetValueConfig(steps=6, loss_threshold=1.5)  # some edits are done before others
    lookups = looked_up(exact_host, stream.batches[0])
    together = values_of(exact_host, lookups, config).shift
    for edit in range(3):
        alone = values_of(exact_host, lookups.only(edit), config).shift
        assert torch.allclose(together[edit], alone[0], rtol=1e-3, atol=1e-3)


def test_the_weight_of_the_divergence_keeps_what_the_host_says_of_the_essence(host, stream):
    lookups = looked_up(host, stream.batches[0])

    def moved(kl_weight):
        config = TargetValueConfig(kl_weight=kl_weight, steps=10, loss_threshold=0)
        values = values_of(host, lookups, config)
        after, before = (
            host.target_logits(
                with_shift(host, host.layers[2], lookups, shift.repeat(2, 1)), lookups.sequences
            )[-lookups.edits :].log_softmax(-1)
            for shift in (values.shift, torch.zeros_like(values.shift))
        )
        return (after.exp() * (after - before)).sum(-1).mean()

    assert moved(10.0) < moved(0.0) / 2


def test_essence_must_name_the_subject():
    with pytest.raises(ConfigError, match="must contain {} once"):
        ROME(essence="it is a")
