"""Evaluate one trained prompt: on the facts of a relation, or on the examples of a task."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.data.lama import Fact
from pipeline.errors import DataError
from pipeline.evaluation.controls import majority, majority_share, naive_bayes_share
from pipeline.evaluation.metrics import accuracy, answered, ranks, task_metrics
from pipeline.models.dataset import build_dataset, build_task_dataset
from pipeline.models.language_model import PromptedModel
from pipeline.models.scoring import predict
from pipeline.prompts.store import StoredPrompt
from pipeline.prompts.template import parse_template
from pipeline.tasks import Example, Task, task_template
from pipeline.tasks.lama import FIELDS, fact_values


@dataclass(frozen=True)
class Evaluation:
    """How one prompt did on a relation.

    Attributes:
        test_score: share of test facts answered right: P@1.
        dev_score: the same on dev, as training left it.
        majority: share of the same test facts whose object is the most frequent one of train.
        naive_bayes: what naive Bayes over the subject's words answers right of them.
        asked: number of test facts that were scored.
        left_out: number whose answer is not one token of the model.
        predictions: one record for each scored test fact.
    """

    test_score: float
    dev_score: float
    majority: float
    naive_bayes: float
    asked: int
    left_out: int
    predictions: list[dict[str, Any]]


@dataclass(frozen=True)
class TaskEvaluation:
    """How one prompt, or tuned model, did on a task.

    Attributes:
        metrics: the task's, by name.
        majority: the same for the most frequent label of train.
        asked: number of test examples.
        predictions: one record for each.
    """

    metrics: dict[str, float]
    majority: dict[str, float]
    asked: int
    predictions: list[dict[str, Any]]


def evaluate_relation(
    model: PromptedModel,
    relation: str,
    prompt: StoredPrompt,
    facts: Mapping[str, Sequence[Fact]],
    vocabulary: Sequence[str],
    *,
    max_rows_per_forward: int,
) -> Evaluation:
    """Ask every test fact of a relation, over the allowed vocabulary; train gives the control.

    Raises:
        DataError: no test fact has an object that is one token of the model.
    """
    asked = [(fact_values(fact), fact.obj_label) for fact in facts["test"]]
    questions = build_dataset(
        model,
        parse_template(prompt.template, FIELDS),
        asked,
        vocabulary,
        max_length=prompt.max_length,
    )
    if not questions.rows:
        raise DataError(
            f"{relation}: no test fact has an object that is one token of the model; take another "
            "model or leave it out"
        )
    log_probs = predict(
        model,
        questions.rows,
        prompt.vectors,
        questions.word_ids,
        max_rows_per_forward=max_rows_per_forward,
    )
    best = log_probs.max(dim=1)
    right = ranks(log_probs, questions.targets)
    test = [facts["test"][i] for i in questions.asked]
    train = [(fact.sub_label, fact.obj_label) for fact in facts["train"]]
    return Evaluation(
        test_score=accuracy(log_probs, questions.targets),
        dev_score=prompt.dev_score,
        majority=majority_share([word for _, word in train], [fact.obj_label for fact in test]),
        naive_bayes=naive_bayes_share(train, [(f.sub_label, f.obj_label) for f in test]),
        asked=len(test),
        left_out=len(asked) - len(test),
        predictions=[
            {
                "relation": relation,
                "subject": fact.sub_label,
                "object": fact.obj_label,
                "answer": questions.words[int(best.indices[row])],
                "log_prob": round(float(best.values[row]), 4),
                "rank": int(right[row]),
            }
            for row, fact in enumerate(test)
        ],
    )


def evaluate_task(
    model: PromptedModel,
    task: Task,
    prompt: StoredPrompt,
    examples: Mapping[str, Sequence[Example]],
    *,
    classifier: bool,
    max_rows_per_forward: int,
) -> TaskEvaluation:
    """Ask every test example of a task; the labels of train give the control."""
    test = examples["test"]
    questions = build_task_dataset(
        model,
        task,
        task_template(task, prompt.template, classifier=classifier),
        test,
        verbalizer=prompt.verbalizer,
        max_length=prompt.max_length or model.max_length,
        classifier=classifier,
    )
    log_probs = predict(
        model,
        questions.rows,
        prompt.vectors,
        questions.word_ids,
        max_rows_per_forward=max_rows_per_forward,
    )
    answers = answered(task, log_probs)
    frequent = majority([example.label for example in examples["train"]])
    return TaskEvaluation(
        metrics=task_metrics(task, test, answers),
        majority=task_metrics(task, test, [frequent] * len(test)),
        asked=len(test),
        predictions=[
            {
                "example": example.name,
                "label": example.label,
                "answer": answer,
                "log_prob": round(float(best), 4),
            }
            for example, answer, best in zip(
                test, answers, log_probs.max(dim=1).values, strict=True
            )
        ],
    )
