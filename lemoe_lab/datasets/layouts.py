"""How published files lay out a record: one function for each layout, from a record to its edits.

    [edit] = knowedit(record, "zsre/17")

Each raises :class:`~lemoe_lab.edits.EditError` with the name of a column that is missing or empty.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, Literal

from ..edits import Edit, EditError, LocalityGroup, LocalityPrompt, Rephrase, normalise
from .cells import as_text, flat

NATURAL_QUESTION = "nq question: "
ALIASES = ("aliases", "target_alias", "new_answer_alias")  # columns of other right answers

Record = Mapping[str, Any]
Layout = Callable[[Record, str], Iterator[Edit]]


def mend_zsre(record: Record, name: str) -> Iterator[Edit]:
    """ZsRE as Mitchell et al. give it out (arXiv 2110.11309): src, alt, rephrase, loc, loc_ans."""
    question = _text(record, "loc").removeprefix(NATURAL_QUESTION)
    yield _edit(
        record,
        name,
        prompt=_text(record, "src"),
        answers=_answers(record, "alt"),
        rephrases=_rephrases([_text(record, "rephrase")], "light"),
        locality=_locality([(question, _optional(record, "loc_ans"))], "far"),
        old_answers=_all(record, "answers"),
    )


def knowedit(record: Record, name: str) -> Iterator[Edit]:
    """ZsRE, wiki_recent, wiki_counterfact and WikiBio of KnowEdit (arXiv 2401.01286).

    WikiBio calls prompt, target and subject ``text``, ``labels`` and ``concept``. The locality
    prompts ask for other relations of the subject (``Relation_Specificity``) and for its other
    objects of the same relation (``Forgetfulness``), unless the answer is the target after all.
    """
    wikibio = "text" in record
    rephrase = _optional(record, "rephrase_prompt")
    target = "labels" if wikibio else "target_new"
    new = set(map(normalise, _all(record, target)))
    others = [
        *_asked(record, "locality.Relation_Specificity", "prompt", "ground_truth"),
        *(
            (prompt, answer)
            for prompt, answer in _asked(record, "locality.Forgetfulness", "prompt", "ground_truth")
            if normalise(answer or "") not in new
        ),
    ]
    yield _edit(
        record,
        name,
        prompt=_text(record, "text" if wikibio else "prompt"),
        answers=_answers(record, target),
        rephrases=_rephrases([rephrase] if rephrase else [], "light"),
        locality=_locality(others, "same_subject"),
        old_answers=_all(record, "ground_truth"),
        subject=_optional(record, "concept" if wikibio else "subject"),
    )


def flat_counterfact(record: Record, name: str) -> Iterator[Edit]:
    """CounterFact with one rephrase and one neighbour a record, as editing libraries hand it on."""
    neighbour = _text(record, "locality_prompt"), _optional(record, "locality_ground_truth")
    yield _edit(
        record,
        name,
        prompt=_text(record, "prompt"),
        answers=_answers(record, "target_new"),
        rephrases=_rephrases([_text(record, "rephrase_prompt")], "strong"),
        locality=_locality([neighbour], "near"),
        old_answers=_all(record, "ground_truth"),
    )


def rome_counterfact(record: Record, name: str) -> Iterator[Edit]:
    """CounterFact as Meng et al. give it out (arXiv 2202.05262), with all its paraphrases and
    neighbours: about two and ten a record."""
    subject = _text(record, "requested_rewrite.subject")
    truth = _optional(record, "requested_rewrite.target_true.str")
    neighbours = _inside(record, "neighborhood_prompts") or []
    yield _edit(
        record,
        name,
        prompt=_text(record, "requested_rewrite.prompt").replace("{}", subject),
        answers=_answers(record, "requested_rewrite.target_new.str"),
        rephrases=_rephrases(_inside(record, "paraphrase_prompts") or [], "strong"),
        locality=_locality([(neighbour, truth) for neighbour in neighbours], "near"),
        old_answers=[truth] if truth else [],
        subject=subject,
    )


def wikibigedit(record: Record, name: str) -> Iterator[Edit]:
    """WikiBigEdit as Thede et al. give it out (arXiv 2503.05683): update, ans, rephrase, personas,
    loc, loc_ans."""
    neighbour = _optional(record, "loc")
    yield _edit(
        record,
        name,
        prompt=_text(record, "update"),
        answers=_answers(record, "ans"),
        rephrases=_rephrases(_all(record, "rephrase") + _all(record, "personas"), "strong"),
        locality=_locality(
            [(neighbour, _optional(record, "loc_ans"))] if neighbour else [], "near"
        ),
    )


def qaedit(record: Record, name: str) -> Iterator[Edit]:
    """QAEdit (arXiv 2502.11177): prompt, target, rephrase and a list of unrelated questions."""
    unrelated = _asked(record, "locality", "loc", "loc_ans")
    yield _edit(
        record,
        name,
        prompt=_text(record, "prompt"),
        answers=_answers(record, "target"),
        rephrases=_rephrases(_all(record, "rephrase"), "strong"),
        locality=_locality(
            [(prompt.removeprefix(NATURAL_QUESTION), answer) for prompt, answer in unrelated], "far"
        ),
    )


def mquake(record: Record, name: str) -> Iterator[Edit]:
    """MQuAKE (arXiv 2305.14795): one edit for each fact that a record rewrites.

    The aliases of a new answer stand in ``new_single_hops``, the chain of facts after the edits.
    """
    aliases = {
        (_optional(hop, "question"), _optional(hop, "answer")): _all(hop, "answer_alias")
        for hop in _list(record, "new_single_hops")
    }
    rewrites = _list(record, "requested_rewrite")
    if not rewrites:
        raise _missing(record, "requested_rewrite")
    for number, rewrite in enumerate(rewrites):
        try:
            yield _rewrite(rewrite, f"{name}/{number}", aliases)
        except EditError as error:
            raise EditError(f"requested_rewrite {number}: {error}") from None


def _rewrite(
    rewrite: Record, name: str, aliases: Mapping[tuple[str | None, str | None], list[str]]
) -> Edit:
    """A fact that MQuAKE rewrites; ``aliases`` of answers by question and answer."""
    subject, target = _text(rewrite, "subject"), _text(rewrite, "target_new.str")
    question = _optional(rewrite, "question")
    return _edit(
        rewrite,
        name,
        prompt=_text(rewrite, "prompt").replace("{}", subject),
        answers=[target, *aliases.get((question, target), [])],
        rephrases=_rephrases([question] if question else [], "strong"),
        old_answers=_all(rewrite, "target_true.str"),
        relation=_optional(rewrite, "relation_id"),
    )


def flat_hallucination(record: Record, name: str) -> Iterator[Edit]:
    """Passages of WikiBio with one neutral text each, as WISE uses them (arXiv 2405.14768)."""
    neutral = _text(record, "locality_prompt"), _text(record, "locality_ground_truth")
    yield _edit(
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


def _asked(record: Record, path: str, prompt: str, answer: str) -> list[tuple[str, str | None]]:
    """The questions in the list at a path, each with its answer, by the names of their columns."""
    return [(_text(one, prompt), _optional(one, answer)) for one in _list(record, path)]


def _list(record: Record, path: str) -> list[Any]:
    """The items at a path; a value that is no list is one item."""
    return list(flat(_inside(record, path)))


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
        raise _missing(record, path)
    return texts


def _missing(record: Record, path: str) -> EditError:
    has = ", ".join(record) if isinstance(record, Mapping) else repr(record)
    return EditError(f"column {path!r} is missing or empty; the record has {has}")


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
