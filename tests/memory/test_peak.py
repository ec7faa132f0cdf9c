"""What undo holds grows with the edits, is counted beforehand, and is measured where it can be."""

from __future__ import annotations

import ctypes
import importlib
import math
from pathlib import Path

import pytest

from lemoe_lab import datasets, editors
from lemoe_lab.memory import peak as memory
from lemoe_lab.memory.estimate import estimate_memory
from lemoe_lab.memory.peak import PeakMemory

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
KV_ANCHOR = {"routing": "kv_anchor", "centre": True, "bypass": True, "rehearse_anchors": True}
EDITORS = {
    "LEMoE scoped": lambda: editors.LEMoE(steps=1, intermediate=2),
    "LEMoE KV anchor": lambda: editors.LEMoE(steps=1, intermediate=2, **KV_ANCHOR),
    "LEMoE one expert": lambda: editors.LEMoE(steps=1, intermediate=2, insert=False),
    "MoE adaptor": lambda: editors.MoEAdaptor(steps=1, intermediate=2),
    "GRACE": lambda: editors.GRACE(steps=1),
    "DEFER": lambda: editors.DEFER(steps=1, gate_hidden=None),
    "LocFT": lambda: editors.LocFT(passes=1),
}


@pytest.fixture
def held_bytes(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("undo_memory").held_bytes


@pytest.fixture(scope="module")
def singles():
    """Eighty single edits."""
    stream = datasets.almanac(edits=80, batch_size=1, seed=2)
    return stream.model_copy(update={"calibration": stream.calibration[::4]})


@pytest.mark.slow
@pytest.mark.parametrize("make", EDITORS.values(), ids=EDITORS.keys())
def test_twice_the_edits_make_undo_hold_twice_as_much(host, singles, held_bytes, make):
    editor, held = make(), {}
    editor.attach(host, singles)
    try:
        for batch in singles:
            editor.edit(batch)
            if batch.step in (40, 80):
                held[batch.step] = held_bytes(editor.snapshots)
    finally:
        editor.detach()
    assert held[80] <= 2.1 * held[40]


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, KV_ANCHOR], ids=["scoped", "KV anchor"])
def test_what_a_router_holds_is_counted_by_the_estimate(host, singles, held_bytes, settings):
    editor = editors.LEMoE(steps=1, intermediate=2, **settings)
    expected = estimate_memory(host, editor, singles)
    editor.attach(host, singles)
    try:
        for batch in singles:
            editor.edit(batch)
        routers = [snapshot.router for snapshot in editor.snapshots]
        held = held_bytes([routers, editor.adaptor.router.memory])
    finally:
        editor.detach()
    assert 0.5 < expected.routing / held < 2
    assert expected.total > expected.host + expected.held + held / 2


@pytest.mark.parametrize("error", [TypeError, AttributeError, OSError])
def test_where_the_peak_cannot_be_forgotten_it_is_unknown(monkeypatch, error):
    def library(_name: object) -> object:
        raise error("no such library here")

    monkeypatch.setattr(ctypes, "CDLL", library)
    with PeakMemory() as measured:
        pass
    assert math.isnan(measured.bytes)


def test_without_the_files_of_linux_memory_is_unknown(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "STATUS", tmp_path / "status")
    monkeypatch.setattr(memory, "RESET", tmp_path / "nowhere" / "clear_refs")
    with PeakMemory() as measured:
        pass
    assert math.isnan(measured.bytes)
