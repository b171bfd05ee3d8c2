"""Made causes and effects in COPA's schema: a journey to a town, and the country it leads to.

The sentences share no name; one must know in which country the town is. Of two towns, each one's
journey is told once, with the same choices, so that no choice is right more often.
"""

import random
from collections.abc import Iterator
from itertools import count
from typing import Any

from pipeline.data.geonames.passages import town_groups
from pipeline.data.geonames.places import Places

_PEOPLE = ("doctor", "engineer", "nurse", "painter", "singer", "student", "teacher", "traveller")

# What is done with the town (the cause), and what comes of it with the country (the effect).
_STORIES = (
    ("flew to", "landed in"),
    ("took a train to", "got off in"),
    ("moved to", "became a resident of"),
    ("found work in", "applied for a visa for"),
    ("was invited to", "bought a map of"),
    ("bought a house in", "paid taxes in"),
)


def geonames_copa(places: Places, rng: random.Random) -> Iterator[dict[str, Any]]:
    """Yield two examples a town, one of each label.

    Yields:
        `premise`, `choice1`, `choice2`, `question` (`cause` or `effect`), `label` and `idx`,
        numbered from 0.
    """
    numbers = count()
    for group in town_groups(places, 2, rng):
        for label in rng.sample((0, 1), 2):
            cause, effect = rng.choice(_STORIES)
            causes = [f"{cause} {town.name}." for town in group]
            effects = [f"{effect} {town.country}." for town in group]
            question = rng.choice(("cause", "effect"))
            told, asked = (effects, causes) if question == "cause" else (causes, effects)
            pronoun = rng.choice(("He", "She"))
            yield {
                "premise": f"The {rng.choice(_PEOPLE)} {told[label]}",
                "choice1": f"{pronoun} {asked[0]}",
                "choice2": f"{pronoun} {asked[1]}",
                "question": question,
                "label": label,
                "idx": next(numbers),
            }
