"""Made words in context in WiC's schema: does a city's name mean the same city in both sentences?

The names are carried by cities of several countries. Each sentence hints at the country of its
city: by its name, its capital or another of its cities. The two hints are never of one kind and
share no word, so that one must know what belongs together.
"""

import random
from collections import Counter
from collections.abc import Iterator
from itertools import count, permutations, product
from typing import Any

from pipeline.data.geonames.passages import share_no_word, towns
from pipeline.data.geonames.places import City, Places

# Kind of hint -> sentences.
_SENTENCES = {
    "country": (
        "{name} is a city in {hint}.",
        "They spent a week in {hint} and liked {name} best.",
    ),
    "capital": (
        "They left {name} for {hint}, the capital of the country.",
        "A minister came from the capital, {hint}, and opened a school in {name}.",
    ),
    "city": (
        "{name} and {hint} are in the same country.",
        "From {hint} she moved to {name}, without leaving the country.",
    ),
}

# The other city is one of so many, the largest of the country.
_LARGEST = 3

# A kind and the hint itself.
_Hint = tuple[str, str]


def geonames_wic(places: Places, rng: random.Random) -> Iterator[dict[str, Any]]:
    """Yield two examples a city, one of each label; cities in random order.

    The two examples have the same first hint and the same kinds of hints. Cities for whose names
    there are no such hints are left out.

    Yields:
        `word`, `sentence1`, `sentence2`, `idx`, numbered from 0, `label`, `start1`, `start2`,
        `end1`, `end2` (the word's place in each sentence) and `version`.
    """
    numbers = count()
    hints = _hints(places)
    namesakes = _namesakes(places)
    cities = [city for own in namesakes.values() for city in own]
    rng.shuffle(cities)
    for city in cities:
        other = rng.choice([one for one in namesakes[city.name] if one != city])
        pairs = _pairs(city.name, hints[city.country], hints[other.country], rng)
        for label, pair in rng.sample(pairs, len(pairs)):
            # Which of the two hints comes first tells nothing.
            (one, start1), (two, start2) = (
                _sentence(city.name, hint, rng) for hint in rng.sample(pair, 2)
            )
            yield {
                "word": city.name,
                "sentence1": one,
                "sentence2": two,
                "idx": next(numbers),
                "label": label,
                "start1": start1,
                "start2": start2,
                "end1": start1 + len(city.name),
                "end2": start2 + len(city.name),
                "version": 1.1,
            }


def _namesakes(places: Places) -> dict[str, list[City]]:
    """Return the cities of each name that stands for cities of several countries.

    Where a country has two of the name, its name would not tell them apart; they are left out.
    """
    here = Counter((city.name, city.country) for city in places.cities)
    namesakes: dict[str, list[City]] = {}
    for city in places.cities:
        if here[city.name, city.country] == 1:
            namesakes.setdefault(city.name, []).append(city)
    return {name: cities for name, cities in namesakes.items() if len(cities) > 1}


def _hints(places: Places) -> dict[str, dict[str, list[str]]]:
    """Return each country's hints of each kind, by the country's code."""
    cities: dict[str, list[str]] = {}
    for town in towns(places):
        cities.setdefault(town.country, []).append(town.name)
    return {
        code: {
            "country": [country.name],
            "capital": [country.capital] if country.capital else [],
            "city": cities.get(country.name, [])[:_LARGEST],
        }
        for code, country in places.countries.items()
    }


def _pairs(
    name: str, own: dict[str, list[str]], others: dict[str, list[str]], rng: random.Random
) -> list[tuple[bool, list[_Hint]]]:
    """Return a pair of hints at one country and a pair at two, with their labels, or nothing."""
    kinds = list(permutations(_SENTENCES, 2))
    for one, two in rng.sample(kinds, len(kinds)):
        found = [
            (first, same, different)
            for first, same, different in product(own[one], own[two], others[two])
            if share_no_word((name, first, same)) and share_no_word((name, first, different))
        ]
        if found:
            first, same, different = rng.choice(found)
            return [
                (True, [(one, first), (two, same)]),
                (False, [(one, first), (two, different)]),
            ]
    return []


def _sentence(name: str, hint: _Hint, rng: random.Random) -> tuple[str, int]:
    """Return a sentence with the name, and where the name begins."""
    kind, word = hint
    before, after = (
        part.format(hint=word) for part in rng.choice(_SENTENCES[kind]).split("{name}")
    )
    return f"{before}{name}{after}", len(before)
