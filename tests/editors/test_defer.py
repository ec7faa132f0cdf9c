"""DEFER: its gate, its side network, and what the gate was trained on before the stream."""

from __future__ import annotations

import pytest
import torch
from helpers import UNRELATED, attached, logits, prompts_of, same

from lemoe_lab.editors import DEFER, ConfigError


def edited(host, stream, batches: int, **settings):
    """DEFER on the host after the first batches of a stream."""
    return attached(DEFER(**settings), host, stream, batches)


def gates(editor: DEFER, queries: torch.Tensor) -> torch.Tensor:
    """g(x) of FFN inputs (N, d), in float64 from the numbers in the editor's state."""
    scope = {name: tensor.double() for name, tensor in editor.step_state(0).items()}
    state = {name: t.double() for name, t in editor.step_state(editor.steps).items()}
    projected = (queries.double() - scope["centre"]) @ scope["projection"].T
    address = projected / projected.norm(dim=1, keepdim=True) * projected.shape[1] ** 0.5
    hidden = address @ state["networks.gate.0.weight"].T + state["networks.gate.0.bias"]
    weight, bias = state["networks.gate.2.weight"], state["networks.gate.2.bias"]
    return 1 / (1 + torch.exp(-(hidden.clamp(min=0) @ weight.T + bias)))[:, 0]


def test_output_is_the_side_networks_where_the_gate_is_open(host, stream):
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    with edited(host, stream, batches=1, steps=20) as editor:
        ffn = host.ffn(editor.layer)
        handle = ffn.register_forward_hook(
            lambda _module, args, output: seen.append((args[0][0], output[0]))
        )
        try:
            logits(host, prompts_of(stream)[:8] + UNRELATED)
        finally:
            handle.remove()
        state = {name: tensor.double() for name, tensor in editor.step_state(1).items()}
        inputs = torch.stack([x[-1] for x, _ in seen]).double()
        side = inputs @ state["networks.side.weight"].T + state["networks.side.bias"]
        opened = gates(editor, inputs) >= 0.5
        assert opened[:8].all() and not opened[8:].any()
        for (_, output), expected, deferred in zip(seen, side.float(), opened, strict=True):
            assert torch.allclose(output, expected.expand_as(output), atol=1e-4) == deferred


def test_input_behind_a_closed_gate_has_the_logits_of_the_unedited_host(host, stream):
    near = [p.prompt for e in stream.edits[:8] for p in e.locality if p.group == "near"]
    plain = logits(host, UNRELATED + near)
    with edited(host, stream, batches=1, steps=20) as editor:
        with editor.disabled():
            queries = host.prompt_states(UNRELATED + near, editor.layer)
        closed = gates(editor, queries) < 0.5
        assert closed.float().mean() > 0.7
        now = logits(host, UNRELATED + near)
        for kept, before, after in zip(closed, plain, now, strict=True):
            assert torch.equal(before, after) == kept


def test_scope_is_trained_on_the_split_and_never_sees_the_stream(host, stream, monkeypatch):
    asked: set[str] = set()
    encode = host.encode_prompt

    def remembered(prompt: str) -> tuple[int, ...]:
        asked.add(prompt)
        return encode(prompt)

    monkeypatch.setattr(host, "encode_prompt", remembered)
    small = stream.model_copy(update={"calibration": stream.calibration[:60]})
    with edited(host, small, batches=0, seed=5):
        pass
    assert asked == {prompt for fact in small.calibration for prompt in fact.prompts}
    in_stream = {
        question.prompt
        for edit in stream.edits
        for question in (edit, *edit.rephrases, *edit.locality)
    }
    assert not asked & in_stream


def test_scope_is_the_same_whatever_the_stream_edits(host, stream):
    other = stream.with_groups([stream.edits[12:]])
    with edited(host, stream, batches=0) as editor:
        first = editor.step_state(0)
    with edited(host, other, batches=0) as editor:
        second = editor.step_state(0)
    assert same(list(first.values()), list(second.values()))


def test_batches_leave_the_scope_as_it_was(host, stream):
    with edited(host, stream, batches=0, steps=3) as editor:
        before = {name: tensor.clone() for name, tensor in editor.step_state(0).items()}
        editor.edit(stream.batches[0])
        assert same(list(before.values()), list(editor.step_state(0).values()))


def test_rewordings_of_the_batch_are_in_scope_and_the_split_is_not(host, stream):
    with edited(host, stream, batches=1) as editor:
        light = [p.prompt for e in stream.edits[:8] for p in e.rephrases if p.group == "light"]
        split = [prompt for fact in stream.calibration for prompt in fact.prompts]
        with editor.disabled():
            inside = gates(editor, host.prompt_states(light, editor.layer))
            outside = gates(editor, host.prompt_states(split, editor.layer))
        assert (inside >= 0.5).float().mean() > 0.7
        assert (outside >= 0.5).float().mean() < 0.02


def test_without_a_split_it_says_what_it_needs(host, stream):
    bare = stream.model_copy(update={"calibration": ()})
    with pytest.raises(ValueError, match="calibration"):
        DEFER().attach(host, bare)


@pytest.mark.parametrize("settings", [{}, {"num_beams": 2}, {"do_sample": True, "top_k": 1}])
def test_plain_generate_sees_the_edits_batched_left_padded_and_cached(host, stream, settings):
    with edited(host, stream, batches=1):
        asked, targets = prompts_of(stream)[:8], [edit.target for edit in stream.edits[:8]]
        inputs = host.tokenizer(asked + UNRELATED, return_tensors="pt", padding=True)
        output = host.model.generate(
            **inputs, max_new_tokens=12, pad_token_id=host.tokenizer.pad_token_id, **settings
        )
        new = output[:8, inputs["input_ids"].shape[1] :]
        texts = host.tokenizer.batch_decode(new, skip_special_tokens=True)
        assert [text.strip() for text in texts] == targets
        assert host.generate(asked) == targets
        assert all(score.reproduced for score in host.score(asked, targets))


@pytest.mark.parametrize(("setting", "message"), [({"threshold": 1.0}, "threshold")])
def test_impossible_setting_fails_at_construction(setting, message):
    with pytest.raises(ConfigError, match=message):
        DEFER(**setting)
