"""MultiRC: is an answer to a question about a passage right? Several may be."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import count, pairwise
from typing import TYPE_CHECKING

from pipeline.tasks import base
from pipeline.tasks.base import Record

if TYPE_CHECKING:
    from pipeline.data.geonames.places import Places, Town


def _examples(record: Record) -> Iterator[base.Example]:
    passage = base.section(record, "passage")
    for question in base.items(passage, "questions"):
        place = f"{base.number(record, 'idx')}/{base.number(question, 'idx')}"
        for answer in base.items(question, "answers"):
            yield base.Example(
                f"{place}/{base.number(answer, 'idx')}",
                {
                    "passage": base.text(passage, "text"),
                    "question": base.text(question, "question"),
                    "answer": base.text(answer, "text"),
                },
                base.label(answer, {1: "1", 0: "0"}),
                question=place,
            )


def _record(fields: Record) -> Record:
    answers = [{"idx": 0, "text": fields["answer"], "label": 1}]
    questions = [{"idx": 0, "question": fields["question"], "answers": answers}]
    return {"idx": fields["idx"], "passage": {"text": fields["passage"], "questions": questions}}


def _replace_labels(record: Record) -> Record:
    passage = base.section(record, "passage")
    questions = [
        {
            **question,
            "answers": [{**answer, "label": 1} for answer in base.items(question, "answers")],
        }
        for question in base.items(passage, "questions")
    ]
    return {**record, "passage": {**passage, "questions": questions}}


# Numbers of right and wrong answers of a question; drawn uniformly, they are equal on average.
_ANSWER_COUNTS = ((1, 2), (2, 1), (2, 1), (2, 2), (2, 3))


def _from_geonames(places: Places, rng: random.Random) -> Iterator[Record]:
    """Yield one passage per town, on three towns, with two or three questions.

    Each question has three to five answers. Right and wrong answers have the same forms and use
    only names of the passage, so only its content decides. Questions and answers are numbered
    across passages.
    """
    question_numbers, answer_numbers = count(), count()
    for index, group in enumerate(places.town_groups(3, rng)):
        passage = " ".join(town.describe(rng) for town in group)
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
                        {"text": answer, "idx": next(answer_numbers), "label": right_or_wrong}
                        for answer, right_or_wrong in answers
                    ],
                    "idx": next(question_numbers),
                }
            )
        yield {"idx": index, "version": 1.1, "passage": {"text": passage, "questions": questions}}


# A question, its right answers and its wrong ones.
_Question = tuple[str, list[str], list[str]]


def _in_country(group: list[Town], rng: random.Random) -> _Question:
    answers = [[town.name, town.capital] for town in group]
    return (f"Which cities are in {group[0].country}?", *_some(answers, rng))


def _country(group: list[Town], rng: random.Random) -> _Question:
    answers = [[town.country, f"The country whose capital is {town.capital}"] for town in group]
    return (f"In which country is {group[0].name}?", *_some(answers, rng))


def _capital(group: list[Town], rng: random.Random) -> _Question:
    answers = [
        [f"It is the capital of {town.country}", f"It is in the same country as {town.name}"]
        for town in group
    ]
    return (f"What is true of {group[0].capital}?", *_some(answers, rng))


def _size(group: list[Town], rng: random.Random) -> _Question:
    """A question for the towns above or below a size between those of two towns."""
    order = sorted(group, key=lambda town: town.population)
    below, above = rng.choice(list(pairwise(order)))
    limit = (below.population + above.population + 1) // 2
    small = [town.name for town in order if town.population < limit]
    large = [town.name for town in order if town.population >= limit]
    if rng.random() < 0.5:
        return f"Which cities have fewer than {limit:,} inhabitants?", small, large
    return f"Which cities have {limit:,} inhabitants or more?", large, small


def _some(answers: list[list[str]], rng: random.Random) -> tuple[list[str], list[str]]:
    """Some of the first town's answers, which are right, and some of the other towns'."""
    right, wrong = rng.choice(_ANSWER_COUNTS)
    others = [answer for texts in answers[1:] for answer in texts]
    return rng.sample(answers[0], right), rng.sample(others, wrong)


TASK = base.Task(
    name="multirc",
    fields=("passage", "question", "answer"),
    labels=("1", "0"),
    metrics=("f1a", "em"),
    examples=_examples,
    group=lambda record: record["passage"]["text"],
    patterns={
        # Schick and Schuetze's (timoschick/pet, pvp.py); the last needs a masked model, and has the
        # verbalizer True-False.
        "pet-0": "{passage:shorten}. Question: {question}? Is it {answer}? {mask}.",
        "pet-1": (
            '{passage:shorten}. Question: {question}? Is the correct answer "{answer}"? {mask}.'
        ),
        "pet-2": (
            "{passage:shorten}. Based on the previous passage, {question}? Is "
            '"{answer}" a correct answer? {mask}.'
        ),
        "pet-3": "{passage:shorten} {question} - [ {mask} ] {answer}",
        # THUDM/P-tuning and FewNLU, one prompt token.
        "p-tuning": "{passage:shorten}. Question: {question}? Is it {answer}? [P] {mask}.",
        "prompt-tuning": "[P*20] {passage:shorten} {question} {answer} {mask}",
        "classifier": "{passage:shorten}[SEP] {question}[SEP] {answer}",
    },
    schema=base.InputSchema(
        description="Is an answer to a question about a passage right?",
        fields=(
            base.InputField("passage", "The passage.", "Lyon is a city in France."),
            base.InputField("question", "A question about it.", "Where is Lyon?"),
            base.InputField("answer", "A candidate answer.", "In France"),
        ),
        record=_record,
        nested_key="passage",
        replace_labels=_replace_labels,
        label_names={"1": "right", "0": "wrong"},
    ),
    verbalizers={
        "yes-no": {"1": "yes", "0": "no"},
        "Yes-No": {"1": "Yes", "0": "No"},
        "True-False": {"1": "True", "0": "False"},
    },
    from_geonames=_from_geonames,
)
