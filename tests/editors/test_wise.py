"""WISE: masks, routing activations, merging and what the main memory answers."""

from __future__ import annotations

import pytest
import torch
from helpers import UNRELATED, attached, logits, prompts_of, same
from transformers import GPT2Config, GPT2LMHeadModel

from lemoe_lab import EditStream
from lemoe_lab.editors import WISE, ConfigError
from lemoe_lab.editors.shared.side_memory import (
    MAIN,
    activations,
    margin_loss,
    random_mask,
    ties_merge,
    token_weights,
)
from lemoe_lab.host import Host


def edited(host, stream, batches: int, **settings):
    """WISE on the host after the first batches of a stream."""
    return attached(WISE(**{"irrelevant": 40} | settings), host, stream, batches)


def changes_by_step(editor: WISE) -> list[torch.Tensor]:
    """W' - W (d, h) of every step's shard, from the values in the editor's state."""
    weight = editor.host.ffn_output(editor.layer).weight
    result = []
    for step in range(1, editor.steps + 1):
        number = (step - 1) // (editor.config.merge_every // editor.config.shards)
        places = random_mask(weight.numel(), editor.config.mask_ratio, number)
        flat = torch.zeros(weight.numel())
        flat[places] = editor.step_state(step)["values"]
        result.append(flat.view_as(weight))
    return result


@pytest.mark.parametrize("ratio", [0.2, 0.5, 1.0])
def test_mask_has_its_density_and_differs_between_shards(ratio):
    mask = random_mask(1000, ratio, seed=3)
    assert len(mask.unique()) == round(1000 * ratio)
    assert mask.min() >= 0 and mask.max() < 1000
    assert ratio == 1 or not torch.equal(mask, random_mask(1000, ratio, seed=4))


def test_masks_of_two_shards_overlap_by_the_square_of_their_density():
    first, second = (random_mask(10_000, 0.3, seed) for seed in (0, 1))
    shared = torch.isin(first, second).float().mean().item()
    assert shared == pytest.approx(0.3, abs=0.03)


def test_trained_entries_lie_inside_the_mask(host, stream):
    with edited(host, stream, 1, steps=5, mask_ratio=0.3) as editor:
        change = editor.side.held[0].change
        inside = torch.zeros(change.numel(), dtype=torch.bool)
        inside[random_mask(change.numel(), 0.3, seed=0)] = True
        assert (change.flatten() != 0).sum() > 0.2 * change.numel()
        assert not change.flatten()[~inside].any()


def test_ties_merge_of_small_matrices_is_the_one_calculated_by_hand():
    first = torch.tensor([[4.0, -3.0], [0.5, 2.0]])
    second = torch.tensor([[2.0, 5.0], [-0.1, -1.0]])
    # Three of four entries stay: 0.5 and -0.1 go. Signs elected: +, +, (nothing), +.
    expected = torch.tensor([[3.0, 5.0], [0.0, 2.0]])
    assert torch.equal(ties_merge([first, second], density=0.75), expected)


def test_activation_is_the_mean_or_last_norm_over_the_prompts_tokens():
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(2, 4, 3, generator=generator)
    change = torch.randn(5, 3, generator=generator)
    tokens = torch.tensor([[False, True, True, True], [True, True, False, False]])
    norms = [
        [
            sum(
                sum(change[i, j].item() * hidden[b, t, j].item() for j in range(3)) ** 2
                for i in range(5)
            )
            ** 0.5
            for t in places
        ]
        for b, places in enumerate([(1, 2, 3), (0, 1)])
    ]
    mean = activations(hidden, change, token_weights(tokens, "mean"))
    last = activations(hidden, change, token_weights(tokens, "last"))
    assert mean.tolist() == pytest.approx([sum(n) / len(n) for n in norms])
    assert last.tolist() == pytest.approx([n[-1] for n in norms])


def test_margin_loss_is_that_of_the_violated_margins():
    edits, irrelevant = [22.0, 12.0], [3.0, 7.0, 9.0]
    alpha, beta, gamma = 5.0, 20.0, 10.0
    out = [i - alpha for i in irrelevant if i > alpha]
    within = [beta - e for e in edits if e < beta]
    apart = [gamma - (e - i) for e in edits for i in irrelevant if e - i < gamma]
    expected = sum(sum(term) / len(term) for term in (out, within, apart))
    loss = margin_loss(torch.tensor(edits), torch.tensor(irrelevant), alpha, beta, gamma)
    assert loss.item() == pytest.approx(expected)
    kept = margin_loss(torch.tensor([25.0]), torch.tensor([4.0]), alpha, beta, gamma)
    assert kept.item() == 0


def test_first_loss_is_the_likelihood_and_the_margins_of_an_empty_side_memory(host, stream):
    batch = stream.batches[0]
    scores = host.score([e.prompt for e in batch], [e.target for e in batch])
    likelihood = -torch.cat([score.log_probabilities for score in scores]).mean().item()
    with edited(host, stream, 0, steps=1) as editor:
        report = editor.edit(batch)
        margins = editor.config.beta + editor.config.gamma
    assert report.losses[0] == pytest.approx(likelihood + margins, rel=1e-5)


@pytest.mark.parametrize("activation", ["mean", "last"])
def test_prompts_above_the_threshold_and_no_others_see_the_side_weight(host, stream, activation):
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    with edited(host, stream, 1, steps=40, activation=activation) as editor:
        projection = host.ffn_output(editor.layer)
        handle = projection.register_forward_hook(
            lambda _module, args, output: seen.append((args[0][0].double(), output[0].double()))
        )
        try:
            logits(host, prompts_of(stream) + UNRELATED)
        finally:
            handle.remove()
        memory, weight = editor.side.held[0], projection.weight.double()
        sides = 0
        for hidden, output in seen:
            norms = (hidden @ memory.change.double().T).norm(dim=1)
            activation_ = norms[-1] if activation == "last" else norms.mean()
            side = activation_.item() > memory.threshold
            sides += side
            expected = hidden @ (weight + side * memory.change.double()).T
            assert torch.allclose(output, expected, atol=1e-4)
        assert 8 <= sides < len(seen)


def test_side_weight_of_a_host_that_stores_it_transposed_is_the_changed_one(host, stream):
    size = {"vocab_size": 2048, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64}
    config = GPT2Config(bos_token_id=1, eos_token_id=2, **size)
    transposed = Host(GPT2LMHeadModel(config), host.tokenizer, "random GPT-2")
    prompt, seen = stream.edits[0].prompt, []
    with edited(transposed, stream, 1, steps=20) as editor:
        projection = transposed.ffn_output(editor.layer)
        handle = projection.register_forward_hook(
            lambda _module, args, output: seen.append((args[0][0].double(), output[0].double()))
        )
        try:
            logits(transposed, [prompt])
        finally:
            handle.remove()
        (hidden, output), change = seen[0], editor.side.held[0].change.double()
        side = hidden @ (projection.weight.double() + change.T) + projection.bias.double()
        assert editor.side.routes.tolist() == [0]
        assert torch.allclose(output, side, atol=1e-5)


def test_threshold_is_a_share_of_the_least_activation_of_an_edit(host, stream):
    with edited(host, stream, 1, steps=10, activation_ratio=0.7) as editor:
        memory = editor.side.held[0]
        sequences = [host.encode(e.prompt, e.target) for e in stream.batches[0]]
        with editor.disabled():
            given = editor._projection_inputs(sequences)
        last = given.hidden[range(8), [len(s.prompt) - 1 for s in sequences]].double()
        least = (last @ memory.change.double().T).norm(dim=1).min().item()
    assert memory.threshold == pytest.approx(0.7 * least, rel=1e-5)


def test_inputs_routed_to_the_main_memory_have_the_logits_of_the_unedited_host(host, stream):
    near = [p.prompt for e in stream.edits[:8] for p in e.locality if p.group == "near"]
    plain = logits(host, near + UNRELATED)
    with edited(host, stream, 1, steps=40) as editor:
        after, routes = [], []
        for prompt in near + UNRELATED:
            after += logits(host, [prompt])
            routes.append(editor.side.routes.item())
    on_main = [i for i, route in enumerate(routes) if route == MAIN]
    assert len(on_main) > len(routes) / 2
    assert same([plain[i] for i in on_main], [after[i] for i in on_main])


def test_route_of_the_prompt_is_kept_in_scoring_and_in_left_padded_generation(host, stream):
    asked = prompts_of(stream)[:4] + UNRELATED
    with edited(host, stream, 1, steps=40) as editor:
        routes = []
        for prompt in asked:
            logits(host, [prompt])
            routes.append(editor.side.routes.item())
        assert set(routes) == {0, MAIN}
        alone = [host.generate(prompt) for prompt in asked]
        assert host.generate(asked) == alone
        inputs = host.tokenizer(asked, return_tensors="pt", padding=True)
        host.model.generate(**inputs, max_new_tokens=8, pad_token_id=host.tokenizer.pad_token_id)
        assert editor.side.routes.tolist() == routes
        scored = []
        for prompt in asked:
            host.score([prompt], ["an answer that decides no route"])
            scored.append(editor.side.routes.item())
        assert scored == routes


def test_shards_are_merged_as_their_task_vectors_are_by_ties(host, stream):
    with edited(host, stream, 2, steps=5, mask_ratio=0.6, density=0.4) as editor:
        (memory,) = editor.side.held
        parts = [change.double() for change in changes_by_step(editor)]
    kept = round(0.4 * parts[0].numel())
    trimmed = []
    for part in parts:
        smallest = part.abs().flatten().sort(descending=True).values[kept - 1]
        trimmed.append(torch.where(part.abs() >= smallest, part, 0.0))
    positive = trimmed[0] + trimmed[1] >= 0
    agree = [torch.where((t > 0) & positive | (t < 0) & ~positive, t, 0.0) for t in trimmed]
    count = sum((a != 0).double() for a in agree)
    expected = torch.where(count > 0, (agree[0] + agree[1]) / count.clamp(min=1), 0.0)
    assert torch.allclose(memory.change.double(), expected, atol=1e-7)


@pytest.mark.parametrize(
    ("settings", "held"),
    [
        ({"merge_every": 2}, [1, 1, 2]),
        ({"merge_every": 4}, [1, 1, 2]),
        ({"merge_every": 1, "shards": 1}, [1, 2, 3]),
        ({"merge_every": 2, "retrieve": False}, [1, 1, 1]),
    ],
)
def test_shards_answer_as_side_memories_until_they_are_merged(host, stream, settings, held):
    with edited(host, stream, 0, steps=2, **settings) as editor:
        counts = []
        for batch in stream:
            editor.edit(batch)
            counts.append(len(editor.side.held))
    assert counts == held


def test_input_takes_the_side_memory_with_the_highest_activation(host, stream):
    with edited(host, stream, 2, steps=40, merge_every=1, shards=1) as editor:
        sequences = [host.encode(e.prompt, e.target) for e in stream.edits[:16]]
        with editor.disabled():
            given = editor._projection_inputs(sequences)
        measured = torch.stack(
            [activations(given.hidden, m.change, given.weights) for m in editor.side.held]
        )
        logits_routes = []
        for edit in stream.edits[:16]:
            logits(host, [edit.prompt])
            logits_routes.append(editor.side.routes.item())
    assert logits_routes == measured.argmax(0).tolist()


def test_learned_batch_is_answered_with_its_targets(host, stream):
    with edited(host, stream, 1):
        answers = host.generate(prompts_of(stream)[:8])
    assert answers == [edit.target for edit in stream.edits[:8]]


def test_stream_without_calibration_facts_is_refused(host, stream):
    bare = EditStream(batches=stream.batches)
    with pytest.raises(ValueError, match="give the stream `calibration`"):
        WISE().attach(host, bare)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"merge_every": 3, "shards": 2}, "no multiple of shards=2"),
        ({"mask_ratio": 0}, "mask_ratio"),
        ({"activation": "first"}, "last"),
    ],
)
def test_impossible_settings_fail_at_construction(settings, message):
    with pytest.raises(ConfigError, match=message):
        WISE(**settings)
