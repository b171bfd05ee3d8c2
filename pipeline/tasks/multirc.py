"""MultiRC: is an answer to a question about a passage right? Several may be."""

from collections.abc import Iterator

from pipeline.tasks.base import Example, Record, Task, items, label, number, section, text


def _examples(record: Record) -> Iterator[Example]:
    passage = section(record, "passage")
    for question in items(passage, "questions"):
        place = f"{number(record, 'idx')}/{number(question, 'idx')}"
        for answer in items(question, "answers"):
            yield Example(
                f"{place}/{number(answer, 'idx')}",
                {
                    "passage": text(passage, "text"),
                    "question": text(question, "question"),
                    "answer": text(answer, "text"),
                },
                label(answer, {1: "1", 0: "0"}),
                question=place,
            )


TASK = Task(
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
        "classifier": "{passage:shorten} {question} {answer}",
    },
    verbalizers={
        "yes-no": {"1": "yes", "0": "no"},
        "Yes-No": {"1": "Yes", "0": "No"},
        "True-False": {"1": "True", "0": "False"},
    },
)
