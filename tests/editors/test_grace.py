"""GRACE: its codebook traced by hand, its deferral, and what the host answers with it."""

from __future__ import annotations

import pytest
import torch
from helpers import UNRELATED, attached, logits, prompts_of

from lemoe_lab import Edit, EditStream
from lemoe_lab.editors import GRACE, ConfigError
from lemoe_lab.editors.grace import Codebook


def edited(host, stream, batches: int, **settings):
    """GRACE on the host after the first batches of a stream."""
    return attached(GRACE(**settings), host, stream, batches)


# Edits with key (x, y) and label, at an initial radius of 1, and the codebook that algorithm 1 of
# the paper leaves after each: (key, label, radius) of every entry.
TRACE = [
    ("add to nothing", (0.0, 0.0), 1, [((0.0, 0.0), 1, 1.0)]),
    ("add: 3 > 1 + 1", (3.0, 0.0), 2, [((0.0, 0.0), 1, 1.0), ((3.0, 0.0), 2, 1.0)]),
    ("expand to 1.5 <= 1 + 1", (0.0, 1.5), 1, [((0.0, 0.0), 1, 1.5), ((3.0, 0.0), 2, 1.0)]),
    ("inside, same label", (3.0, 0.25), 2, [((0.0, 0.0), 1, 1.5), ((3.0, 0.0), 2, 1.0)]),
    (
        "split at 2.5 <= 1.5 + 1",
        (-2.5, 0.0),
        3,
        [((0.0, 0.0), 1, 1.25), ((3.0, 0.0), 2, 1.0), ((-2.5, 0.0), 3, 1.25)],
    ),
    (
        "split inside: 0.5 <= 1 + 1",
        (3.0, 0.5),
        1,
        [
            ((0.0, 0.0), 1, 1.25),
            ((3.0, 0.0), 2, 0.25),
            ((-2.5, 0.0), 3, 1.25),
            ((3.0, 0.5), 1, 0.25),
        ],
    ),
    (
        "add with a known label: 2.5 > 1.25 + 1",
        (0.0, -2.5),
        1,
        [
            ((0.0, 0.0), 1, 1.25),
            ((3.0, 0.0), 2, 0.25),
            ((-2.5, 0.0), 3, 1.25),
            ((3.0, 0.5), 1, 0.25),
            ((0.0, -2.5), 1, 1.0),
        ],
    ),
]


def test_codebook_follows_the_papers_algorithm_edit_by_edit():
    codebook = Codebook.empty(2, torch.device("cpu"))
    for what, key, label, expected in TRACE:
        codebook, entry = codebook.learned(torch.tensor(key), torch.zeros(2), label, 1.0)
        keys, labels, radii = zip(*expected, strict=True)
        assert codebook.keys.tolist() == [list(key) for key in keys], what
        assert codebook.labels.tolist() == list(labels), what
        assert codebook.radii.tolist() == list(radii), what
        assert codebook.labels[entry] == label, what


def test_newer_edit_of_a_prompt_takes_its_entry_over_wherever_its_key_came_to_lie():
    codebook, value = Codebook.empty(2, torch.device("cpu")), torch.zeros(2)
    codebook, _ = codebook.learned(torch.tensor([0.0, 0.0]), value, 1, 1.0, prompt=11)
    codebook, entry = codebook.learned(torch.tensor([0.3, 0.0]), value + 1, 2, 1.0, prompt=11)
    assert (len(codebook), entry) == (1, 0)
    assert codebook.labels.tolist() == [2] and codebook.values.tolist() == [[1.0, 1.0]]
    assert codebook.radii.tolist() == [1.0]
    assert codebook.nearest(torch.tensor([[0.3, 0.0]]))[0].item() == 0


def test_two_prompts_whose_keys_nearly_meet_stay_two():
    codebook, value = Codebook.empty(2, torch.device("cpu")), torch.zeros(2)
    codebook, _ = codebook.learned(torch.tensor([0.0, 0.0]), value, 1, 1.0, prompt=11)
    codebook, entry = codebook.learned(torch.tensor([1e-4, 0.0]), value, 2, 1.0, prompt=12)
    assert (len(codebook), entry) == (2, 1)
    distance, found = codebook.nearest(codebook.keys)
    assert found.tolist() == [0, 1]
    assert (distance <= codebook.radii).all()


def by_algorithm(keys: torch.Tensor, labels: list[int], epsilon: float) -> list[list]:
    """Entries [key, label, radius] after edits with these keys (n, d), in float64."""
    entries: list[list] = []
    for key, label in zip(keys.double(), labels, strict=True):
        distances = [torch.linalg.vector_norm(entry[0] - key).item() for entry in entries]
        nearest = min(range(len(entries)), key=distances.__getitem__, default=None)
        if nearest is None or distances[nearest] > entries[nearest][2] + epsilon:
            entries.append([key, label, epsilon])
        elif entries[nearest][1] == label:
            entries[nearest][2] = max(entries[nearest][2], distances[nearest])
        else:
            entries[nearest][2] = distances[nearest] / 2
            entries.append([key, label, distances[nearest] / 2])
    return entries


def test_codebook_of_a_stream_is_that_of_an_independent_calculation(host, stream):
    # Every third edit gets the target of the one before it, so that entries expand as well.
    edits = list(stream.edits)
    for i in range(2, len(edits), 3):
        edits[i] = edits[i].model_copy(update={"target": edits[i - 1].target})
    stream = EditStream.from_edits(edits, batch_size=8, calibration=stream.calibration)
    with edited(host, stream, batches=3, steps=1, reach=1.2) as editor:
        with editor.disabled():
            keys = host.prompt_states(prompts_of(stream), editor.layer)
        entries = by_algorithm(keys, [hash(edit.target) for edit in edits], editor.epsilon)
        radii = torch.tensor([radius for _, _, radius in entries])
        assert len(entries) < len(edits) and radii.unique().numel() > 2
        expected = torch.stack([key for key, _, _ in entries]).float()
        assert torch.allclose(editor.codebook.keys, expected, atol=1e-4)
        assert torch.allclose(editor.codebook.radii, radii, rtol=1e-4)
        assert len(set(editor.codebook.labels.tolist())) == len({entry[1] for entry in entries})


def test_output_is_the_value_within_the_radius_and_the_ffns_outside(host, stream):
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    with edited(host, stream, batches=1, steps=2) as editor:
        ffn = host.ffn(editor.layer)
        handle = ffn.register_forward_hook(
            lambda _module, args, output: seen.append((args[0][0], output[0]))
        )
        try:
            asked = [prompt.prompt for edit in stream.edits[:12] for prompt in edit.rephrases]
            logits(host, asked + UNRELATED)
        finally:
            handle.remove()
        keys, values = editor.codebook.keys.double(), editor.codebook.values
        inside = 0
        for x, output in seen:  # (L, d) each
            distances = (keys - x[-1].double()).norm(dim=1)
            nearest = distances.argmin()
            if distances[nearest] <= editor.codebook.radii[nearest].double():
                assert torch.equal(output, values[nearest].expand_as(output))
                inside += 1
            else:
                assert not (output == values[nearest]).any()
        assert 0 < inside < len(seen)


def test_input_outside_all_radii_has_the_logits_of_the_unedited_host(host, stream):
    near = [p.prompt for e in stream.edits[:8] for p in e.locality if p.group == "near"]
    plain = logits(host, UNRELATED + near)
    with edited(host, stream, batches=1, steps=5) as editor:
        with editor.disabled():
            queries = host.prompt_states(UNRELATED + near, editor.layer)
        distance, entry = editor.codebook.nearest(queries)
        outside = distance > editor.codebook.radii[entry]
        assert outside[: len(UNRELATED)].all() and outside.float().mean() > 0.9
        now = logits(host, UNRELATED + near)
        for kept, before, after in zip(outside, plain, now, strict=True):
            assert torch.equal(before, after) == kept


@pytest.mark.parametrize(
    ("replacement", "settings"),
    [
        ("replace_all", {}),
        ("replace_all", {"num_beams": 2}),
        ("replace_all", {"do_sample": True, "top_k": 1}),
        ("replace_prompt", {}),
        ("replace_last", {}),
    ],
)
def test_generation_and_scores_agree_batched_left_padded_and_cached(
    host, stream, replacement, settings
):
    with edited(host, stream, batches=1, replacement=replacement):
        asked, targets = prompts_of(stream)[:8], [edit.target for edit in stream.edits[:8]]
        inputs = host.tokenizer(asked + UNRELATED, return_tensors="pt", padding=True)
        output = host.model.generate(
            **inputs, max_new_tokens=12, pad_token_id=host.tokenizer.pad_token_id, **settings
        )
        new = output[:8, inputs["input_ids"].shape[1] :]
        texts = host.tokenizer.batch_decode(new, skip_special_tokens=True)
        learned = [score.reproduced for score in host.score(asked, targets)]
        assert sum(learned) >= 6
        for text, target, known in zip(texts, targets, learned, strict=True):
            assert (text.strip() == target) or not known
        answers = host.generate(asked)
        assert [a == t for a, t in zip(answers, targets, strict=True)] == learned


def test_step_holds_only_what_it_changed(host, stream):
    singles = stream.with_groups([[edit] for edit in stream.edits])
    with edited(host, singles, batches=24, steps=1) as editor:
        sizes = [len(editor.step_state(batch.step)["rows"]) for batch in singles]
        assert max(sizes) <= 2
        assert editor.step_state(24)["entries.keys"].shape == (sizes[-1], host.width)


def test_edit_that_the_codebook_answers_already_changes_nothing(host, stream):
    again = stream.edits[0].model_copy(update={"id": "again"})
    repeated = stream.with_groups([[stream.edits[0]], [again]])
    with edited(host, repeated, batches=1) as editor:
        assert editor.edit(repeated.batches[1]).losses == []
        assert len(editor.step_state(2)["rows"]) == 0


def test_newer_target_of_the_same_prompt_takes_the_entry_over(host, stream):
    older = stream.edits[0]
    newer = Edit(id="newer", prompt=older.prompt, target=stream.edits[1].target)
    revised = stream.with_groups([[older], [newer]])
    with edited(host, revised, batches=1, steps=5) as editor:
        before = editor.codebook
        editor.edit(revised.batches[1])
        after = editor.codebook
        assert torch.equal(after.keys, before.keys) and torch.equal(after.radii, before.radii)
        assert not torch.equal(after.labels, before.labels)
        assert not torch.equal(after.values, before.values)


def test_first_radius_is_a_share_of_the_typical_distance_between_facts(host, stream):
    with edited(host, stream, batches=0, reach=0.25) as editor:
        asked = [fact.prompts[0] for fact in stream.calibration]
        keys = host.prompt_states(asked, editor.layer).double()
    nearest = [
        min((a - b).norm().item() for j, b in enumerate(keys) if i != j) for i, a in enumerate(keys)
    ]
    middle = sorted(nearest)[(len(nearest) - 1) // 2]
    assert editor.epsilon == pytest.approx(0.25 * middle, rel=1e-5)


def test_without_facts_to_measure_on_the_radius_must_be_given(host, stream):
    bare = stream.model_copy(update={"calibration": ()})
    with pytest.raises(ValueError, match="epsilon"):
        GRACE().attach(host, bare)
    with edited(host, bare, batches=0, epsilon=3.0) as editor:
        assert editor.epsilon == 3.0


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"epsilon": 0.0}, "epsilon"),
        ({"replacement": "replace_some"}, "replace_prompt"),
        ({"initial_values": "hot"}, "cold"),
    ],
)
def test_impossible_setting_names_what_is_allowed(setting, message):
    with pytest.raises(ConfigError, match=message):
        GRACE(**setting)
