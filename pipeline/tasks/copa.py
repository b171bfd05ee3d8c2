"""COPA: which of two sentences is the cause, or the effect, of the premise?"""

from collections.abc import Iterator

from pipeline.errors import DataError
from pipeline.tasks.base import Example, Record, Task, label, number, text

# How a premise is joined to its cause or effect (timoschick/pet, pvp.py).
_JOINERS = {"cause": "because", "effect": "so"}


def _examples(record: Record) -> Iterator[Example]:
    question = text(record, "question")
    if question not in _JOINERS:
        raise DataError(f"question {question!r} is not one of {', '.join(_JOINERS)}")
    choices = tuple(_clause(text(record, key)) for key in ("choice1", "choice2"))
    yield Example(
        str(number(record, "idx")),
        {
            "premise": text(record, "premise").rstrip(" ."),
            "joiner": _JOINERS[question],
            "choice1": choices[0],
            "choice2": choices[1],
        },
        label(record, {0: "0", 1: "1"}),
        choices,
    )


def _clause(sentence: str) -> str:
    """Return a sentence as the second half of another."""
    sentence = sentence.rstrip(" .")
    if not sentence:
        raise DataError("a choice is empty")
    first = sentence.split(maxsplit=1)[0]
    # "I", "I'm" and names in capitals stay as they are.
    stays = first.partition("'")[0] == "I" or (len(first) > 1 and first.isupper())
    return sentence if stays else sentence[:1].lower() + sentence[1:]


TASK = Task(
    name="copa",
    fields=("premise", "joiner", "choice1", "choice2"),
    labels=("0", "1"),
    metrics=("accuracy",),
    examples=_examples,
    group=lambda record: record["premise"],
    patterns={
        # Schick and Schuetze's (timoschick/pet, pvp.py).
        "pet-0": '"{choice1}" or "{choice2}"? {premise} {joiner} {mask}.',
        "pet-1": "{choice1} or {choice2}? {premise} {joiner} {mask}.",
        # THUDM/P-tuning, one prompt token.
        "p-tuning": "{choice1} or {choice2}? {premise} {joiner} [P] {mask}.",
        "plain": "{premise} {joiner} {mask}.",
        "prompt-tuning": "[P*20] {premise} {joiner} {mask}.",
        "classifier": "{premise} {joiner} {mask}.",
    },
)
