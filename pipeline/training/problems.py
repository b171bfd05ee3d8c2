"""From data and templates to what the loop trains."""

from collections.abc import Mapping, Sequence

from pipeline.data.lama import Fact
from pipeline.data.superglue import Record
from pipeline.errors import DataError
from pipeline.models.answers import AnswerModel
from pipeline.models.questions import Questions, build_questions, check_verbalizer
from pipeline.prompts.template import Template
from pipeline.tasks import Task
from pipeline.tasks.lama import fact_values
from pipeline.training.loop import Problem


def lama_problem(
    model: AnswerModel,
    relation: str,
    template: Template,
    facts: Mapping[str, Sequence[Fact]],
    vocabulary: Sequence[str],
) -> Problem:
    """Make the problem of one relation from its train and dev facts.

    Raises:
        DataError: no train or no dev fact has an object that is one token of the model.
        TemplateError: the template does not fit the model.
    """
    questions = {
        split: build_questions(
            model, template, [(fact_values(f), f.obj_label) for f in facts[split]], vocabulary
        )
        for split in ("train", "dev")
    }
    return _problem(relation, template, questions)


def task_problem(
    model: AnswerModel,
    task: Task,
    template: Template,
    examples: Mapping[str, Sequence[Record]],
    *,
    verbalizer: Mapping[str, str],
    max_length: int,
) -> Problem:
    """Make the problem of one SuperGLUE task from its train and dev examples.

    Raises:
        TemplateError: the template or the verbalizer does not fit the model.
    """
    check_verbalizer(model.codec, template, verbalizer)
    questions = {
        split: build_questions(
            model,
            template,
            [(example, verbalizer[example["label"]]) for example in examples[split]],
            [verbalizer[label] for label in task.labels],
            max_length=max_length,
        )
        for split in ("train", "dev")
    }
    return _problem(task.name, template, questions)


def _problem(name: str, template: Template, questions: Mapping[str, Questions]) -> Problem:
    for split, asked in questions.items():
        if not asked.rows:
            raise DataError(
                f"{name}: no {split} example has an answer that is one token of the model; take "
                "another model or leave it out"
            )
    return Problem(name, template.prompt_tokens, questions["train"], questions["dev"])
