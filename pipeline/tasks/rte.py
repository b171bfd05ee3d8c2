"""RTE: does the premise entail the hypothesis?"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import TYPE_CHECKING

from pipeline.tasks import base
from pipeline.tasks.base import Record

if TYPE_CHECKING:
    from pipeline.data.geonames.places import Country, Places, Town

_LABELS = ("entailment", "not_entailment")


def _from_geonames(places: Places, rng: random.Random) -> Iterator[Record]:
    """Yield two examples per town, one of each label, with the same premise; towns are shuffled.

    The premise gives the town's country, the country's continent and its capital. A claim is
    entailed if the premise states it, in one step or two; it is not if it contradicts the premise
    or states what the premise leaves open. False claims use names of the premise as often as other
    names, so that word overlap is not enough to decide.
    """
    countries = [country for country in places.countries.values() if country.capital]
    order = places.towns()
    rng.shuffle(order)
    for index, town in enumerate(order):
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
                "idx": 2 * index + place,
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
    """True and false claims; within each list, all names of the premise are used equally."""
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


TASK = base.Task(
    name="rte",
    fields=base.ENTAILMENT_FIELDS,
    labels=_LABELS,
    metrics=("accuracy",),
    examples=base.entailment_examples(_LABELS),
    group=lambda record: record["premise"],
    patterns={
        **base.ENTAILMENT_PATTERNS,
        "pet-4": "{premise:shorten} question: {hypothesis} True or False? answer: {mask}",
    },
    schema=base.entailment_schema("entailment"),
    verbalizers={
        "yes-no": {"entailment": "yes", "not_entailment": "no"},
        "Yes-No": {"entailment": "Yes", "not_entailment": "No"},
        "true-false": {"entailment": "true", "not_entailment": "false"},
    },
    from_geonames=_from_geonames,
)
