"""How published files lay out a record: one function for each layout, from a record to an edit.

    edit = knowedit(record, "zsre/17")

Each raises :class:`~lemoe_lab.edits.EditError` with the name of a column that is missing or empty.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Literal

from ..edits import Edit, EditError, LocalityGroup, LocalityPrompt, Rephrase

NATURAL_QUESTION = "nq question: "

Record = Mapping[str, Any]
Layout = Callable[[Record, str], Edit]


def mend_zsre(record: Record, name: str) -> Edit:
    """ZsRE as Mitchell et al. give it out (arXiv 2110.11309): src, alt, rephrase, loc, loc_ans."""
    question = _text(record, "loc").removeprefix(NATURAL_QUESTION)
    return _edit(
        record,
        name,
        prompt=_text(record, "src"),
        target=_text(record, "alt"),
        rephrases=_rephrases([_text(record, "rephrase")], "light"),
        locality=_locality([(question, _optional(record, "loc_ans"))], "far"),
        old_answer=_optional(record, "answers"),
    )


def knowedit(record: Record, name: str) -> Edit:
    """ZsRE and WikiBio of KnowEdit (arXiv 2401.01286).

    WikiBio calls prompt, target and subject ``text``, ``labels`` and ``concept``. The locality
    prompts ask for other relations of the subject (``Relation_Specificity``).
    """
    wikibio = "text" in record
    rephrase = _optional(record, "rephrase_prompt")
    others = _inside(record, "locality.Relation_Specificity") or []
    return _edit(
        record,
        name,
        prompt=_text(record, "text" if wikibio else "prompt"),
        target=_text(record, "labels" if wikibio else "target_new"),
        rephrases=_rephrases([rephrase] if rephrase else [], "light"),
        locality=_locality(
            [(_text(other, "prompt"), _optional(other, "ground_truth")) for other in others],
            "same_subject",
        ),
        old_answer=_optional(record, "ground_truth"),
        subject=_optional(record, "concept" if wikibio else "subject"),
    )


def flat_counterfact(record: Record, name: str) -> Edit:
    """CounterFact with one rephrase and one neighbour a record, as editing libraries hand it on."""
    neighbour = _text(record, "locality_prompt"), _optional(record, "locality_ground_truth")
    return _edit(
        record,
        name,
        prompt=_text(record, "prompt"),
        target=_text(record, "target_new"),
        rephrases=_rephrases([_text(record, "rephrase_prompt")], "strong"),
        locality=_locality([neighbour], "near"),
        old_answer=_optional(record, "ground_truth"),
    )


def rome_counterfact(record: Record, name: str) -> Edit:
    """CounterFact as Meng et al. give it out (arXiv 2202.05262), with all its paraphrases and
    neighbours: about two and ten a record."""
    subject = _text(record, "requested_rewrite.subject")
    truth = _optional(record, "requested_rewrite.target_true.str")
    neighbours = _inside(record, "neighborhood_prompts") or []
    return _edit(
        record,
        name,
        prompt=_text(record, "requested_rewrite.prompt").replace("{}", subject),
        target=_text(record, "requested_rewrite.target_new.str"),
        rephrases=_rephrases(_inside(record, "paraphrase_prompts") or [], "strong"),
        locality=_locality([(neighbour, truth) for neighbour in neighbours], "near"),
        old_answer=truth,
        subject=subject,
    )


def flat_hallucination(record: Record, name: str) -> Edit:
    """Passages of WikiBio with one neutral text each, as WISE uses them (arXiv 2405.14768)."""
    neutral = _text(record, "locality_prompt"), _text(record, "locality_ground_truth")
    return _edit(
        record,
        name,
        prompt=_text(record, "prompt"),
        target=_text(record, "target_new"),
        locality=_locality([neutral], "text"),
    )


def _edit(
    record: Record,
    name: str,
    target: str,
    old_answer: str | None = None,
    subject: str | None = None,
    **fields: Any,
) -> Edit:
    """An edit; an old answer that the file calls the target itself is none."""
    if old_answer is not None and old_answer.lower() == target.lower():
        old_answer = None
    subject = subject or _optional(record, "subject")
    return Edit(id=name, target=target, old_answer=old_answer, subject=subject, **fields)


def _rephrases(prompts: Iterable[str], group: Literal["light", "strong"]) -> tuple[Rephrase, ...]:
    return tuple(Rephrase(prompt=prompt, group=group) for prompt in prompts)


def _locality(
    asked: Sequence[tuple[str, str | None]], group: LocalityGroup
) -> tuple[LocalityPrompt, ...]:
    return tuple(
        LocalityPrompt(prompt=prompt, group=group, target=answer) for prompt, answer in asked
    )


def _inside(record: Record, path: str) -> Any:
    """What lies at a path of columns such as ``requested_rewrite.subject``; None if nothing."""
    value: Any = record
    for column in path.split("."):
        value = value.get(column) if isinstance(value, Mapping) else None
    return value


def _text(record: Record, path: str) -> str:
    text = _optional(record, path)
    if text is None:
        raise EditError(f"column {path!r} is missing or empty; the record has {', '.join(record)}")
    return text


def _optional(record: Record, path: str) -> str | None:
    """A text; of a list, also one that was written as a string or lies in a list, the first."""
    value = _inside(record, path)
    if isinstance(value, str) and value.startswith("[") and value.endswith("]"):
        with suppress(ValueError, SyntaxError):
            value = ast.literal_eval(value)
    while isinstance(value, list):
        value = value[0] if value else None
    return None if value is None else str(value).strip() or None
