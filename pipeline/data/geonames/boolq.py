"""Made yes-no questions in BoolQ's schema, about a passage on two towns of different countries.

To every question whose answer is yes there is one of the same form whose answer is no, and both use
names of the passage only: what the passage says of which town decides.
"""

import random
from collections.abc import Iterator
from itertools import count
from typing import Any

from pipeline.data.geonames.passages import Town, passage, town_groups
from pipeline.data.geonames.places import Places


def geonames_boolq(places: Places, rng: random.Random) -> Iterator[dict[str, Any]]:
    """Yield two examples a town, one of each label, about the same passage.

    Yields:
        `question` (lower case, without a question mark), `passage`, `idx`, numbered from 0, and
        `label`; the two examples of a passage follow each other.
    """
    numbers = count()
    for group in town_groups(places, 2, rng):
        text = passage(group, rng)
        yes, no = zip(*_questions(*rng.sample(group, 2)), strict=True)
        for question, label in rng.sample([(rng.choice(yes), True), (rng.choice(no), False)], 2):
            yield {
                "question": question.lower(),
                "passage": text,
                "idx": next(numbers),
                "label": label,
            }


def _questions(one: Town, other: Town) -> list[tuple[str, str]]:
    """Return pairs of questions: the answer to the first is yes, to the second no."""
    small, large = (town.name for town in sorted((one, other), key=lambda town: town.population))
    pairs = [
        (f"is {one.name} a city in {one.country}", f"is {one.name} a city in {other.country}"),
        (
            f"is {one.capital} the capital of {one.country}",
            f"is {one.capital} the capital of {other.country}",
        ),
        (
            f"is {one.name} in the same country as {one.capital}",
            f"is {one.name} in the same country as {other.capital}",
        ),
        (
            f"does {large} have more inhabitants than {small}",
            f"does {small} have more inhabitants than {large}",
        ),
        (
            f"does {small} have fewer inhabitants than {large}",
            f"does {large} have fewer inhabitants than {small}",
        ),
    ]
    if one.continent != other.continent:
        pairs.append(
            (f"is {one.capital} in {one.continent}", f"is {one.capital} in {other.continent}")
        )
    return pairs
