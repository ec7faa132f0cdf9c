"""The Almanac: the fictional facts that the embedded host knows, as streams of edits.

    stream = almanac(edits=300, batch_size=30, seed=0)
    stream.edits[0].prompt, stream.edits[0].old_answer, stream.edits[0].target

Streams are drawn with seeds of their own and are the same on every machine.
"""

from __future__ import annotations

import functools
import json
import os
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from ..edits import Edit, EditError, EditStream, LocalityPrompt
from .facts import calibration_of, locality_of, phrased, rephrases_of

_PACKAGE = Path(__file__).parents[1]
_SPLITS = {"update": ("edit",), "new": ("new",), "mixed": ("edit", "new")}
NEAR_PROMPTS = 2


def data_folder() -> Path:
    """The folder of shipped data: ``LEMOE_LAB_DATA``, else the installed copy, else the checkout's.

    Raises
    ------
    FileNotFoundError
        If none of the three exists.
    """
    override = os.environ.get("LEMOE_LAB_DATA")
    candidates = [Path(override)] if override else [_PACKAGE / "data", _PACKAGE.parent / "data"]
    for folder in candidates:
        if (folder / "almanac" / "relations.json").exists():
            return folder
    raise FileNotFoundError(
        f"no Almanac in {', '.join(map(str, candidates))}; "
        "reinstall lemoe-lab or point LEMOE_LAB_DATA at a folder that holds almanac/ and host/"
    )


@dataclass(frozen=True)
class Fact:
    """One fact of the Almanac in five phrasings; ``object`` is None if nobody knows it yet."""

    id: str
    topic: str
    subject: str
    relation: str
    split: str
    object: str | None
    edited_object: str | None
    date: str | None
    cloze: str
    light: tuple[str, ...]
    strong: tuple[str, ...]

    @property
    def prompts(self) -> tuple[str, ...]:
        """All five phrasings, the canonical cloze first."""
        return (self.cloze, *self.light, *self.strong)

    @property
    def key(self) -> tuple[str, str]:
        return self.subject, self.relation


@functools.lru_cache(maxsize=2)
def almanac_facts(folder: Path | None = None) -> tuple[Fact, ...]:
    """Every fact of the Almanac, in the order of its file."""
    folder = folder or data_folder() / "almanac"
    topics = json.loads((folder / "relations.json").read_text(encoding="utf-8"))
    templates = {
        (topic, relation["name"]): relation
        for topic, entry in topics.items()
        for relation in entry["relations"]
    }
    lines = (folder / "facts.jsonl").read_text(encoding="utf-8").splitlines()
    return tuple(_fact(row, templates) for row in map(json.loads, lines))


def _fact(row: dict, templates: dict) -> Fact:
    template = templates[row["topic"], row["relation"]]
    phrase = partial(phrased, subject=row["subject"])
    return Fact(
        **row,
        cloze=phrase(template["cloze"]),
        light=(phrase(template["question"]), phrase(template["light"])),
        strong=tuple(map(phrase, template["strong"])),
    )


@functools.lru_cache(maxsize=4)
def almanac_prose(split: str, folder: Path | None = None) -> tuple[str, ...]:
    """Neutral passages: ``train`` (seen by the embedded host) or ``heldout``."""
    folder = folder or data_folder() / "almanac"
    lines = (folder / "prose.jsonl").read_text(encoding="utf-8").splitlines()
    return tuple(row["text"] for row in map(json.loads, lines) if row["split"] == split)


def almanac(
    edits: int = 300,
    batch_size: int = 30,
    seed: int = 0,
    kind: Literal["update", "new", "mixed"] = "update",
) -> EditStream:
    """A stream of edits of the embedded Almanac, drawn and ordered at random by ``seed``.

    Parameters
    ----------
    edits, batch_size
        How many edits, and how many are learned together; the last batch may be shorter.
    seed
        Decides the edits, their order and their locality prompts. A shorter stream of the same
        seed and kind holds the first edits of a longer one.
    kind
        ``update`` changes facts that the host knows, ``new`` tells it about subjects it has never
        seen, ``mixed`` draws from both.

    Returns
    -------
    EditStream
        Each edit has two light and two strong rephrases and locality prompts of up to four groups:
        ``same_subject`` (the fact that never changes and, where there is one, a fact of another
        relation that this stream leaves alone; none for new subjects), ``near`` (two),
        ``far`` (one) and ``text`` (one). ``calibration`` holds facts that are neither edited nor
        asked about.

    Raises
    ------
    EditError
        For an unknown kind, or more edits than the Almanac has.
    """
    if kind not in _SPLITS:
        raise EditError(f"kind must be one of {', '.join(_SPLITS)}, not {kind!r}")
    facts = almanac_facts()
    editable = [fact for fact in facts if fact.split in _SPLITS[kind] and fact.edited_object]
    if not 1 <= edits <= len(editable):
        raise EditError(
            f"the Almanac has 1 to {len(editable)} edits of kind {kind!r}, not {edits}; "
            "ask for fewer, or take another kind"
        )
    chosen = random.Random(f"{seed}/{kind}").sample(editable, len(editable))[:edits]
    locality = _AlmanacLocality(facts, {fact.id for fact in chosen}, seed)
    return EditStream.from_edits(
        [_almanac_edit(fact, locality.prompts(fact)) for fact in chosen],
        batch_size,
        name=f"almanac {kind}",
        seed=seed,
        order="random",
        calibration=calibration_of(facts),
    )


def _almanac_edit(fact: Fact, locality: tuple[LocalityPrompt, ...]) -> Edit:
    return Edit(
        id=fact.id,
        prompt=fact.cloze,
        target=fact.edited_object,
        old_answer=fact.object,
        rephrases=rephrases_of(fact),
        locality=locality,
        subject=fact.subject,
        relation=fact.relation,
        topic=fact.topic,
        date=fact.date,
    )


class _AlmanacLocality:
    """Picks the locality prompts of an edited fact, always the same ones for the same seed."""

    def __init__(self, facts: Sequence[Fact], edited: set[str], seed: int) -> None:
        self.edited = edited
        self.seed = seed
        self.far = [fact for fact in facts if fact.split == "far"]
        self.near = _grouped(
            (fact for fact in facts if fact.split == "near"), lambda f: (f.topic, f.relation)
        )
        self.of_subject = _grouped(
            (fact for fact in facts if fact.split == "edit"), lambda f: (f.topic, f.subject)
        )
        self.passages = almanac_prose("heldout")

    def prompts(self, fact: Fact) -> tuple[LocalityPrompt, ...]:
        """The locality prompts of ``fact``: groups same_subject, near, far, text."""
        rng = random.Random(f"{self.seed}/{fact.id}")
        near = rng.sample(self.near[fact.topic, fact.relation], NEAR_PROMPTS)
        far = rng.choice(self.far)
        passage = rng.choice(self.passages)
        return locality_of(self._other(fact, rng), near, far, passage)

    def _other(self, fact: Fact, rng: random.Random) -> list[Fact]:
        """What the host knows of the subject for good, and one changeable fact left alone."""
        siblings = self.of_subject.get((fact.topic, fact.subject), [])
        stable = [f for f in siblings if f.edited_object is None]
        untouched = [f for f in siblings if f.edited_object and f.id not in self.edited]
        return stable + rng.sample(untouched, min(1, len(untouched)))


def _grouped(facts: Iterable[Fact], key: Callable[[Fact], tuple]) -> dict[tuple, list[Fact]]:
    groups: dict[tuple, list[Fact]] = {}
    for fact in facts:
        groups.setdefault(key(fact), []).append(fact)
    return groups
