"""QNLI of GLUE: does a sentence answer a question?"""

from pipeline.tasks import base

_LABELS = ("entailment", "not_entailment")
_TEXTS = ("question", "sentence")

TASK = base.Task(
    name="qnli",
    fields=(*_TEXTS, *base.PAIR_FIELDS),
    labels=_LABELS,
    metrics=("accuracy",),
    examples=base.glue_examples(_TEXTS, _LABELS),
    group=lambda record: record["question"],
    patterns=base.glue_patterns(
        ("question", "sentence:shorten"),
        {"lm-bff": "{opening}? {mask}, {continuation:shorten}"},
        question="{question} {sentence:shorten} Question: Is the question answered? "
        "Answer: {mask}.",
    ),
    schema=base.InputSchema(
        description="Does the sentence answer the question?",
        fields=(
            base.InputField("question", "A question.", "Where is Lyon?"),
            base.InputField("sentence", "A sentence.", "Lyon is a city in France."),
        ),
        record=base.labeled("entailment"),
    ),
    verbalizers={"Yes-No": {"entailment": "Yes", "not_entailment": "No"}},
)
