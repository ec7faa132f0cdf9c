"""Any text as prompt, target, rephrase or locality prompt: it works, or is refused by name.

Whatever is refused leaves the session as it was, and the next step works.
"""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import lemoe_lab as ll
from lemoe_lab import Edit, EditError, LocalityPrompt, Rephrase

LONG = 10_000
ODD = {
    "nothing": "",
    "blanks": " \t\n",
    "a separator": "\x1c",
    "a null byte": "\x00",
    "control characters": "bell \x07, escape \x1b[31m, delete \x7f",
    "a lone surrogate": "half an emoji: \ud83d",
    "an emoji": "🦊",
    "a family of emoji": "the 👩‍👩‍👧‍👦 of 🇫🇴",
    "right to left": "ראש הממשלה של גמלנד הוא",
    "a turned direction": "abc \u202eDCBA\u202c efg",
    "Chinese": "宝石国的首都是",
    "a stack of accents": "e" + "\u0301" * 40,
    "zero width": "\u200b\ufeff",
    "a line separator": "one\u2028two",
    "only full stops": "...",
    "special tokens": "<s> </s> <pad>",
    "a very long word": "x" * LONG,
    "a very long text": "river " * (LONG // 6),
    "braces": "{} {0} %s \\N{BEL}",
}
FIELDS = ("prompt", "target", "rephrase", "locality prompt", "locality target")

texts = st.sampled_from(list(ODD.values())) | st.text(st.characters(), max_size=30)
quick = settings(
    max_examples=25,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def odd_edit(text: str, field: str) -> Edit:
    """An edit that is ordinary but for one text."""
    part = dict.fromkeys(FIELDS) | {
        "prompt": "The lighthouse keeper of Gemland is",
        "target": "Ann Lee",
        "rephrase": "Who keeps the lighthouse of Gemland?",
        "locality prompt": "The river of Gemland is",
    }
    part[field] = text
    return Edit(
        id="odd",
        prompt=part["prompt"],
        target=part["target"],
        rephrases=(Rephrase(prompt=part["rephrase"]),),
        locality=(
            LocalityPrompt(
                prompt=part["locality prompt"], group="far", target=part["locality target"]
            ),
        ),
    )


@pytest.fixture(scope="module")
def session(host, stream):
    """A session after the first of three batches; tests leave it as they find it."""
    with ll.EditSession(host, ll.editors.LEMoE(steps=2), stream, progress=False) as session:
        session.step()
        yield session


@quick
@given(text=texts, field=st.sampled_from(FIELDS))
@example(text=ODD["a lone surrogate"], field="target")
@example(text=ODD["a very long text"], field="prompt")
@example(text=ODD["a very long text"], field="target")
@example(text=ODD["a very long text"], field="rephrase")
@example(text=ODD["a very long word"], field="locality prompt")
@example(text=ODD["a very long text"], field="locality target")
@example(text=ODD["right to left"], field="prompt")
@example(text=ODD["a family of emoji"], field="target")
@example(text=ODD["special tokens"], field="target")
def test_an_edit_of_any_text_is_learned_or_refused_by_name(session, text, field):
    before, stream = session.metrics, session.stream
    try:
        edit = odd_edit(text, field)
    except EditError as refusal:
        part = "target" if "target" in field else "prompt"
        assert part in str(refusal)
        return
    try:
        session.add_batch([edit], at=session.steps)
    except EditError as refusal:
        assert "edit 'odd'" in str(refusal)
        assert session.stream == stream
    else:
        session.step()
        odd = session.metrics.query("edit == 'odd'")
        assert set(odd["metric"]) == {"reliability", "generality", "locality"}
        assert odd["value"].between(0, 1).all()
        session.undo()
        session.stream = stream
    assert session.metrics.equals(before)


def test_after_all_refusals_the_next_batch_is_learned(session):
    for text in (ODD["a very long text"], ODD["a very long word"]):
        for field in FIELDS:
            with pytest.raises(EditError, match="edit 'odd'"):
                session.add_batch([odd_edit(text, field)])
    session.step()
    learned = session.metrics.query("step == 2")
    assert set(learned["edit"]) == {edit.id for edit in session.stream.batches[1]}
    session.undo()


@quick
@given(text=texts)
@example(text=ODD["a lone surrogate"])
@example(text=ODD["a very long word"])
def test_any_prompt_is_continued_or_refused(session, text):
    try:
        answer = session.host.generate(text, max_new_tokens=3)
    except EditError as refusal:
        assert "prompt" in str(refusal)
    else:
        assert isinstance(answer, str)
    assert session.host.generate(["Once, a", "Twice, a"], max_new_tokens=1)


@quick
@given(prompt=texts, target=texts)
@example(prompt="Once, a", target="")
@example(prompt="Once, a", target=ODD["a lone surrogate"])
@example(prompt=ODD["a very long text"], target="b")
def test_any_prompt_and_target_are_scored_or_refused(session, prompt, target):
    try:
        (score,) = session.host.score([prompt], [target])
    except EditError as refusal:
        assert "prompt" in str(refusal) or "target" in str(refusal)
    else:
        assert score.log_probabilities.isfinite().all() and len(score.target) >= 1


@pytest.mark.parametrize("kind", ODD)
def test_a_stream_survives_json_with_any_text_that_an_edit_takes(kind):
    try:
        edit = odd_edit(ODD[kind], "target")
    except EditError:
        return
    stream = ll.EditStream.from_edits([edit], 1)
    assert ll.EditStream.model_validate_json(stream.model_dump_json()) == stream
