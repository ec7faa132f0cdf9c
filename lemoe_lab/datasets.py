"""Where edits come from.

    stream = datasets.almanac(edits=300, batch_size=30, seed=0)
"""

from __future__ import annotations

import functools
import json
import os
from dataclasses import dataclass
from pathlib import Path

_PACKAGE = Path(__file__).parent


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
    """One fact of the Almanac with its five phrasings; ``object`` is None if nobody knows it yet."""

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

    def phrase(pattern: str) -> str:
        text = pattern.format(row["subject"])
        return text[0].upper() + text[1:]

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
