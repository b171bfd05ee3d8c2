"""Made questions with several answers in MultiRC's schema, about a passage on three towns.

Right and wrong answers are of the same forms and use names of the passage only: what the passage
says of which town decides.
"""

import random
from collections.abc import Iterator
from itertools import count, pairwise
from typing import Any

from pipeline.data.geonames.passages import Town, passage, town_groups
from pipeline.data.geonames.places import Places

# Right and wrong answers of a question; drawn alike, they make as many right as wrong ones.
_SHAPES = ((1, 2), (2, 1), (2, 1), (2, 2), (2, 3))


def geonames_multirc(places: Places, rng: random.Random) -> Iterator[dict[str, Any]]:
    """Yield one passage a town, with two or three questions of three to five answers each.

    Yields:
        `idx`, numbered from 0, `version` and `passage` with its `text` and `questions`. The numbers
        of questions and of answers run on over the passages.
    """
    question_numbers, answer_numbers = count(), count()
    for number, group in enumerate(town_groups(places, 3, rng)):
        text = passage(group, rng)
        forms = rng.sample((_in_country, _country, _capital, _size), rng.choice((2, 3)))
        questions = []
        for form in forms:
            question, right, wrong = form(rng.sample(group, len(group)), rng)
            answers = [(answer, 1) for answer in right] + [(answer, 0) for answer in wrong]
            rng.shuffle(answers)
            questions.append(
                {
                    "question": question,
                    "answers": [
                        {"text": answer, "idx": next(answer_numbers), "label": label}
                        for answer, label in answers
                    ],
                    "idx": next(question_numbers),
                }
            )
        yield {"idx": number, "version": 1.1, "passage": {"text": text, "questions": questions}}


# A question, its right answers and its wrong ones.
_Asked = tuple[str, list[str], list[str]]


def _in_country(group: list[Town], rng: random.Random) -> _Asked:
    answers = [[town.name, town.capital] for town in group]
    return (f"Which cities are in {group[0].country}?", *_some(answers, rng))


def _country(group: list[Town], rng: random.Random) -> _Asked:
    answers = [[town.country, f"The country whose capital is {town.capital}"] for town in group]
    return (f"In which country is {group[0].name}?", *_some(answers, rng))


def _capital(group: list[Town], rng: random.Random) -> _Asked:
    answers = [
        [f"It is the capital of {town.country}", f"It is in the same country as {town.name}"]
        for town in group
    ]
    return (f"What is true of {group[0].capital}?", *_some(answers, rng))


def _size(group: list[Town], rng: random.Random) -> _Asked:
    """Ask for the towns on one side of a number between the sizes of two of them."""
    order = sorted(group, key=lambda town: town.population)
    below, above = rng.choice(list(pairwise(order)))
    limit = (below.population + above.population + 1) // 2
    small = [town.name for town in order if town.population < limit]
    large = [town.name for town in order if town.population >= limit]
    if rng.random() < 0.5:
        return f"Which cities have fewer than {limit:,} inhabitants?", small, large
    return f"Which cities have {limit:,} inhabitants or more?", large, small


def _some(answers: list[list[str]], rng: random.Random) -> tuple[list[str], list[str]]:
    """Return some of the first town's answers, which are right, and some of the others'."""
    right, wrong = rng.choice(_SHAPES)
    others = [answer for own in answers[1:] for answer in own]
    return rng.sample(answers[0], right), rng.sample(others, wrong)
