"""SST-2 of GLUE: is a sentence of a film review positive?"""

from pipeline.tasks import base

_LABELS = ("0", "1")

TASK = base.Task(
    name="sst2",
    fields=("sentence",),
    labels=_LABELS,
    metrics=("accuracy",),
    examples=base.glue_examples(["sentence"], _LABELS),
    group=lambda record: record["sentence"],
    patterns=base.glue_patterns(
        ["sentence:shorten"],
        {
            "lm-bff": "{sentence:shorten} It was {mask}.",
            **base.automatic(
                {
                    13: "{sentence:shorten} And that is {mask}.",
                    21: "{sentence:shorten} A {mask} film.",
                    42: "{sentence:shorten} A {mask} one.",
                    87: "{sentence:shorten} This is {mask}.",
                    100: "{sentence:shorten} It's {mask}.",
                }
            ),
        },
    ),
    schema=base.InputSchema(
        description="Is the sentence positive?",
        fields=(base.InputField("sentence", "A sentence.", "A charming and moving film."),),
        record=base.labeled("0"),
        label_names={"0": "negative", "1": "positive"},
    ),
    verbalizers={"terrible-great": {"0": "terrible", "1": "great"}},
)
