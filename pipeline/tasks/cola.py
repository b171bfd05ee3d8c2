"""CoLA of GLUE: is a sentence grammatical?"""

from pipeline.tasks import base

_LABELS = ("0", "1")

TASK = base.Task(
    name="cola",
    fields=("sentence",),
    labels=_LABELS,
    metrics=("matthews",),
    examples=base.glue_examples(["sentence"], _LABELS),
    group=lambda record: record["sentence"],
    patterns=base.glue_patterns(
        ["sentence:shorten"], {"lm-bff": "{sentence:shorten} This is {mask}."}
    ),
    schema=base.InputSchema(
        description="Is the sentence grammatical?",
        fields=(base.InputField("sentence", "A sentence.", "They drank the pub dry."),),
        record=base.labeled("0"),
        label_names={"0": "unacceptable", "1": "acceptable"},
    ),
    verbalizers={"incorrect-correct": {"0": "incorrect", "1": "correct"}},
)
