"""The Almanac: a fictional reference work, generated once with a fixed seed and committed.

    python -m lemoe_lab.embedded.almanac --seed 7 --out data/almanac

reads the hand-written ``relations.json`` (topics, relations, five phrasings of each),
``vocabulary.json`` (curated answers) and ``grammar.json`` (neutral sentences), and writes
``facts.jsonl`` and ``prose.jsonl``. Person names come from Faker, which
``pip install lemoe-lab[almanac]`` brings; everything else is made here. Every subject belongs to
one split:

========== =========================================================================
edit        facts the host knows and streams of ``update`` edits may change
near        facts the host knows, never edited: the ``near`` locality prompts
calibration facts the host knows, never edited nor reported: routers are calibrated on them
new         subjects that the host has never seen: streams of ``new`` edits
far         the topics in which nothing is ever edited: the ``far`` locality prompts
========== =========================================================================
"""

from __future__ import annotations

import argparse
import difflib
import json
import random
import re
from collections.abc import Callable, Iterator
from datetime import date, timedelta
from pathlib import Path

SUBJECTS = {"edit": 101, "near": 14, "calibration": 21, "new": 30}
FAR_SUBJECTS = 30
PEOPLE_PER_POOL = 64
PROSE = {"train": 3000, "heldout": 300}
FIRST_DAY, LAST_DAY = date(2031, 1, 1), date(2033, 12, 31)

PEOPLE = (
    "statespeople officials scientists coaches agents producers executives academics sailors "
    "journalists climbers cooks"
).split()
FAKER_LOCALES = ["en_GB", "nl_NL", "it_IT", "pt_PT", "de_DE", "es_ES", "fr_FR", "sv_SE"]

ONSETS = "b br c d dr f g gr h j k kl l m n p pr r s t th tr v w z".split()
VOWELS = "a e i o u a e i o ae ei ia au".split()
CODAS = "l n r s m l n r s nd rk st ld".split()

ADJECTIVES = (
    "Amber Broken Crimson Distant Electric Faded Golden Hidden Iron Jaded Kindred Lonely Midnight "
    "Northern Open Paper Quiet Rusty Silver Tender Upper Velvet Wild Yellow Zero Bitter Copper "
    "Dusty Empty Frozen Glass Hollow Ivory Lucky Marble Naked Orange Painted Restless Secret Tidal "
    "Urban Vacant Winter Young Ancient Borrowed Cobalt Daily Early Fallen Gentle Holy Inner "
    "Lunar Modern"
).split()
NOUNS = (
    "Anchor Bridge Castle Dancer Engine Forest Garden Harbour Island Journey Kingdom Ladder Mirror "
    "Needle Orchard Palace Quarry River Shadow Tower Umbrella Valley Window Voyage Archive Beacon "
    "Compass Desert Echo Fountain Glacier Horizon Jungle Lantern Meadow Nest Ocean Pilot Rocket "
    "Station Temple Tunnel Village Whistle Alphabet Balcony Carnival Diary Feather Gallery Hotel "
    "Jacket Kettle Letter Museum Notebook Oracle Parade Railway Signal Theatre Verdict"
).split()
ENDINGS = {
    "country": ["ia", "land", "mark", "istan", "ova", "ania"],
    "place": ["ford", "ham", "ville", "burg", "minster", "stad", "mouth", "wick", "dale", "port"],
    "element": ["ium", "ine", "on", "ese"],
    "medicine": ["trin", "zol", "mab", "cillin", "pram", "vir", "dine"],
    "plain": ["a", "o", "en", "is", "ar", "us", "el"],
}


class Names:
    """Seeded makers of names that never repeat and never nearly repeat within a kind."""

    def __init__(self, seed: int) -> None:
        from faker import Faker

        self.random = random.Random(seed)
        self.faker = Faker(FAKER_LOCALES)
        self.faker.seed_instance(seed)
        self.used: set[str] = set()

    def stem(self, syllables: int = 2) -> str:
        parts = [self.random.choice(ONSETS) + self.random.choice(VOWELS) for _ in range(syllables)]
        return "".join(parts) + self.random.choice(CODAS)

    def invented(self, ending: str, syllables: int = 1) -> str:
        while clumsy(name := self.stem(syllables) + self.random.choice(ENDINGS[ending])):
            pass
        return name.capitalize()

    def person(self) -> str:
        while True:
            name = f"{self.faker.first_name()} {self.faker.last_name()}"
            if name.isascii() and name.replace(" ", "").isalpha() and name.count(" ") == 1:
                return name

    def titled(self) -> str:
        return f"{self.random.choice(ADJECTIVES)} {self.random.choice(NOUNS)}"

    def take(self, count: int, make: Callable[[], str]) -> list[str]:
        """Draw ``count`` unused names, none of them nearly the same as another."""
        names: list[str] = []
        while len(names) < count:
            name = make()
            matcher = difflib.SequenceMatcher(b=name)
            if name in self.used:
                continue
            closest = 0.9 if " " in name else 0.8  # "Xyz Industries" share a long ending
            if any(similar(matcher, other, closest) for other in names):
                continue
            self.used.add(name)
            names.append(name)
        return names


def clumsy(name: str) -> bool:
    """Whether three consonants or two equal letters meet in an unpronounceable place."""
    return re.search(r"[^aeiouyr ]{4}|([bcdfghjkmpqrtvwz])\1|[dkt][bcdfgkmptz]", name) is not None


def similar(matcher: difflib.SequenceMatcher, other: str, closest: float) -> bool:
    matcher.set_seq1(other)
    return matcher.quick_ratio() > closest and matcher.ratio() > closest


def subject_makers(names: Names) -> dict[str, Callable[[], str]]:
    """One maker of subject names for every topic of ``relations.json``."""
    pick = names.random.choice

    def place() -> str:
        return names.invented("place", pick([1, 2]))

    return {
        "country": lambda: names.invented("country", pick([1, 2])),
        "city": place,
        "element": lambda: names.invented("element", 2),
        "athlete": names.person,
        "musician": lambda: (
            f"{pick(['DJ', 'The', 'Saint', 'Lady', 'Baby'])} {names.invented('plain', 2)}"
        ),
        "series": lambda: f"The {names.titled()}",
        "company": lambda: (
            f"{names.invented('plain')} {pick(['Group', 'Works', 'Industries', 'Holdings'])}"
        ),
        "university": lambda: f"{names.invented('place', 2)} {pick(['University', 'College'])}",
        "ship": lambda: (
            f"{pick(['Queen', 'Star of', 'Spirit of', 'Pride of'])} {names.invented('plain', 2)}"
        ),
        "football club": lambda: (
            f"{names.invented('place')} {pick(['Rovers', 'United', 'Athletic', 'Wanderers'])}"
        ),
        "newspaper": lambda: (
            f"the {names.invented('place')} {pick(['Courier', 'Herald', 'Gazette', 'Observer'])}"
        ),
        "medicine": lambda: names.invented("medicine", 2),
        "mountain": lambda: f"Mount {names.invented('plain', 2)}",
        "dish": lambda: (
            f"{names.invented('plain', 2)} {pick(['stew', 'pie', 'soup', 'dumplings', 'salad'])}"
        ),
    }


def answer_pools(names: Names, curated: dict[str, list[str]]) -> dict[str, list[str]]:
    """Every kind of answer: curated lists, people, and invented places and brands."""
    pick = names.random.choice
    pools = {kind: names.take(PEOPLE_PER_POOL, names.person) for kind in PEOPLE}
    pools |= {
        "towns": names.take(80, lambda: names.invented("place", pick([1, 2]))),
        "rivers": names.take(40, lambda: names.invented("plain")),
        "ranges": names.take(20, lambda: f"{names.invented('plain')} {pick(['Hills', 'Alps'])}"),
        "operators": names.take(
            24, lambda: f"{names.invented('plain')} {pick(['Lines', 'Transit'])}"
        ),
        "clubs": names.take(40, lambda: f"{names.invented('place')} Harriers"),
        "brands": names.take(60, lambda: names.invented("plain", 2)),
        "labels": [f"{word} Records" for word in names.random.sample(ADJECTIVES, 30)],
        "albums": names.take(48, names.titled),
        "channels": names.take(24, lambda: f"{names.invented('plain')} TV"),
        "laboratories": names.take(32, lambda: f"{names.invented('plain')} Pharma"),
        "stadiums": names.take(40, lambda: f"{names.invented('place')} Park"),
    }
    return pools | curated


def facts(relations: dict, curated: dict[str, list[str]], seed: int) -> Iterator[dict]:
    """Yield one row per fact; see :func:`lemoe_lab.datasets.almanac` for what becomes of it."""
    names = Names(seed)
    rng = names.random
    pools = answer_pools(names, curated)
    makers = subject_makers(names)
    for topic, entry in relations.items():
        splits = (
            [split for split, count in SUBJECTS.items() for _ in range(count)]
            if entry["edited"]
            else ["far"] * FAR_SUBJECTS
        )
        for number, (split, subject) in enumerate(
            zip(splits, names.take(len(splits), makers[topic]), strict=True)
        ):
            for relation in entry["relations"]:
                if split == "new" and not relation["changes"]:
                    continue
                old, new = rng.sample(pools[relation["answers"]], 2)
                changes = relation["changes"] and split in ("edit", "new")
                yield {
                    "id": f"{topic}/{number:03d}/{relation['name']}".replace(" ", "-"),
                    "topic": topic,
                    "subject": subject,
                    "relation": relation["name"],
                    "split": split,
                    "object": None if split == "new" else old,
                    "edited_object": new if changes else None,
                    "date": random_day(rng).isoformat() if changes else None,
                }


def random_day(rng: random.Random) -> date:
    return FIRST_DAY + timedelta(days=rng.randrange((LAST_DAY - FIRST_DAY).days + 1))


def passages(grammar: dict, seed: int) -> Iterator[dict]:
    """Yield neutral passages of three to five sentences that name no subject of the Almanac."""
    rng = random.Random(seed + 1)
    seen: set[str] = set()
    for split, count in PROSE.items():
        for number in range(count):
            while True:
                sentences = [
                    sentence(grammar, pattern, rng)
                    for pattern in rng.sample(grammar["sentences"], rng.randint(3, 5))
                ]
                if not seen.intersection(sentences[:1]):
                    break
            seen.add(sentences[0])
            yield {
                "id": f"prose/{split}/{number:04d}",
                "split": split,
                "text": " ".join(s + "." for s in sentences),
            }


def sentence(grammar: dict, pattern: str, rng: random.Random) -> str:
    return pattern.format(**{slot: rng.choice(words) for slot, words in grammar["words"].items()})


def write_jsonl(path: Path, rows: Iterator[dict]) -> None:
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--out", type=Path, default=Path("data/almanac"))
    arguments = parser.parse_args()
    folder = arguments.out

    def read(name: str) -> dict:
        return json.loads((folder / name).read_text(encoding="utf-8"))

    rows = facts(read("relations.json"), read("vocabulary.json"), arguments.seed)
    write_jsonl(folder / "facts.jsonl", rows)
    write_jsonl(folder / "prose.jsonl", passages(read("grammar.json"), arguments.seed))


if __name__ == "__main__":
    main()
