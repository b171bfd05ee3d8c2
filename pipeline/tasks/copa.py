"""COPA: which of two sentences is the cause, or the effect, of the premise?"""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import count
from typing import TYPE_CHECKING

from pipeline.errors import DataError
from pipeline.tasks import base
from pipeline.tasks.base import Record

if TYPE_CHECKING:
    from pipeline.data.geonames.places import Places


# How a premise is joined to its cause or effect; PET and FewNLU have a comma before "so"
# (timoschick/pet, pvp.py), THUDM/P-tuning has none.
_JOINERS = {"cause": "because", "effect": "so"}
_CLAUSES = {"cause": "{} because", "effect": "{}, so"}


def _examples(record: Record) -> Iterator[base.Example]:
    question = base.text(record, "question")
    if question not in _JOINERS:
        raise DataError(f"question {question!r} is not one of {', '.join(_JOINERS)}")
    choices = tuple(_clause(base.text(record, key)) for key in ("choice1", "choice2"))
    premise = base.text(record, "premise").rstrip(" .")
    yield base.Example(
        str(base.number(record, "idx")),
        {
            "premise": premise,
            "clause": _CLAUSES[question].format(premise),
            "joiner": _JOINERS[question],
            "choice1": choices[0],
            "choice2": choices[1],
        },
        base.label(record, {0: "0", 1: "1"}),
        choices,
    )


def _clause(sentence: str) -> str:
    """The sentence as the second half of another."""
    sentence = sentence.rstrip(" .")
    if not sentence:
        raise DataError("a choice is empty")
    first = sentence.split(maxsplit=1)[0]
    # "I", "I'm" and names in capitals stay as they are.
    stays = first.partition("'")[0] == "I" or (len(first) > 1 and first.isupper())
    return sentence if stays else sentence[:1].lower() + sentence[1:]


_PEOPLE = ("doctor", "engineer", "nurse", "painter", "singer", "student", "teacher", "traveller")

# The cause, which names a town, and the effect, which names its country.
_STORIES = (
    ("flew to", "landed in"),
    ("took a train to", "got off in"),
    ("moved to", "became a resident of"),
    ("found work in", "applied for a visa for"),
    ("was invited to", "bought a map of"),
    ("bought a house in", "paid taxes in"),
)


def _from_geonames(places: Places, rng: random.Random) -> Iterator[Record]:
    """Yield two examples per town, one of each label: a journey, and the country it leads to.

    The sentences share no name, so a model must know in which country the town is. Each of the two
    towns is the right answer once, with the same choices, so that no choice is right more often.
    """
    numbers = count()
    for group in places.town_groups(2, rng):
        for right in rng.sample((0, 1), 2):
            cause, effect = rng.choice(_STORIES)
            causes = [f"{cause} {town.name}." for town in group]
            effects = [f"{effect} {town.country}." for town in group]
            question = rng.choice(("cause", "effect"))
            premises, choices = (effects, causes) if question == "cause" else (causes, effects)
            pronoun = rng.choice(("He", "She"))
            yield {
                "premise": f"The {rng.choice(_PEOPLE)} {premises[right]}",
                "choice1": f"{pronoun} {choices[0]}",
                "choice2": f"{pronoun} {choices[1]}",
                "question": question,
                "label": right,
                "idx": next(numbers),
            }


TASK = base.Task(
    name="copa",
    fields=("premise", "clause", "joiner", "choice1", "choice2"),
    labels=("0", "1"),
    metrics=("accuracy",),
    examples=_examples,
    group=lambda record: record["premise"],
    patterns={
        # Schick and Schuetze's (timoschick/pet, pvp.py).
        "pet-0": '"{choice1}" or "{choice2}"? {clause} {mask}.',
        "pet-1": "{choice1} or {choice2}? {clause} {mask}.",
        # One prompt token: THUDM/P-tuning, and FewNLU.
        "p-tuning": "{choice1} or {choice2}? {premise} {joiner} [P] {mask}.",
        "p-tuning-fewnlu": '"{choice1}" or "{choice2}"? {clause} [P] {mask}.',
        "plain": "{premise} {joiner} {mask}.",
        "prompt-tuning": "[P*20] {premise} {joiner} {mask}.",
        "classifier": "{premise} {joiner} {mask}.",
    },
    schema=base.InputSchema(
        description="Which of two sentences is the cause, or the effect, of the premise?",
        fields=(
            base.InputField("premise", "What happened.", "The lamp went out."),
            base.InputField("choice1", "The first sentence.", "It was dark."),
            base.InputField("choice2", "The second sentence.", "It was warm."),
            base.InputField(
                "question", "Which one to choose: the `cause` or the `effect`.", "effect"
            ),
        ),
        record=base.labeled(0),
        label_names={"0": "choice1", "1": "choice2"},
    ),
    from_geonames=_from_geonames,
)
