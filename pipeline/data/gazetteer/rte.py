"""Made textual entailment in RTE's schema: a short passage about a city, and a claim.

The passage gives the city's country, the country's continent and its capital. A claim is entailed
where the passage says it, in one step or two; it is not where it contradicts the passage or says
what the passage leaves open. False claims use names of the passage as often as names from
elsewhere, so that the overlap of words alone does not decide.
"""

import random
from collections.abc import Iterator
from typing import Any

from pipeline.data.gazetteer.facts import INHABITANTS
from pipeline.data.gazetteer.places import City, Country, Places, well_known_cities


def gazetteer_rte(places: Places, rng: random.Random) -> Iterator[dict[str, Any]]:
    """Yield two examples a city, one of each label, with the same premise; cities in random order.

    Yields:
        `premise`, `hypothesis`, `label` (`entailment` or `not_entailment`) and `idx`, numbered
        from 0; the two examples of a city follow each other.
    """
    countries = [country for country in places.countries.values() if country.capital]
    cities = [
        city
        for city in well_known_cities(places, INHABITANTS)
        if places.countries[city.country].capital not in ("", city.name)
    ]
    rng.shuffle(cities)
    for number, city in enumerate(cities):
        country = places.countries[city.country]
        others = [other for other in countries if other.continent != country.continent]
        premise = _premise(city, country, rng)
        true, false = _claims(city, country, rng.choice(others))
        pair = [(rng.choice(true), "entailment"), (rng.choice(false), "not_entailment")]
        rng.shuffle(pair)
        for place, (hypothesis, label) in enumerate(pair):
            yield {
                "premise": premise,
                "hypothesis": hypothesis,
                "label": label,
                "idx": 2 * number + place,
            }


def _premise(city: City, country: Country, rng: random.Random) -> str:
    return rng.choice(
        (
            f"{city.name} is a city in {country.name}, a country in {country.continent} whose "
            f"capital is {country.capital}.",
            f"The capital of {country.name} in {country.continent} is {country.capital}. Another "
            f"city of the country is {city.name}.",
            f"{city.name} has {city.population:,} inhabitants. It belongs to {country.name} in "
            f"{country.continent}, which is governed from its capital {country.capital}.",
        )
    )


def _claims(city: City, country: Country, other: Country) -> tuple[list[str], list[str]]:
    """Return true and false claims; in each list, the words of the passage are used alike."""
    true = [
        f"{city.name} is located in {country.name}",
        f"{city.name} is located in {country.continent}",
        f"{country.capital} is the capital of {country.name}",
        f"{country.capital} is located in {country.continent}",
    ]
    false = [
        f"{city.name} is located in {other.name}",
        f"{city.name} is located in {other.continent}",
        f"{city.name} is the capital of {country.name}",
        f"{country.capital} is the capital of {other.name}",
        f"{country.name} is a city in {city.name}",
        f"{city.name} has more inhabitants than {country.capital}",
    ]
    return true, false
