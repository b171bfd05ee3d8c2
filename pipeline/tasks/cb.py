"""CB: does the premise entail the hypothesis, contradict it, or neither?"""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import count
from typing import TYPE_CHECKING

from pipeline.tasks import base
from pipeline.tasks.base import Record

if TYPE_CHECKING:
    from pipeline.data.geonames.places import Places, Town


_LABELS = ("entailment", "contradiction", "neutral")


def _from_geonames(places: Places, rng: random.Random) -> Iterator[Record]:
    """Yield three examples per town, one of each label, with the same premise about three towns.

    The premise gives the countries of the first two towns, the first country's capital, and which
    of the first and the third town is larger. It leaves the third town's country and the second
    town's size open. A hypothesis of each form may be entailed, contradicted or left open.
    """
    numbers = count()
    for first, second, third in places.town_groups(3, rng):
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
    wordings = (
        (
            f"{first.name} is a city in {first.country}, and {first.capital} is the capital.",
            f"{first.capital} is the capital of {first.country}, to which the city of "
            f"{first.name} belongs too.",
        ),
        (
            f"{second.name} is a city in {second.country}.",
            f"The city of {second.name} belongs to {second.country}.",
        ),
        (
            f"{large.name} is larger than {small.name}.",
            f"{small.name} is smaller than {large.name}.",
        ),
    )
    return " ".join(rng.sample([rng.choice(sentences) for sentences in wordings], 3))


def _hypotheses(first: Town, second: Town, third: Town) -> list[dict[str, list[str]]]:
    """Hypotheses of each form: label -> texts."""
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


TASK = base.Task(
    name="cb",
    fields=base.ENTAILMENT_FIELDS,
    labels=_LABELS,
    metrics=("accuracy", "f1"),
    examples=base.entailment_examples(_LABELS),
    group=lambda record: record["premise"],
    patterns={
        **base.ENTAILMENT_PATTERNS,
        "pet-4": (
            "{premise:shorten} question: {hypothesis} true, false or neither? answer: {mask}"
        ),
        # THUDM/P-tuning.
        "p-tuning-released": "{premise:shorten}[SEP] {hypothesis}? [P] answer: {mask}",
        # v2, Table 7: positions and number of the prompt tokens (its row 3 is `p-tuning`).
        "table-7-1": "{premise:shorten} Question: {statement} [P]? Answer: {mask}.",
        "table-7-2": "{premise:shorten} Question [P]: {statement}? Answer: {mask}.",
        "table-7-4": "{premise:shorten} [P] Question: {statement}? Answer: {mask}.",
        "table-7-5": "{premise:shorten} Question: {statement}? Answer: {mask}. [P]",
        "table-7-6": "{premise:shorten} Question: {statement}? [P*2] Answer: {mask}.",
        "table-7-7": "{premise:shorten} Question: {statement}? [P*4] Answer: {mask}.",
        "table-7-8": "{premise:shorten} Question: {statement}? [P*8] Answer: {mask}.",
    },
    schema=base.entailment_schema("neutral"),
    verbalizers={
        "yes-no-maybe": {"entailment": "yes", "contradiction": "no", "neutral": "maybe"},
        "Yes-No-Maybe": {"entailment": "Yes", "contradiction": "No", "neutral": "Maybe"},
        "true-false-neither": {
            "entailment": "true",
            "contradiction": "false",
            "neutral": "neither",
        },
    },
    from_geonames=_from_geonames,
)
