"""From data and templates to what the loop trains."""

from collections.abc import Mapping, Sequence

from pipeline.data.lama import Fact
from pipeline.errors import DataError, TemplateError
from pipeline.models.dataset import PromptDataset, build_dataset, build_task_dataset
from pipeline.models.encoding import NO_SLOT, rows_of
from pipeline.models.language_model import PromptedModel
from pipeline.prompts.template import Template
from pipeline.tasks import Example, Task
from pipeline.tasks.lama import fact_values
from pipeline.training.loop import TrainingJob


def lama_problem(
    model: PromptedModel,
    relation: str,
    template: Template,
    facts: Mapping[str, Sequence[Fact]],
    vocabulary: Sequence[str],
) -> TrainingJob:
    """Make the problem of one relation from its train and dev facts.

    Raises:
        DataError: no train or no dev fact has an object that is one token of the model.
        TemplateError: the template does not fit the model.
    """
    questions = {
        split: build_dataset(
            model, template, [(fact_values(f), f.obj_label) for f in facts[split]], vocabulary
        )
        for split in ("train", "dev")
    }
    return _problem(relation, template, questions)


# In training, an answer competes with so many others at most: each is a row of its own.
_MOST_CHOICES = 4


def task_problem(
    model: PromptedModel,
    task: Task,
    template: Template,
    examples: Mapping[str, Sequence[Example]],
    *,
    verbalizer: Mapping[str, str] | None,
    max_length: int,
    classifier: bool,
) -> TrainingJob:
    """Make the problem of one SuperGLUE task from its train and dev examples.

    Args:
        model: who is asked.
        task: of the examples.
        template: as parsed.
        examples: of the splits `train` and `dev`.
        verbalizer: label -> word; None where no words are asked for.
        max_length: most positions of a row.
        classifier: whether the model has one.

    Raises:
        TemplateError: the template or the verbalizer does not fit the model.
    """
    questions = {
        split: build_task_dataset(
            model,
            task,
            template,
            examples[split],
            verbalizer=verbalizer,
            max_length=max_length,
            classifier=classifier,
            most_choices=_MOST_CHOICES if split == "train" else None,
        )
        for split in ("train", "dev")
    }
    return _problem(task.name, template, questions)


def _problem(name: str, template: Template, questions: Mapping[str, PromptDataset]) -> TrainingJob:
    for split, asked in questions.items():
        if not asked.rows:
            raise DataError(
                f"{name}: no {split} example has an answer that is one token of the model; take "
                "another model or leave it out"
            )
    rows = [row for asked in questions["train"].rows for row in rows_of(asked)]
    if template.prompt_tokens and all(max(row.slots) == NO_SLOT for row in rows):
        raise TemplateError(
            f"{name}, template {template.source!r}: all prompt tokens stand behind {{mask}}, where "
            "a causal model never sees them; put one in front, or take a masked model"
        )
    return TrainingJob(name, template.prompt_tokens, questions["train"], questions["dev"])
