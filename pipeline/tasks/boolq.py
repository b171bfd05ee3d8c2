"""BoolQ: is the answer to a question about a passage yes?"""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import count
from typing import TYPE_CHECKING

from pipeline.tasks import base
from pipeline.tasks.base import Record

if TYPE_CHECKING:
    from pipeline.data.geonames.places import Places, Town


def _examples(record: Record) -> Iterator[base.Example]:
    yield base.Example(
        str(base.number(record, "idx")),
        {"passage": base.text(record, "passage"), "question": base.text(record, "question")},
        base.label(record, base.BOOLEAN),
    )


def _from_geonames(places: Places, rng: random.Random) -> Iterator[Record]:
    """Yield two examples per town, about a passage on it and a town of another country.

    One example has the answer yes, the other no; they follow each other. Each question with the
    answer yes has a counterpart of the same form with the answer no. Both use only names of the
    passage, so only its content decides.
    """
    numbers = count()
    for group in places.town_groups(2, rng):
        passage = " ".join(town.describe(rng) for town in group)
        yes, no = zip(*_questions(*rng.sample(group, 2)), strict=True)
        for question, answer in rng.sample([(rng.choice(yes), True), (rng.choice(no), False)], 2):
            yield {
                "question": question.lower(),
                "passage": passage,
                "idx": next(numbers),
                "label": answer,
            }


def _questions(one: Town, other: Town) -> list[tuple[str, str]]:
    """Pairs of questions: the answer to the first is yes, to the second no."""
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


TASK = base.Task(
    name="boolq",
    fields=("passage", "question"),
    labels=("true", "false"),
    metrics=("accuracy",),
    examples=_examples,
    group=lambda record: record["passage"],
    patterns={
        # Schick and Schuetze's (timoschick/pet, pvp.py); the odd ones have the verbalizer
        # true-false there, the even ones Yes-No. The last two need a masked model.
        "pet-0": "{passage:shorten}. Question: {question}? Answer: {mask}.",
        "pet-2": "{passage:shorten}. Based on the previous passage, {question}? {mask}.",
        "pet-4": "Based on the following passage, {question}? {mask}. {passage:shorten}",
        # THUDM/P-tuning, one prompt token; FewNLU has it after the question.
        "p-tuning": "{passage:shorten}. [P] Question: {question}? Answer: {mask}.",
        "p-tuning-fewnlu": "{passage:shorten}. Question: {question}? [P] Answer: {mask}.",
        "prompt-tuning": "[P*20] {passage:shorten} {question} {mask}",
        "classifier": "{passage:shorten}[SEP] {question}",
    },
    schema=base.InputSchema(
        description="Is the answer to a question about a passage yes?",
        fields=(
            base.InputField("passage", "The passage.", "Oslo is the capital of Norway."),
            base.InputField("question", "A question about it.", "is oslo in norway"),
        ),
        record=base.labeled(True),
    ),
    verbalizers={
        "yes-no": {"true": "yes", "false": "no"},
        "Yes-No": {"true": "Yes", "false": "No"},
        "true-false": {"true": "true", "false": "false"},
    },
    from_geonames=_from_geonames,
)
