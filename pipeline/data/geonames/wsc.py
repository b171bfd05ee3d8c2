"""Made references of a pronoun in WSC's schema: which of two towns does "it" mean?

The reason that a sentence gives for what it says of two towns holds for one of them: the larger or
the smaller, or the one in the named country. Either may stand first, and either may be meant.
"""

import random
from collections.abc import Iterator
from itertools import count
from typing import Any

from pipeline.data.geonames.passages import Town, town_groups
from pipeline.data.geonames.places import Places


def geonames_wsc(places: Places, rng: random.Random) -> Iterator[dict[str, Any]]:
    """Yield two examples a town with a name of one word, one of each label, with the same text.

    Yields:
        `text`, `target` (`span1_text`, a town, and `span2_text`, the pronoun, with the number of
        the word at which each stands), `idx`, numbered from 0, and `label`; the two examples of a
        text follow each other.
    """
    numbers = count()
    for first, second in town_groups(places, 2, rng):
        if not (first.name.isalpha() and second.name.isalpha()):
            continue
        meant = rng.choice((first, second))
        text = _text(first, second, meant, rng)
        words = [word.strip(",.") for word in text.split(" ")]
        for town in rng.sample((first, second), 2):
            yield {
                "text": text,
                "target": {
                    "span2_index": words.index("it"),
                    "span1_index": words.index(town.name),
                    "span1_text": town.name,
                    "span2_text": "it",
                },
                "idx": next(numbers),
                "label": town == meant,
            }


def _text(first: Town, second: Town, meant: Town, rng: random.Random) -> str:
    small, large = sorted((first, second), key=lambda town: town.population)
    comparison = rng.choice(
        ("larger", "more populous") if first == large else ("smaller", "less populous")
    )
    people = "only" if meant == small else "as many as"
    return rng.choice(
        (
            f"{first.name} is {comparison} than {second.name}, because it has {people} "
            f"{meant.population:,} inhabitants.",
            f"{first.name} is not in the same country as {second.name}, because it lies in "
            f"{meant.country}.",
            f"{first.name} is abroad to those who live in {second.name}, because it belongs to "
            f"{meant.country}.",
        )
    )
