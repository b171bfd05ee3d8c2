"""What the tests of made examples look up in the small world, apart from the code under test."""

from dataclasses import dataclass

from pipeline.data.geonames.places import Places


@dataclass(frozen=True)
class Atlas:
    """Name of a city or capital -> country; country -> capital, continent; city -> inhabitants."""

    country: dict[str, str]
    capital: dict[str, str]
    continent: dict[str, str]
    inhabitants: dict[str, int]


def read_atlas(places: Places) -> Atlas:
    # Of the two cities called Paris, the capital is meant: no other name of the world that made
    # examples use is that of two.
    cities = {city.name: city for city in reversed(places.cities)}
    countries = places.countries.values()
    return Atlas(
        country={name: places.countries[city.country].name for name, city in cities.items()}
        | {country.capital: country.name for country in countries},
        capital={country.name: country.capital for country in countries},
        continent={country.name: country.continent for country in countries},
        inhabitants={name: city.population for name, city in cities.items()},
    )
