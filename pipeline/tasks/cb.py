"""CB: does the premise entail the hypothesis, contradict it, or neither?"""

from collections.abc import Iterator

from pipeline.tasks.base import Example, Record, Task, label, number, text

_LABELS = ("entailment", "contradiction", "neutral")


def _examples(record: Record) -> Iterator[Example]:
    yield Example(
        str(number(record, "idx")),
        {"premise": text(record, "premise"), "hypothesis": text(record, "hypothesis")},
        label(record, {name: name for name in _LABELS}),
    )


CB = Task(
    name="cb",
    fields=("premise", "hypothesis"),
    labels=_LABELS,
    metrics=("accuracy", "f1"),
    examples=_examples,
    group=lambda record: record["premise"],
    patterns={
        # Schick and Schuetze's (timoschick/pet, pvp.py); 0 to 3 need a masked model.
        "pet-0": '"{hypothesis}"? {mask}, "{premise:shorten}"',
        "pet-1": "{hypothesis}? {mask}, {premise:shorten}",
        "pet-2": '"{hypothesis}"? {mask}. "{premise:shorten}"',
        "pet-3": "{hypothesis}? {mask}. {premise:shorten}",
        "pet-4": (
            "{premise:shorten} question: {hypothesis} true, false or neither? answer: {mask}"
        ),
        # FewNLU's sixth (THUDM/FewNLU).
        "fewnlu-5": "{premise:shorten} Question: {hypothesis}? Answer: {mask}.",
        # FewNLU, one prompt token.
        "p-tuning": "{premise:shorten} Question: {hypothesis}? [P] Answer: {mask}.",
        # v2, Table 7: where the prompt tokens stand, and how many (its row 3 is `p-tuning`).
        "table-7-1": "{premise:shorten} Question: {hypothesis} [P]? Answer: {mask}.",
        "table-7-2": "{premise:shorten} Question [P]: {hypothesis}? Answer: {mask}.",
        "table-7-4": "{premise:shorten} [P] Question: {hypothesis}? Answer: {mask}.",
        "table-7-5": "{premise:shorten} Question: {hypothesis}? Answer: {mask}. [P]",
        "table-7-6": "{premise:shorten} Question: {hypothesis}? [P*2] Answer: {mask}.",
        "table-7-7": "{premise:shorten} Question: {hypothesis}? [P*4] Answer: {mask}.",
        "table-7-8": "{premise:shorten} Question: {hypothesis}? [P*8] Answer: {mask}.",
        "prompt-tuning": "[P*20] {premise:shorten} {hypothesis} {mask}",
        "classifier": "{premise:shorten} {hypothesis}",
    },
    verbalizers={
        "yes-no-maybe": {"entailment": "yes", "contradiction": "no", "neutral": "maybe"},
        "Yes-No-Maybe": {"entailment": "Yes", "contradiction": "No", "neutral": "Maybe"},
        "true-false-neither": {
            "entailment": "true",
            "contradiction": "false",
            "neutral": "neither",
        },
    },
)
