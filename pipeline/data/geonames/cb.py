"""Made entailment, contradiction and neither in CB's schema: a few sentences on three towns.

The premise gives the countries of two towns, one country's capital, and which of the first and the
third town is larger. The third's country and the second's size are left open. A hypothesis of each
form may be entailed, contradicted or left open.
"""

import random
from collections.abc import Iterator
from itertools import count
from typing import Any

from pipeline.data.geonames.passages import Town, town_groups
from pipeline.data.geonames.places import Places


def geonames_cb(places: Places, rng: random.Random) -> Iterator[dict[str, Any]]:
    """Yield three examples a town, one of each label, with the same premise.

    Yields:
        `premise`, `hypothesis`, `label` (`entailment`, `contradiction` or `neutral`) and `idx`,
        numbered from 0; the three examples of a premise follow each other.
    """
    numbers = count()
    for first, second, third in town_groups(places, 3, rng):
        premise = _premise(first, second, third, rng)
        forms = _hypotheses(first, second, third)
        for label in rng.sample(("entailment", "contradiction", "neutral"), 3):
            yield {
                "premise": premise,
                "hypothesis": rng.choice(rng.choice(forms)[label]),
                "label": label,
                "idx": next(numbers),
            }


def _premise(first: Town, second: Town, third: Town, rng: random.Random) -> str:
    small, large = sorted((first, third), key=lambda town: town.population)
    sentences = [
        rng.choice(
            (
                f"{first.name} is a city in {first.country}, and {first.capital} is the capital.",
                f"{first.capital} is the capital of {first.country}, to which the city of "
                f"{first.name} belongs too.",
            )
        ),
        rng.choice(
            (
                f"{second.name} is a city in {second.country}.",
                f"The city of {second.name} belongs to {second.country}.",
            )
        ),
        rng.choice(
            (
                f"{large.name} is larger than {small.name}.",
                f"{small.name} is smaller than {large.name}.",
            )
        ),
    ]
    return " ".join(rng.sample(sentences, 3))


def _hypotheses(first: Town, second: Town, third: Town) -> list[dict[str, list[str]]]:
    """Return hypotheses of each form, by label."""
    small, large = sorted((first, third), key=lambda town: town.population)
    return [
        {
            "entailment": [
                _located(first.name, first.country),
                _located(first.capital, first.country),
                _located(second.name, second.country),
            ],
            "contradiction": [
                _located(first.name, third.country),
                _located(first.capital, second.country),
                _located(second.name, first.country),
            ],
            "neutral": [_located(third.name, town.country) for town in (first, second, third)],
        },
        {
            "entailment": [_together(first.name, first.capital)],
            "contradiction": [_together(second.name, first.capital)],
            "neutral": [_together(third.name, first.capital)],
        },
        {
            "entailment": [_larger(large, small)],
            "contradiction": [_larger(small, large)],
            "neutral": [
                claim
                for town in (first, third)
                for claim in (_larger(second, town), _larger(town, second))
            ],
        },
    ]


def _located(name: str, country: str) -> str:
    return f"{name} is located in {country}"


def _together(name: str, other: str) -> str:
    return f"{name} and {other} are in the same country"


def _larger(town: Town, other: Town) -> str:
    return f"{town.name} has more inhabitants than {other.name}"
