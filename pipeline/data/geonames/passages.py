"""Towns in small groups, and passages that tell of them: what made examples are made of."""

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from pipeline.data.geonames.facts import INHABITANTS
from pipeline.data.geonames.places import Places, well_known_cities


@dataclass(frozen=True)
class Town:
    """A well-known city that is not its country's capital, and its country."""

    name: str
    population: int
    country: str
    continent: str
    capital: str


def towns(places: Places) -> list[Town]:
    """Return every town, the largest first."""
    found = []
    for city in well_known_cities(places, INHABITANTS):
        country = places.countries[city.country]
        if country.capital not in ("", city.name):
            found.append(
                Town(city.name, city.population, country.name, country.continent, country.capital)
            )
    return found


def town_groups(places: Places, size: int, rng: random.Random) -> Iterator[list[Town]]:
    """Yield one group a town: it and towns of other countries, all in random order.

    Left out are groups in which two names share a word, which would tell what belongs together
    (Mexico and Mexico City), and those with two towns of the same size.
    """
    order = towns(places)
    by_country: dict[str, list[Town]] = {}
    for town in order:
        by_country.setdefault(town.country, []).append(town)
    rng.shuffle(order)
    for town in order:
        others = [country for country in by_country if country != town.country]
        group = [town, *(rng.choice(by_country[name]) for name in rng.sample(others, size - 1))]
        rng.shuffle(group)
        names = [name for one in group for name in (one.name, one.country, one.capital)]
        if share_no_word(names) and len({one.population for one in group}) == size:
            yield group


def share_no_word(names: Iterable[str]) -> bool:
    """Return whether no word stands in two of the names."""
    words = [word for name in names for word in set(name.lower().split())]
    return len(words) == len(set(words))


def passage(group: Iterable[Town], rng: random.Random) -> str:
    """Return a passage with all that is known of each town, one after the other."""
    return " ".join(_told(town, rng) for town in group)


def _told(town: Town, rng: random.Random) -> str:
    return rng.choice(
        (
            f"{town.name}, a city of {town.population:,} inhabitants, lies in {town.country}. The "
            f"capital of that country in {town.continent} is {town.capital}.",
            f"{town.country} is a country in {town.continent} with the capital {town.capital}. Its "
            f"city {town.name} is home to {town.population:,} people.",
            f"In {town.name} live {town.population:,} people. The city is part of {town.country}, "
            f"whose government sits in {town.capital}, the capital, in {town.continent}.",
        )
    )
