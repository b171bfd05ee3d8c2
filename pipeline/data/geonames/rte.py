"""Made textual entailment in RTE's schema: a short passage about a city, and a claim.

The passage gives the city's country, the country's continent and its capital. A claim is entailed
where the passage says it, in one step or two; it is not where it contradicts the passage or says
what the passage leaves open. False claims use names of the passage as often as names from
elsewhere, so that the overlap of words alone does not decide.
"""

import random
from collections.abc import Iterator
from typing import Any

from pipeline.data.geonames.passages import Town, towns
from pipeline.data.geonames.places import Country, Places


def geonames_rte(places: Places, rng: random.Random) -> Iterator[dict[str, Any]]:
    """Yield two examples a city, one of each label, with the same premise; cities in random order.

    Yields:
        `premise`, `hypothesis`, `label` (`entailment` or `not_entailment`) and `idx`, numbered
        from 0; the two examples of a city follow each other.
    """
    countries = [country for country in places.countries.values() if country.capital]
    order = towns(places)
    rng.shuffle(order)
    for number, town in enumerate(order):
        others = [other for other in countries if other.continent != town.continent]
        premise = _premise(town, rng)
        true, false = _claims(town, rng.choice(others))
        pair = [(rng.choice(true), "entailment"), (rng.choice(false), "not_entailment")]
        rng.shuffle(pair)
        for place, (hypothesis, label) in enumerate(pair):
            yield {
                "premise": premise,
                "hypothesis": hypothesis,
                "label": label,
                "idx": 2 * number + place,
            }


def _premise(town: Town, rng: random.Random) -> str:
    return rng.choice(
        (
            f"{town.name} is a city in {town.country}, a country in {town.continent} whose "
            f"capital is {town.capital}.",
            f"The capital of {town.country} in {town.continent} is {town.capital}. Another "
            f"city of the country is {town.name}.",
            f"{town.name} has {town.population:,} inhabitants. It belongs to {town.country} in "
            f"{town.continent}, which is governed from its capital {town.capital}.",
        )
    )


def _claims(town: Town, other: Country) -> tuple[list[str], list[str]]:
    """Return true and false claims; in each list, the words of the passage are used alike."""
    true = [
        f"{town.name} is located in {town.country}",
        f"{town.name} is located in {town.continent}",
        f"{town.capital} is the capital of {town.country}",
        f"{town.capital} is located in {town.continent}",
    ]
    false = [
        f"{town.name} is located in {other.name}",
        f"{town.name} is located in {other.continent}",
        f"{town.name} is the capital of {town.country}",
        f"{town.capital} is the capital of {other.name}",
        f"{town.country} is a city in {town.name}",
        f"{town.name} has more inhabitants than {town.capital}",
    ]
    return true, false
