"""BoolQ: is the answer to a question about a passage yes?"""

from collections.abc import Iterator

from pipeline.tasks.base import BOOLEAN, Example, Record, Task, label, number, text


def _examples(record: Record) -> Iterator[Example]:
    yield Example(
        str(number(record, "idx")),
        {"passage": text(record, "passage"), "question": text(record, "question")},
        label(record, BOOLEAN),
    )


TASK = Task(
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
        # THUDM/P-tuning, one prompt token; FewNLU has it behind the question.
        "p-tuning": "{passage:shorten}. [P] Question: {question}? Answer: {mask}.",
        "p-tuning-fewnlu": "{passage:shorten}. Question: {question}? [P] Answer: {mask}.",
        "prompt-tuning": "[P*20] {passage:shorten} {question} {mask}",
        "classifier": "{passage:shorten} {question}",
    },
    verbalizers={
        "yes-no": {"true": "yes", "false": "no"},
        "Yes-No": {"true": "Yes", "false": "No"},
        "true-false": {"true": "true", "false": "false"},
    },
)
