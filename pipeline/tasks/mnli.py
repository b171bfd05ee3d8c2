"""MNLI of GLUE: does the premise entail or contradict the hypothesis?"""

from pipeline.tasks import base

_LABELS = ("contradiction", "entailment", "neutral")
_TEXTS = ("premise", "hypothesis")

TASK = base.Task(
    name="mnli",
    fields=(*_TEXTS, *base.PAIR_FIELDS),
    labels=_LABELS,
    metrics=("accuracy",),
    examples=base.glue_examples(_TEXTS, _LABELS),
    group=lambda record: record["premise"],
    patterns=base.glue_patterns(
        ("premise:shorten", "hypothesis"),
        {
            "lm-bff": "{opening:shorten}? {mask}, {continuation}",
            **base.automatic(
                {
                    13: "{opening:shorten}. {mask} that's because {continuation}",
                    21: "{opening:shorten}. {mask}, because {continuation}",
                    42: "{opening:shorten}. {mask}, you are right, {continuation}",
                    87: "{opening:shorten}. {mask}, in the end, {continuation}",
                    100: "{opening:shorten}. {mask}, it's true, {continuation}",
                }
            ),
        },
        question='{premise:shorten} Question: "{hypothesis}" Does it follow? Answer: {mask}.',
    ),
    schema=base.entailment_schema("entailment"),
    verbalizers={"No-Yes-Maybe": {"contradiction": "No", "entailment": "Yes", "neutral": "Maybe"}},
)
