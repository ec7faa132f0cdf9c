"""LEMoE on the embedded host: what the paper promises of it, beside what every editor does."""

from __future__ import annotations

import random

import pytest
import torch
from helpers import UNRELATED, digest, logits, prompts_of

from lemoe_lab import EditSession, datasets, load_host
from lemoe_lab.adaptor.calibration import scoped_space
from lemoe_lab.editors import GRACE, ConfigError, LEMoE


def test_frozen_experts_keep_their_bytes(host, stream):
    with EditSession(host, LEMoE(steps=15), stream, progress=False) as session:
        seen: list[str] = []
        while session.steps < len(stream):
            session.step()
            experts = [digest(expert) for expert in session.editor.adaptor.experts]
            assert experts[:-1] == seen
            seen = experts


def test_bypassed_input_has_the_logits_of_the_unedited_host(host, stream):
    plain = logits(host, UNRELATED)
    with EditSession(host, LEMoE(steps=15), stream, progress=False) as session:
        session.run()
        assert all(map(torch.equal, plain, logits(host, UNRELATED)))


def test_final_reliability_is_immediate_reliability_edit_by_edit(host, stream):
    with EditSession(host, LEMoE(), stream, progress=False) as session:
        metrics = session.run().query("metric == 'reliability'")
    index = ["edit", "scorer"]
    immediate = metrics[metrics.step == metrics.batch].set_index(index).value.sort_index()
    final = metrics[metrics.step == len(stream)].set_index(index).value.sort_index()
    assert immediate.mean() > 0.95
    assert final.equals(immediate)


@pytest.mark.parametrize("settings", [{}, {"num_beams": 2}, {"do_sample": True, "top_k": 1}])
def test_plain_generate_sees_the_edits_batched_left_padded_and_cached(host, stream, settings):
    def continued(prompts: list[str]) -> list[str]:
        inputs = host.tokenizer(prompts, return_tensors="pt", padding=True)
        output = host.model.generate(
            **inputs, max_new_tokens=12, pad_token_id=host.tokenizer.pad_token_id, **settings
        )
        new = output[:, inputs["input_ids"].shape[1] :]
        return host.tokenizer.batch_decode(new, skip_special_tokens=True)

    plain = continued(UNRELATED)
    with EditSession(host, LEMoE(), stream, progress=False) as session:
        session.run()
        edited, targets = prompts_of(stream)[:6], [edit.target for edit in stream.edits[:6]]
        texts = continued(edited + UNRELATED)
        assert [text.strip() for text in texts[:6]] == targets
        assert texts[6:] == plain
        assert host.generate(edited) == targets


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"routing": "magic"}, "kv_anchor"),
        ({"steps": 0}, "steps"),
        ({"routing": "kv_anchor", "rehearse_anchors": True}, "centre"),
    ],
)
def test_impossible_settings_fail_at_construction(settings, message):
    with pytest.raises(ConfigError, match=message):
        LEMoE(**settings)


def test_score_of_an_attached_host_routes_by_the_prompt_alone(host, stream):
    edit = stream.edits[0]
    asked, fed = [edit.prompt, UNRELATED[0]], [UNRELATED[1], f"{edit.prompt} {edit.target}"]
    plain = [score.predicted for score in host.score(asked, fed)]
    with EditSession(host, LEMoE(), stream, progress=False) as session:
        session.step()
        edited, bypassed = host.score(asked, fed)
        assert edited.predicted[0] == host.encode(edit.prompt, edit.target).target[0]
        assert edited.predicted[0] != plain[0][0]
        assert torch.equal(bypassed.predicted, plain[1])


def test_router_may_learn_at_a_rate_of_its_own(host, stream):
    still = LEMoE(routing="kv_anchor", router_learning_rate=0.0, steps=5)
    with EditSession(host, still, stream, progress=False) as session:
        session.step()
        before = still.adaptor.router.up.clone()
        session.step()
        assert torch.equal(still.adaptor.router.up, before)
        assert still.adaptor.experts[-1].body.down_proj.weight.any()


def test_the_scoped_space_is_fitted_once_for_equal_facts(host, stream):
    fit = {"layer": 4, "width": 16, "seed": 0}
    space = scoped_space(host, stream.calibration, **fit)
    assert scoped_space(host, tuple(stream.calibration), **fit) is space
    assert scoped_space(host, stream.calibration[:-1], **fit) is not space


def test_scoped_routing_refuses_to_calibrate_on_one_subject(host, stream):
    about_one = [f for f in stream.calibration if f.subject == stream.calibration[0].subject]
    with pytest.raises(ValueError, match="about 2 subjects or more"):
        scoped_space(host, about_one, layer=4, width=16, seed=0)


@pytest.mark.parametrize("seed", range(4))
def test_two_subjects_are_enough_to_calibrate_on(host, stream, seed):
    subjects = list(dict.fromkeys(f.subject for f in stream.calibration))[:2]
    facts = [f for f in stream.calibration if f.subject in subjects]
    space = scoped_space(host, facts, layer=4, width=16, seed=seed)
    assert space.addresses.isfinite().all()


def test_changed_host_weights_ask_for_a_new_scoped_space(host, stream):
    fit = {"layer": 4, "width": 16, "seed": 0}
    space = scoped_space(host, stream.calibration, **fit)
    weight = host.layers[0].mlp.down_proj.weight
    before = weight.clone()
    try:
        weight.mul_(1.1)
        changed = scoped_space(host, stream.calibration, **fit)
    finally:
        weight.copy_(before)
    assert not torch.equal(changed.projection, space.projection)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("editor", [LEMoE, GRACE], ids=["LEMoE", "GRACE"])
def test_the_newest_edit_of_a_prompt_answers_in_low_precision_whatever_it_is_asked_with(
    editor, dtype
):
    host, source = (
        load_host("almanac", dtype=dtype),
        datasets.almanac(edits=24, batch_size=12, seed=4),
    )
    older, newer = source.batches
    revised = [
        edit.model_copy(
            update={"id": f"{edit.id} again", "target": other.target, "old_answer": None}
        )
        for edit, other in zip(older, newer, strict=True)
    ]
    groups = [older.edits, *(revised[i : i + 3] for i in range(0, 12, 3))]
    other = [prompt.prompt for edit in source.edits for prompt in edit.locality]
    rng = random.Random(0)
    with EditSession(
        host, editor(), source.with_groups(groups), progress=False, immediate=()
    ) as run:
        run.jump(len(groups))
        for _ in range(6):
            asked = [*revised, *rng.sample(other, 8)]
            rng.shuffle(asked)
            answers = host.generate([getattr(one, "prompt", one) for one in asked])
            wrong = [
                (one.prompt, answer)
                for one, answer in zip(asked, answers, strict=True)
                if one in revised and answer != one.target
            ]
            assert wrong == []
        if editor is LEMoE:
            assert run.editor.adaptor.router.memory.count == len(revised)
