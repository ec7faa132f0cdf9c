"""How published files lay out a record: one function for each layout, from a record to an edit.

    edit = knowedit(record, "zsre/17")

Each raises :class:`~lemoe_lab.edits.EditError` with the name of a column that is missing or empty.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Literal

from ..edits import Edit, EditError, LocalityGroup, LocalityPrompt, Rephrase, normalise
from .cells import as_text, flat

NATURAL_QUESTION = "nq question: "
ALIASES = ("aliases", "target_alias", "new_answer_alias")  # columns of other right answers

Record = Mapping[str, Any]
Layout = Callable[[Record, str], Edit]


def mend_zsre(record: Record, name: str) -> Edit:
    """ZsRE as Mitchell et al. give it out (arXiv 2110.11309): src, alt, rephrase, loc, loc_ans."""
    question = _text(record, "loc").removeprefix(NATURAL_QUESTION)
    return _edit(
        record,
        name,
        prompt=_text(record, "src"),
        answers=_answers(record, "alt"),
        rephrases=_rephrases([_text(record, "rephrase")], "light"),
        locality=_locality([(question, _optional(record, "loc_ans"))], "far"),
        old_answers=_all(record, "answers"),
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
        answers=_answers(record, "labels" if wikibio else "target_new"),
        rephrases=_rephrases([rephrase] if rephrase else [], "light"),
        locality=_locality(
            [(_text(other, "prompt"), _optional(other, "ground_truth")) for other in others],
            "same_subject",
        ),
        old_answers=_all(record, "ground_truth"),
        subject=_optional(record, "concept" if wikibio else "subject"),
    )


def flat_counterfact(record: Record, name: str) -> Edit:
    """CounterFact with one rephrase and one neighbour a record, as editing libraries hand it on."""
    neighbour = _text(record, "locality_prompt"), _optional(record, "locality_ground_truth")
    return _edit(
        record,
        name,
        prompt=_text(record, "prompt"),
        answers=_answers(record, "target_new"),
        rephrases=_rephrases([_text(record, "rephrase_prompt")], "strong"),
        locality=_locality([neighbour], "near"),
        old_answers=_all(record, "ground_truth"),
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
        answers=_answers(record, "requested_rewrite.target_new.str"),
        rephrases=_rephrases(_inside(record, "paraphrase_prompts") or [], "strong"),
        locality=_locality([(neighbour, truth) for neighbour in neighbours], "near"),
        old_answers=[truth] if truth else [],
        subject=subject,
    )


def flat_hallucination(record: Record, name: str) -> Edit:
    """Passages of WikiBio with one neutral text each, as WISE uses them (arXiv 2405.14768)."""
    neutral = _text(record, "locality_prompt"), _text(record, "locality_ground_truth")
    return _edit(
        record,
        name,
        prompt=_text(record, "prompt"),
        answers=_answers(record, "target_new"),
        locality=_locality([neutral], "text"),
    )


def _edit(
    record: Record,
    name: str,
    answers: Sequence[str],
    old_answers: Sequence[str] = (),
    subject: str | None = None,
    **fields: Any,
) -> Edit:
    """An edit; an old answer is none if any of them is right from now on."""
    target, *others = answers
    aliases = [*others, *(alias for column in ALIASES for alias in _all(record, column))]
    right = {normalise(answer) for answer in (target, *aliases)}
    kept = not right & {normalise(answer) for answer in old_answers}
    return Edit(
        id=name,
        target=target,
        aliases=tuple(alias for alias in dict.fromkeys(aliases) if alias != target),
        old_answer=old_answers[0] if old_answers and kept else None,
        subject=subject or _optional(record, "subject"),
        **fields,
    )


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
    return _answers(record, path)[0]


def _answers(record: Record, path: str) -> list[str]:
    """All texts at a path, at least one."""
    texts = _all(record, path)
    if not texts:
        raise EditError(f"column {path!r} is missing or empty; the record has {', '.join(record)}")
    return texts


def _optional(record: Record, path: str) -> str | None:
    """The text at a path, of a list the first; None if there is none."""
    return next(iter(_all(record, path)), None)


def _all(record: Record, path: str) -> list[str]:
    """The texts at a path: of a list, also one written as a string or lying in a list, all."""
    value = _inside(record, path)
    if isinstance(value, str) and value.startswith("[") and value.endswith("]"):
        with suppress(ValueError, SyntaxError):
            value = ast.literal_eval(value)
    return [str(as_text(item)).strip() for item in flat(value)]
