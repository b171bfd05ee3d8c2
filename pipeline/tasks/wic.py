"""WiC: has a word the same meaning in two sentences?"""

from collections.abc import Iterator

from pipeline.errors import DataError
from pipeline.tasks.base import BOOLEAN, Example, Record, Task, label, number, text


def _examples(record: Record) -> Iterator[Example]:
    for which in ("1", "2"):
        _check_span(record, which)
    yield Example(
        str(number(record, "idx")),
        {key: text(record, key) for key in ("word", "sentence1", "sentence2")},
        label(record, BOOLEAN),
    )


def _check_span(record: Record, which: str) -> None:
    """Check that the word's place lies within its sentence."""
    start, end = number(record, f"start{which}"), number(record, f"end{which}")
    length = len(text(record, f"sentence{which}"))
    if not 0 <= start < end <= length:
        raise DataError(
            f"start{which} and end{which} are {start} and {end}, outside sentence{which} of "
            f"{length} characters"
        )


TASK = Task(
    name="wic",
    fields=("word", "sentence1", "sentence2"),
    labels=("true", "false"),
    metrics=("accuracy",),
    examples=_examples,
    group=lambda record: record["idx"],
    patterns={
        # Schick and Schuetze's (timoschick/pet, pvp.py); the last needs a masked model, and has
        # the verbalizer b-2.
        "pet-0": '"{sentence1}" / "{sentence2}" Similar sense of "{word}"? {mask}.',
        "pet-1": (
            "{sentence1} {sentence2} Does {word} have the same meaning in both sentences? {mask}"
        ),
        "pet-2": '{word}. Sense (1) (a) "{sentence1}" ({mask}) "{sentence2}"',
        # THUDM/P-tuning; FewNLU has its token within pet-2.
        "p-tuning": "{sentence1} {sentence2} [P] *{word}*? {mask}",
        "p-tuning-fewnlu": '{word}. Sense (1) (a) "{sentence1}" ({mask} [P]) "{sentence2}"',
        "prompt-tuning": "[P*20] {word} {sentence1} {sentence2} {mask}",
        "classifier": "{word} {sentence1} {sentence2}",
    },
    verbalizers={
        "yes-no": {"true": "yes", "false": "no"},
        "Yes-No": {"true": "Yes", "false": "No"},
        "b-2": {"true": "b", "false": "2"},
    },
)
