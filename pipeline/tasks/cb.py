"""CB: does the premise entail the hypothesis, contradict it, or neither?"""

from pipeline.tasks.base import Task
from pipeline.tasks.entailment import FIELDS, PATTERNS, entailment_examples

_LABELS = ("entailment", "contradiction", "neutral")

TASK = Task(
    name="cb",
    fields=FIELDS,
    labels=_LABELS,
    metrics=("accuracy", "f1"),
    examples=entailment_examples(_LABELS),
    group=lambda record: record["premise"],
    patterns={
        **PATTERNS,
        "pet-4": (
            "{premise:shorten} question: {hypothesis} true, false or neither? answer: {mask}"
        ),
        # v2, Table 7: where the prompt tokens stand, and how many (its row 3 is `p-tuning`).
        "table-7-1": "{premise:shorten} Question: {statement} [P]? Answer: {mask}.",
        "table-7-2": "{premise:shorten} Question [P]: {statement}? Answer: {mask}.",
        "table-7-4": "{premise:shorten} [P] Question: {statement}? Answer: {mask}.",
        "table-7-5": "{premise:shorten} Question: {statement}? Answer: {mask}. [P]",
        "table-7-6": "{premise:shorten} Question: {statement}? [P*2] Answer: {mask}.",
        "table-7-7": "{premise:shorten} Question: {statement}? [P*4] Answer: {mask}.",
        "table-7-8": "{premise:shorten} Question: {statement}? [P*8] Answer: {mask}.",
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
