"""RTE: does the premise entail the hypothesis?"""

from pipeline.tasks.base import Task
from pipeline.tasks.entailment import FIELDS, PATTERNS, entailment_examples

_LABELS = ("entailment", "not_entailment")

TASK = Task(
    name="rte",
    fields=FIELDS,
    labels=_LABELS,
    metrics=("accuracy",),
    examples=entailment_examples(_LABELS),
    group=lambda record: record["premise"],
    patterns={
        **PATTERNS,
        "pet-4": "{premise:shorten} question: {hypothesis} True or False? answer: {mask}",
    },
    verbalizers={
        "yes-no": {"entailment": "yes", "not_entailment": "no"},
        "Yes-No": {"entailment": "Yes", "not_entailment": "No"},
        "true-false": {"entailment": "true", "not_entailment": "false"},
    },
)
