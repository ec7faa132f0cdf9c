"""LocFT: whole passes in changing order, and what replay keeps."""

from __future__ import annotations

from itertools import chain

import pytest
import torch

from lemoe_lab import Edit, EditSession, EditStream
from lemoe_lab.editors import LocFT, loc_ft
from lemoe_lab.editors.loc_ft import recall, remember, reshuffled, stored
from lemoe_lab.host.encoding import TokenSequence


@pytest.fixture
def passes(monkeypatch) -> list[list[TokenSequence]]:
    """The edits of every mini-batch that is trained from here on."""
    seen: list[list[TokenSequence]] = []
    actual = loc_ft.edit_losses

    def watched(host, states, layer, rows):
        seen.append([states.sequences[i] for i in rows.tolist()])
        return actual(host, states, layer, rows)

    monkeypatch.setattr(loc_ft, "edit_losses", watched)
    return seen


def encoded(host, edits) -> list[TokenSequence]:
    return [host.encode(edit.prompt, edit.target) for edit in edits]


def trained(editor, host, stream):
    """The tuned weight after all batches."""
    editor.attach(host, stream)
    for batch in stream:
        editor.edit(batch)
    weight = host.ffn_output(editor.layer).weight.clone()
    editor.detach()
    return weight


def test_every_pass_visits_every_edit_once_in_another_order(host, stream, passes):
    trained(
        LocFT(passes=3, mini_batch=3, loss_threshold=0),
        host,
        stream.with_groups([stream.edits[:8]]),
    )
    orders = [list(chain.from_iterable(passes[i : i + 3])) for i in (0, 3, 6)]
    assert len(passes) == 9
    assert [len(rows) for rows in passes[:3]] == [3, 3, 2]
    for order in orders:
        assert sorted(map(hash, order)) == sorted(map(hash, encoded(host, stream.edits[:8])))
    assert orders[0] != orders[1] != orders[2]


def test_replay_goes_over_all_edits_so_far(host, stream, passes):
    trained(LocFT(passes=1, mini_batch=100), host, stream)
    assert [set(rows) for rows in passes] == [
        set(encoded(host, stream.edits[:n])) for n in (8, 16, 24)
    ]


def test_stream_goes_over_the_new_batch_only_and_keeps_nothing(host, stream, passes):
    editor = LocFT(replay=False, passes=1, mini_batch=100)
    editor.attach(host, stream)
    for batch in stream:
        editor.edit(batch)
        assert not editor.memory
    editor.detach()
    assert [set(rows) for rows in passes] == [set(encoded(host, batch.edits)) for batch in stream]


def test_newer_edit_of_a_prompt_replaces_the_older_one_in_replay(host, stream, passes):
    older = stream.edits[0]
    newer = Edit(id="newer", prompt=older.prompt, target=stream.edits[1].target)
    revised = EditStream.from_groups([stream.edits[:2], [newer]])
    trained(LocFT(passes=1), host, revised)
    assert set(passes[-1]) == set(encoded(host, [stream.edits[1], newer]))


def test_order_of_passes_hangs_on_the_seed_alone(host, stream):
    first, again, other = (
        trained(LocFT(passes=2, mini_batch=3, seed=seed), host, stream) for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_passes_end_once_all_edits_are_learned(host, stream):
    editor = LocFT(passes=200, mini_batch=4)
    editor.attach(host, stream)
    report = editor.edit(stream.batches[0])
    last = sum(report.losses[-2:]) / 2
    answers = host.generate([edit.prompt for edit in stream.batches[0]])
    editor.detach()
    assert len(report.losses) < 400
    assert last < editor.config.loss_threshold
    assert answers == [edit.target for edit in stream.batches[0]]


def test_learned_mini_batch_takes_no_step(host, stream):
    weight = host.ffn_output(4).weight.clone()
    assert torch.equal(trained(LocFT(layer=4, passes=2, loss_threshold=1e9), host, stream), weight)


def test_edits_come_back_from_their_tensors(host, stream):
    edits = encoded(host, stream.edits)
    assert recall(stored(edits, host.device)) == edits
    assert recall({}) == []


def test_remembered_edits_keep_their_order():
    a, b, c = (TokenSequence((i,), (9,)) for i in range(3))
    revised = TokenSequence((0,), (8,))
    assert remember([a, b], [revised, c]) == [b, revised, c]


def test_reshuffled_pass_is_a_permutation():
    parts = list(reshuffled(10, 4, torch.Generator().manual_seed(0)))
    assert [len(part) for part in parts] == [4, 4, 2]
    assert sorted(torch.cat(parts).tolist()) == list(range(10))


def test_resumed_run_goes_on_to_the_same_bits(host, stream, tmp_path):
    """Batch 3 replays edits that only the saved run has seen."""
    settings = {"passes": 3, "mini_batch": 5}
    short = EditStream.from_edits(stream.edits[:6], batch_size=2)
    expected = trained(LocFT(**settings), host, short)
    with EditSession(host, LocFT(**settings), short, progress=False) as session:
        session.jump(2)
        session.save(tmp_path / "run")
    with EditSession.resume(tmp_path / "run", host) as resumed:
        resumed.step()
        assert torch.equal(host.ffn_output(resumed.editor.layer).weight, expected)


def test_batch_learned_again_after_an_undo_has_the_same_bits(host, stream):
    editor = LocFT(passes=3)
    editor.attach(host, stream)
    weight = host.ffn_output(editor.layer).weight
    editor.edit(stream.batches[0])
    editor.edit(stream.batches[1])
    before = weight.clone()
    editor.undo()
    editor.edit(stream.batches[1])
    assert torch.equal(weight, before)
    editor.detach()


def test_name_tells_whether_it_replays():
    assert LocFT().name == "LocFT replay"
    assert LocFT(replay=False).name == "LocFT stream"
