"""RTE: does the premise entail the hypothesis?"""

from collections.abc import Iterator

from pipeline.tasks.base import Example, Record, Task, label, number, text

_LABELS = ("entailment", "not_entailment")


def _examples(record: Record) -> Iterator[Example]:
    yield Example(
        str(number(record, "idx")),
        {"premise": text(record, "premise"), "hypothesis": text(record, "hypothesis")},
        label(record, {name: name for name in _LABELS}),
    )


RTE = Task(
    name="rte",
    fields=("premise", "hypothesis"),
    labels=_LABELS,
    metrics=("accuracy",),
    examples=_examples,
    group=lambda record: record["premise"],
    patterns={
        # Schick and Schuetze's (timoschick/pet, pvp.py); 0 to 3 need a masked model.
        "pet-0": '"{hypothesis}"? {mask}, "{premise:shorten}"',
        "pet-1": "{hypothesis}? {mask}, {premise:shorten}",
        "pet-2": '"{hypothesis}"? {mask}. "{premise:shorten}"',
        "pet-3": "{hypothesis}? {mask}. {premise:shorten}",
        "pet-4": "{premise:shorten} question: {hypothesis} True or False? answer: {mask}",
        # FewNLU's sixth (THUDM/FewNLU).
        "fewnlu-5": "{premise:shorten} Question: {hypothesis}? Answer: {mask}.",
        # THUDM/P-tuning and FewNLU, one prompt token.
        "p-tuning": "{premise:shorten} Question: {hypothesis}? [P] Answer: {mask}.",
        "prompt-tuning": "[P*20] {premise:shorten} {hypothesis} {mask}",
        "classifier": "{premise:shorten} {hypothesis}",
    },
    verbalizers={
        "yes-no": {"entailment": "yes", "not_entailment": "no"},
        "Yes-No": {"entailment": "Yes", "not_entailment": "No"},
        "true-false": {"entailment": "true", "not_entailment": "false"},
    },
)
