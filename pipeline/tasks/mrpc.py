"""MRPC of GLUE: do two sentences mean the same?"""

from pipeline.tasks import base

_LABELS = ("0", "1")
_TEXTS = ("sentence1", "sentence2")

TASK = base.Task(
    name="mrpc",
    fields=(*_TEXTS, *base.PAIR_FIELDS),
    labels=_LABELS,
    metrics=("f1_positive",),
    examples=base.glue_examples(_TEXTS, _LABELS),
    group=lambda record: record["sentence1"],
    patterns=base.glue_patterns(
        ("sentence1:shorten", "sentence2"),
        {
            "lm-bff": "{sentence1:shorten} {mask}, {continuation}",
            **base.automatic(
                {
                    13: "{opening:shorten}. {mask}. At the same time {continuation}",
                    21: "{opening:shorten}. {mask}. Yes, {continuation}",
                    42: "{opening:shorten}. {mask}! {continuation}",
                    87: "{opening:shorten}. {mask}. 2: {continuation}",
                    100: "{opening:shorten}. {mask}. However, {continuation}",
                }
            ),
        },
        question="{sentence1:shorten} {sentence2} Question: Do both sentences mean the same? "
        "Answer: {mask}.",
    ),
    schema=base.InputSchema(
        description="Do the sentences mean the same?",
        fields=(
            base.InputField("sentence1", "A sentence.", "The company sold its shops."),
            base.InputField("sentence2", "Another.", "The shops were sold by the company."),
        ),
        record=base.labeled("0"),
        label_names={"0": "different", "1": "the same"},
    ),
    verbalizers={"No-Yes": {"0": "No", "1": "Yes"}},
    positive="1",
)
