"""Evaluate one trained prompt: on the facts of a relation, or on the examples of a task."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pipeline.data.lama import Fact
from pipeline.data.superglue import Record
from pipeline.errors import DataError
from pipeline.evaluation.controls import majority_share, naive_bayes_share
from pipeline.evaluation.metrics import accuracy, ranks
from pipeline.models.answers import AnswerModel
from pipeline.models.predict import predict
from pipeline.models.questions import build_questions
from pipeline.prompts.store import StoredPrompt
from pipeline.prompts.template import parse_template
from pipeline.tasks import Task
from pipeline.tasks.lama import FIELDS, fact_values


@dataclass(frozen=True)
class Evaluation:
    """How one prompt did.

    Attributes:
        test_score: share of test examples answered right (P@1 on LAMA, accuracy on SuperGLUE).
        dev_score: the same on dev, as training left it.
        majority: share of the same test examples whose answer is the most frequent one of train.
        asked: number of test examples that were scored.
        left_out: number whose answer is not one token of the model.
        predictions: one record for each scored test example.
        naive_bayes: on LAMA, what naive Bayes over the subject's words answers right of them.
    """

    test_score: float
    dev_score: float
    majority: float
    asked: int
    left_out: int
    predictions: list[dict[str, Any]]
    naive_bayes: float | None = None


def evaluate_relation(
    model: AnswerModel,
    relation: str,
    prompt: StoredPrompt,
    facts: Mapping[str, Sequence[Fact]],
    vocabulary: Sequence[str],
    *,
    rows_per_pass: int,
) -> Evaluation:
    """Ask every test fact of a relation, over the allowed vocabulary; train gives the control.

    Raises:
        DataError: no test fact has an object that is one token of the model.
    """
    examples = {
        split: [(fact_values(fact), fact.obj_label) for fact in facts[split]] for split in facts
    }
    describe = [
        {"relation": relation, "subject": f.sub_label, "object": f.obj_label} for f in facts["test"]
    ]
    result = _evaluate(
        model, relation, prompt, FIELDS, examples, vocabulary, describe, rows_per_pass
    )
    naive_bayes = naive_bayes_share(
        [(fact.sub_label, fact.obj_label) for fact in facts["train"]],
        [(record["subject"], record["object"]) for record in result.predictions],
    )
    return replace(result, naive_bayes=naive_bayes)


def evaluate_task(
    model: AnswerModel,
    task: Task,
    prompt: StoredPrompt,
    examples: Mapping[str, Sequence[Record]],
    *,
    rows_per_pass: int,
) -> Evaluation:
    """Ask every test example of a task, over its label words; train gives the control."""
    verbalizer = prompt.verbalizer or {}
    described = {
        split: [(record, verbalizer[record["label"]]) for record in examples[split]]
        for split in examples
    }
    describe = [
        {**record, "label_word": verbalizer[record["label"]]} for record in examples["test"]
    ]
    words = [verbalizer[label] for label in task.labels]
    return _evaluate(
        model, task.name, prompt, task.fields, described, words, describe, rows_per_pass
    )


def _evaluate(
    model: AnswerModel,
    name: str,
    prompt: StoredPrompt,
    fields: Sequence[str],
    examples: Mapping[str, Sequence[tuple[Mapping[str, str], str]]],
    words: Sequence[str],
    describe: Sequence[Mapping[str, Any]],
    rows_per_pass: int,
) -> Evaluation:
    questions = build_questions(
        model,
        parse_template(prompt.template, fields),
        examples["test"],
        words,
        max_length=prompt.max_length,
    )
    if not questions.rows:
        raise DataError(
            f"{name}: no test example has an answer that is one token of the model; take another "
            "model or leave it out"
        )
    log_probs = predict(
        model, questions.rows, prompt.vectors, questions.word_ids, rows_per_pass=rows_per_pass
    )
    best = log_probs.max(dim=1)
    right = ranks(log_probs, questions.targets)
    test = [examples["test"][i][1] for i in questions.asked]
    return Evaluation(
        test_score=accuracy(log_probs, questions.targets),
        dev_score=prompt.dev_score,
        majority=majority_share([word for _, word in examples["train"]], test),
        asked=len(test),
        left_out=len(examples["test"]) - len(test),
        predictions=[
            {
                **describe[example],
                "answer": questions.words[int(best.indices[row])],
                "log_prob": round(float(best.values[row]), 4),
                "rank": int(right[row]),
            }
            for row, example in enumerate(questions.asked)
        ],
    )
