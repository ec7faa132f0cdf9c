"""What streams that are drawn from a list of facts share: wordings, locality, calibration."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from ..edits import CalibrationFact, LocalityPrompt, Rephrase


class Fact(Protocol):
    """One fact in several wordings; ``split`` says what it may be used for."""

    subject: str
    relation: str
    split: str
    cloze: str
    light: tuple[str, ...]
    strong: tuple[str, ...]
    prompts: tuple[str, ...]


def phrased(pattern: str, subject: str) -> str:
    """A wording about a subject, which stands at ``{}``; it begins with a capital letter."""
    text = pattern.format(subject)
    return text[0].upper() + text[1:]


def rephrases_of(fact: Fact) -> tuple[Rephrase, ...]:
    """The light and the strong wordings of a fact."""
    light = [Rephrase(prompt=prompt, group="light") for prompt in fact.light]
    strong = [Rephrase(prompt=prompt, group="strong") for prompt in fact.strong]
    return (*light, *strong)


def locality_of(
    same: Sequence[Fact], near: Sequence[Fact], far: Fact, passage: str
) -> tuple[LocalityPrompt, ...]:
    """Locality prompts of the groups same_subject, near, far and text."""
    beginning, rest = passage.split(". ", 1)
    return (
        *(LocalityPrompt(prompt=fact.cloze, group="same_subject") for fact in same),
        *(LocalityPrompt(prompt=fact.cloze, group="near") for fact in near),
        LocalityPrompt(prompt=far.cloze, group="far"),
        LocalityPrompt(prompt=f"{beginning}.", group="text", target=rest),
    )


def calibration_of(facts: Iterable[Fact]) -> tuple[CalibrationFact, ...]:
    """The facts that are kept for calibration."""
    return tuple(
        CalibrationFact(subject=fact.subject, relation=fact.relation, prompts=fact.prompts)
        for fact in facts
        if fact.split == "calibration"
    )
