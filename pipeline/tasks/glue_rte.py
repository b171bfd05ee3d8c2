"""RTE in the files of GLUE: the examples of SuperGLUE's `rte`, in another order."""

from pipeline.tasks import base

_LABELS = ("entailment", "not_entailment")
_TEXTS = ("sentence1", "sentence2")

TASK = base.Task(
    name="glue_rte",
    fields=(*_TEXTS, *base.PAIR_FIELDS),
    labels=_LABELS,
    metrics=("accuracy",),
    examples=base.glue_examples(_TEXTS, _LABELS),
    group=lambda record: record["sentence1"],
    patterns=base.glue_patterns(
        ("sentence1:shorten", "sentence2"),
        {"lm-bff": "{opening:shorten}? {mask}, {continuation}"},
        question='{sentence1:shorten} Question: "{sentence2}" Does it follow? Answer: {mask}.',
    ),
    schema=base.InputSchema(
        description="Does the first sentence entail the second?",
        fields=(
            base.InputField("sentence1", "The premise.", "Lyon is a city in France."),
            base.InputField("sentence2", "A claim that may follow.", "Lyon is in Europe."),
        ),
        record=base.labeled("entailment"),
    ),
    verbalizers={"Yes-No": {"entailment": "Yes", "not_entailment": "No"}},
)
