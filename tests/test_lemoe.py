"""LEMoE on the embedded host: what stays bit for bit, what comes back, what leaves no trace."""

from __future__ import annotations

import hashlib

import pytest
import torch

from lemoe_lab import Edit, EditSession, EditStream
from lemoe_lab.editors import ConfigError, LEMoE

KV_REHEARSED = {
    "routing": "kv_anchor",
    "centre": True,
    "rehearse_anchors": True,
    "bypass": True,
}
VARIANTS = {
    "scoped": {},
    "literal": {"routing": "kv_anchor"},
    "rehearsed": KV_REHEARSED,
    "one expert": {"insert": False},
}
UNRELATED = ["The quiet cat waited behind", "It rained in the garden, and"]


@pytest.fixture(params=VARIANTS.values(), ids=VARIANTS.keys())
def session(request, host, stream):
    with EditSession(host, LEMoE(steps=15, **request.param), stream, progress=False) as session:
        yield session


def digest(module: torch.nn.Module) -> str:
    state = sorted(module.state_dict().items())
    return hashlib.sha256(b"".join(t.numpy().tobytes() for _, t in state)).hexdigest()


def logits(host, prompts: list[str]) -> list[torch.Tensor]:
    with torch.no_grad():
        inputs = [torch.tensor([host.encode_prompt(prompt)]) for prompt in prompts]
        return [host.model(input_ids=ids).logits for ids in inputs]


def prompts_of(stream) -> list[str]:
    return [edit.prompt for edit in stream.edits]


def test_host_weights_keep_their_bytes(session, host):
    before = digest(host.model)
    session.run()
    assert digest(host.model) == before


def test_frozen_experts_keep_their_bytes(host, stream):
    with EditSession(host, LEMoE(steps=15), stream, progress=False) as session:
        seen: list[str] = []
        while session.steps < len(stream):
            session.step()
            experts = [digest(expert) for expert in session.editor.adaptor.experts]
            assert experts[:-1] == seen
            seen = experts


def test_undo_restores_every_logit(session, host, stream):
    asked = prompts_of(stream) + UNRELATED
    history = [logits(host, asked)]
    while session.steps < len(stream):
        session.step()
        history.append(logits(host, asked))
    while session.steps:
        for before, now in zip(history[session.steps], logits(host, asked), strict=True):
            assert torch.equal(before, now)
        session.undo()
    assert all(map(torch.equal, history[0], logits(host, asked)))


def test_redo_restores_every_logit_and_measurement(session, host, stream):
    session.jump(2)
    before, metrics = logits(host, prompts_of(stream)), session.metrics
    session.jump(0)
    session.jump(2)
    assert all(map(torch.equal, before, logits(host, prompts_of(stream))))
    assert session.metrics.equals(metrics)


def test_bypassed_input_has_the_logits_of_the_unedited_host(host, stream):
    plain = logits(host, UNRELATED)
    with EditSession(host, LEMoE(steps=15), stream, progress=False) as session:
        session.run()
        assert all(map(torch.equal, plain, logits(host, UNRELATED)))


def test_closed_session_leaves_nothing_on_the_host(host, stream):
    def traces() -> list:
        return [
            (name, type(module), set(vars(module)), dict(module._forward_hooks),
             dict(module._forward_pre_hooks), module.forward)
            for name, module in host.model.named_modules()
        ]  # fmt: skip

    before, attributes = traces(), set(vars(host))
    with EditSession(host, LEMoE(steps=5), stream, progress=False) as session:
        session.step()
    assert traces() == before
    assert set(vars(host)) == attributes


def test_module_tree_is_the_same_while_attached(host, stream):
    before = [name for name, _ in host.model.named_modules()]
    with EditSession(host, LEMoE(steps=5), stream, progress=False) as session:
        session.step()
        assert [name for name, _ in host.model.named_modules()] == before


def test_final_reliability_is_immediate_reliability_edit_by_edit(host, stream):
    with EditSession(host, LEMoE(), stream, progress=False) as session:
        metrics = session.run().query("metric == 'reliability'")
    index = ["edit", "scorer"]
    immediate = metrics[metrics.step == metrics.batch].set_index(index).value.sort_index()
    final = metrics[metrics.step == len(stream)].set_index(index).value.sort_index()
    assert immediate.mean() > 0.95
    assert final.equals(immediate)


def test_reused_scores_equal_scoring_everything(session):
    reused = session.run()
    session.evaluator.reuse = False
    assert session.evaluate().equals(reused)


@pytest.mark.parametrize("settings", [{}, {"num_beams": 2}, {"do_sample": True, "top_k": 1}])
def test_plain_generate_sees_the_edits_batched_left_padded_and_cached(host, stream, settings):
    with EditSession(host, LEMoE(), stream, progress=False) as session:
        session.run()
        asked = prompts_of(stream)[:6] + UNRELATED
        inputs = host.tokenizer(asked, return_tensors="pt", padding=True)
        output = host.model.generate(
            **inputs, max_new_tokens=12, pad_token_id=host.tokenizer.pad_token_id, **settings
        )
        new = output[:, inputs["input_ids"].shape[1] :]
        texts = host.tokenizer.batch_decode(new, skip_special_tokens=True)
        targets = [edit.target for edit in stream.edits[:6]]
        assert [text.strip() for text in texts[:6]] == targets
        assert host.generate(asked[:6]) == targets


def test_score_of_an_attached_host_routes_by_the_prompt_alone(host, stream):
    edit = stream.edits[0]
    with EditSession(host, LEMoE(), stream, progress=False) as session:
        session.step()
        (score,) = host.score([edit.prompt], [edit.target])
        assert score.reproduced


def test_superseding_edit_wins_and_undo_brings_the_older_one_back(host, stream):
    older = stream.edits[0]
    newer = Edit(id="newer", prompt=older.prompt, target=stream.edits[1].target)
    revised = EditStream.from_groups([[older], [newer]], calibration=stream.calibration)
    with EditSession(host, LEMoE(), revised, progress=False) as session:
        session.run()
        assert host.generate(older.prompt) == newer.target
        session.undo()
        assert host.generate(older.prompt) == older.target


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rate": 1}, "settings are"),
        ({"routing": "magic"}, "kv_anchor"),
        ({"steps": 0}, "steps"),
        ({"routing": "kv_anchor", "rehearse_anchors": True}, "centre"),
    ],
)
def test_impossible_settings_fail_at_construction(settings, message):
    with pytest.raises(ConfigError, match=message):
        LEMoE(**settings)
