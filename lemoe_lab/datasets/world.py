"""Facts about the world, for hosts that were pretrained on the world's text.

    stream = world(edits=300, batch_size=30, seed=0)
    stream = world(edits=100, host=host)        # of what this host answers rightly
    stream.edits[0].prompt, stream.edits[0].old_answer, stream.edits[0].target

An edit is counterfactual: its target is the object of another fact of the same relation, and
``old_answer`` is the true one. Where the facts come from: the data card in ``data/world``.
"""

from __future__ import annotations

import functools
import json
import random
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from ..answers import normalise
from ..edits import Edit, EditError, EditStream, LocalityPrompt
from .embedded import data_folder
from .facts import calibration_of, locality_of, phrased, rephrases_of

NEAR_PROMPTS = 2
SAME_SUBJECT_PROMPTS = 2


@dataclass(frozen=True)
class WorldFact:
    """One true fact in six phrasings; ``split`` says what it may be used for.

    ``names`` are other names of the object, ``others`` further objects that are right as well.
    """

    id: str
    topic: str
    relation: str
    subject: str
    object: str
    names: tuple[str, ...]
    others: tuple[str, ...]
    split: str
    cloze: str
    light: tuple[str, ...]
    strong: tuple[str, ...]

    @property
    def prompts(self) -> tuple[str, ...]:
        """All six phrasings, the canonical cloze first, then the question."""
        return (self.cloze, *self.light, *self.strong)

    @property
    def answers(self) -> tuple[str, ...]:
        """Every answer that is right, the object first."""
        return (self.object, *self.names, *self.others)


@functools.lru_cache(maxsize=2)
def world_facts(folder: Path | None = None) -> tuple[WorldFact, ...]:
    """Every fact, in the order of its file."""
    folder = folder or data_folder() / "world"
    topics = json.loads((folder / "relations.json").read_text(encoding="utf-8"))
    templates = {
        relation["name"]: (topic, relation)
        for topic, entry in topics.items()
        for relation in entry["relations"]
    }
    rows = json.loads((folder / "facts.json").read_text(encoding="utf-8"))
    return tuple(_fact(row, *templates[row["relation"]]) for row in rows)


def _fact(row: dict, topic: str, template: dict) -> WorldFact:
    phrase = partial(phrased, subject=row["subject"])
    return WorldFact(
        id=f"world/{row['relation']}/{row['subject']}",
        topic=topic,
        relation=row["relation"],
        subject=row["subject"],
        object=row["object"],
        names=tuple(row.get("names", ())),
        others=tuple(row.get("others", ())),
        split=row["split"],
        cloze=phrase(template["cloze"]),
        light=(phrase(template["question"]), *map(phrase, template["light"])),
        strong=tuple(map(phrase, template["strong"])),
    )


@functools.lru_cache(maxsize=2)
def world_prose(folder: Path | None = None) -> tuple[str, ...]:
    """Short neutral passages that say nothing about the world."""
    folder = folder or data_folder() / "world"
    return tuple(json.loads((folder / "prose.json").read_text(encoding="utf-8")))


class Answering(Protocol):
    """Whoever can say which facts it knows: a Host."""

    name: str

    def exact_match(
        self, prompts: Sequence[str], targets: Sequence[str | Sequence[str]]
    ) -> list[bool]:
        """Whether prompts are answered with their targets."""


def world(
    edits: int = 300, batch_size: int = 30, seed: int = 0, host: Answering | None = None
) -> EditStream:
    """A stream of counterfactual edits of facts about the world, drawn and ordered by ``seed``.

    Parameters
    ----------
    edits, batch_size
        How many edits, and how many are learned together; the last batch may be shorter.
    seed
        Decides the edits, their order, targets and locality prompts. A shorter stream of the same
        seed and host holds the first edits of a longer one.
    host
        Edit only what this model answers rightly after the cloze prompt, and ask only such facts
        as ``same_subject`` and ``near`` locality; None: whatever is true.

    Returns
    -------
    EditStream
        Each edit has three light and two strong rephrases and locality prompts of up to four
        groups: ``same_subject`` (up to two facts of other relations that this stream leaves alone),
        ``near`` (up to two), ``far`` (one) and ``text`` (one). ``calibration`` holds facts that
        are neither edited nor asked about.

    Raises
    ------
    EditError
        For more edits than there are facts, or than the host answers rightly.
    """
    facts = world_facts()
    usable = [fact for fact in facts if fact.split in ("edit", "near")]
    if host is not None:
        right = host.exact_match([f.cloze for f in usable], [f.answers for f in usable])
        usable = [fact for fact, is_right in zip(usable, right, strict=True) if is_right]
    editable = [fact for fact in usable if fact.split == "edit"]
    if not 1 <= edits <= len(editable):
        raise EditError(_too_few(edits, len(editable), host))
    chosen = random.Random(f"{seed}/world").sample(editable, len(editable))[:edits]
    targets = _Targets(facts, seed)
    locality = _WorldLocality(facts, usable, chosen, seed)
    return EditStream.from_edits(
        [_world_edit(fact, targets.other(fact), locality.prompts(fact)) for fact in chosen],
        batch_size,
        name="world",
        seed=seed,
        order="random",
        calibration=calibration_of(facts),
    )


def _too_few(edits: int, available: int, host: Answering | None) -> str:
    if host is None:
        return f"world() has 1 to {available} edits, not {edits}; ask for fewer"
    return (
        f"{host.name} answers {available} of the facts rightly that world() may edit, and {edits} "
        "edits were asked for; ask for fewer (at least 1), take a model that knows more, or edit "
        "regardless of what it knows with host=None"
    )


def _world_edit(fact: WorldFact, target: WorldFact, locality: tuple[LocalityPrompt, ...]) -> Edit:
    return Edit(
        id=fact.id,
        prompt=fact.cloze,
        target=target.object,
        aliases=target.names,
        old_answer=fact.object,
        rephrases=rephrases_of(fact),
        locality=locality,
        subject=fact.subject,
        relation=fact.relation,
        topic=fact.topic,
    )


class _Targets:
    """Draws the facts whose object others get as their new one, the same for the same seed."""

    def __init__(self, facts: Iterable[WorldFact], seed: int) -> None:
        self.seed = seed
        self.by_relation: defaultdict[str, dict[str, WorldFact]] = defaultdict(dict)
        for fact in facts:
            self.by_relation[fact.relation].setdefault(normalise(fact.object), fact)

    def other(self, fact: WorldFact) -> WorldFact:
        """A fact of the same relation whose object is no right answer for ``fact``."""
        right = {normalise(answer) for answer in fact.answers}
        wrong = [
            other
            for other in self.by_relation[fact.relation].values()
            if not right & {normalise(name) for name in (other.object, *other.names)}
        ]
        return random.Random(f"{self.seed}/{fact.id}/target").choice(wrong)


class _WorldLocality:
    """Picks the locality prompts of an edited fact, always the same ones for the same seed."""

    def __init__(
        self,
        facts: Iterable[WorldFact],
        usable: Iterable[WorldFact],
        edited: Sequence[WorldFact],
        seed: int,
    ) -> None:
        self.seed = seed
        self.far = [fact for fact in facts if fact.split == "far"]
        self.near: defaultdict[str, list[WorldFact]] = defaultdict(list)
        self.of_subject: defaultdict[tuple[str, str], list[WorldFact]] = defaultdict(list)
        edited_ids = {fact.id for fact in edited}
        for fact in usable:
            if fact.split == "near":
                self.near[fact.relation].append(fact)
            elif fact.id not in edited_ids:
                self.of_subject[fact.topic, fact.subject].append(fact)
        self.passages = world_prose()

    def prompts(self, fact: WorldFact) -> tuple[LocalityPrompt, ...]:
        """The locality prompts of ``fact``: groups same_subject, near, far, text."""
        rng = random.Random(f"{self.seed}/{fact.id}")
        same = _some(self.of_subject[fact.topic, fact.subject], SAME_SUBJECT_PROMPTS, rng)
        near = _some(self.near[fact.relation], NEAR_PROMPTS, rng)
        passage = rng.choice(self.passages)
        return locality_of(same, near, rng.choice(self.far), passage)


def _some(facts: Sequence[WorldFact], most: int, rng: random.Random) -> list[WorldFact]:
    return rng.sample(facts, min(most, len(facts)))
