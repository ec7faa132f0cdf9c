"""Estimates of memory: right within a factor of two, and exact where that can be counted."""

import math
from types import SimpleNamespace

import pytest

from lemoe_lab import EditSession, datasets, editors
from lemoe_lab.editors import Workload
from lemoe_lab.host import Host
from lemoe_lab.memory import estimate
from lemoe_lab.memory.estimate import available_memory, estimate_memory, readable, warn_if_too_large
from lemoe_lab.memory.peak import PeakMemory


def _is_editor(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, editors.Editor)


EVERY = [name for name in editors.__all__ if _is_editor(getattr(editors, name))]
EVERY.remove("Editor")


@pytest.fixture(scope="module")
def short_stream(stream):
    """Two batches of two edits, each asked in two ways."""
    edits = [edit.model_copy(update={"locality": ()}) for edit in stream.edits[:4]]
    edits = [edit.model_copy(update={"rephrases": edit.rephrases[:1]}) for edit in edits]
    return stream.with_groups([edits[:2], edits[2:]])


def peak_of_a_run(host, editor, stream) -> float:
    with PeakMemory() as memory, EditSession(host, editor, stream, progress=False) as session:
        session.run()
    if math.isnan(memory.bytes):
        pytest.skip("this system does not tell how much memory a process takes")
    return memory.bytes


# Against what was measured


@pytest.mark.parametrize(
    "editor",
    [
        editors.LEMoE(intermediate=16_000, steps=2),
        editors.LEMoE(intermediate=16_000, steps=2, insert=False),
        editors.MoEAdaptor(intermediate=6_000, experts=3, steps=2),
    ],
    ids=lambda editor: editor.name,
)
def test_a_run_on_the_embedded_host_takes_what_was_estimated(host, short_stream, editor):
    expected = estimate_memory(host, editor, short_stream)
    measured = peak_of_a_run(host, editor, short_stream)
    assert 0.5 < (expected.total - expected.host) / measured < 2


@pytest.mark.parametrize("size", [{"intermediate": 48}, {"expert_rank": 4}], ids=str)
def test_experts_that_are_held_are_counted_exactly(host, short_stream, size):
    editor = editors.LEMoE(**size, steps=1)
    expected = estimate_memory(host, editor, short_stream)
    with EditSession(host, editor, short_stream, progress=False, immediate=()) as session:
        session.jump(len(short_stream))
        held = sum(parameter.nbytes for parameter in editor.adaptor.experts.parameters())
    assert expected.held == held


def test_the_host_is_counted_exactly(host, stream):
    weights = sum(parameter.nbytes for parameter in host.model.parameters())
    assert estimate_memory(host, editors.LEMoE(), stream).host == weights


# What it hangs on


def test_twice_the_batches_hold_twice_the_experts(host, stream):
    longer = Workload.of(host, stream).with_batch_size(4)
    assert longer.batches == 2 * len(stream)
    halved = stream.with_groups([b.edits[i : i + 4] for b in stream for i in (0, 4)])
    one, two = (estimate_memory(host, editors.LEMoE(), s) for s in (stream, halved))
    assert two.held == 2 * one.held
    assert two.activations < one.activations


@pytest.mark.parametrize("size", [{"intermediate": 2_500}, {"expert_rank": 16}], ids=str)
def test_a_knob_saves_what_it_says(host, stream, size):
    before = estimate_memory(host, editors.LEMoE(intermediate=10_000), stream)
    saved = {knob.setting: knob.saves for knob in before.knobs}
    after = estimate_memory(host, editors.LEMoE(**size), stream)
    ((name, value),) = size.items()
    assert saved[f"{name}={value}"] == before.total - after.total > 0


def test_recomputing_activations_is_a_knob_where_they_decide(host):
    large = datasets.almanac(edits=100, batch_size=100, seed=11)
    editor = editors.LEMoE(layer=0, intermediate=16)
    plain = estimate_memory(host, editor, large)
    recomputing = Host(host.model, host.tokenizer, "recomputing", gradient_checkpointing=True)
    less = estimate_memory(recomputing, editor, large)
    knob = "load_host(..., gradient_checkpointing=True)"
    saved = {k.setting: k.saves for k in plain.knobs}
    assert less.activations < plain.activations
    assert saved[knob] == plain.total - less.total > 0
    assert knob not in {k.setting for k in less.knobs}


def test_only_knobs_that_save_memory_are_named_the_best_first(host, stream):
    knobs = estimate_memory(host, editors.LEMoE(), stream).knobs
    savings = [knob.saves for knob in knobs]
    assert savings == sorted(savings, reverse=True)
    assert min(savings) > 0


def test_experts_cannot_be_made_smaller_where_there_are_none(host, stream):
    knobs = estimate_memory(host, editors.FineTune(), stream).knobs
    assert knobs
    assert not any(knob.setting.startswith("intermediate") for knob in knobs)


@pytest.mark.parametrize("name", EVERY)
def test_every_editor_says_what_it_holds_before_it_is_attached(host, stream, name):
    editor = getattr(editors, name)()
    expected = estimate_memory(host, editor, stream)
    assert expected.held > 0
    assert expected.holds in str(expected)
    host.require_free()
    with pytest.raises(RuntimeError, match="not attached"):
        editor.host  # noqa: B018


# What people read


def test_the_sentence_says_what_is_needed_what_there_is_and_what_lowers_it(
    host, stream, monkeypatch
):
    monkeypatch.setattr(estimate, "available_memory", lambda _: 24e9)
    found = estimate_memory(host, editors.LEMoE(intermediate=100_000), stream)
    text = str(found)
    assert text.startswith(f"this run needs about {readable(found.total)}, you have 24 GB")
    assert "3 experts of hidden size 100,000" in text
    assert "intermediate=25000 saves" in text


def test_a_run_that_is_too_large_is_warned_of(host, stream, monkeypatch):
    monkeypatch.setattr(estimate, "available_memory", lambda _: 1e6)
    with pytest.warns(UserWarning, match="needs about .* you have .*; .* saves "):
        found = warn_if_too_large(host, editors.LEMoE(), stream)
    assert not found.fits


@pytest.mark.parametrize("free", [1e12, math.nan])
def test_nobody_is_warned_of_a_run_that_fits_or_that_nobody_knows_of(
    host, stream, monkeypatch, recwarn, free
):
    monkeypatch.setattr(estimate, "available_memory", lambda _: free)
    assert warn_if_too_large(host, editors.LEMoE(), stream).fits
    assert not recwarn.list


@pytest.mark.parametrize(
    ("size", "text"), [(31.4e9, "31 GB"), (2.44e9, "2.4 GB"), (80.2e6, "80 MB"), (1e5, "0.1 MB")]
)
def test_sizes_are_written_as_people_say_them(size, text):
    assert readable(size) == text


# What the machine has


@pytest.fixture
def machine(host, tmp_path, monkeypatch):
    """A machine with 8 GB free, as the system tells it."""
    free = SimpleNamespace(available=8000000 * 1024)
    monkeypatch.setattr(estimate.psutil, "virtual_memory", lambda: free)
    monkeypatch.setattr(estimate, "CONTAINER", tmp_path)
    return tmp_path


def test_free_memory_is_what_the_system_calls_available(host, machine):
    assert available_memory(host) == 8e6 * 1024


def test_a_container_may_have_less_than_its_machine(host, machine):
    (machine / "memory.max").write_text("3000000000\n")
    (machine / "memory.current").write_text("1000000000\n")
    assert available_memory(host) == 2e9


def test_a_container_without_a_limit_has_the_machine(host, machine):
    (machine / "memory.max").write_text("max\n")
    (machine / "memory.current").write_text("1000000000\n")
    assert available_memory(host) == 8e6 * 1024
