"""Evaluate one trained prompt on the test examples of its task."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from pipeline.errors import DataError, ModelError
from pipeline.evaluation.controls import best_constant, majority, naive_bayes
from pipeline.evaluation.metrics import mean, ranks, score_answers, task_metrics, task_score
from pipeline.evaluation.words import nearest_words
from pipeline.models.dataset import PromptDataset, PromptFormat, build_dataset
from pipeline.models.language_model import PromptedModel
from pipeline.models.scoring import ScoreError, score_examples
from pipeline.tasks import Example, Task

# Words of each trained vector.
_NEAREST = 3


@dataclass(frozen=True)
class Evaluation:
    """The scores of one prompt, or tuned model, on a task.

    Attributes:
        metrics: the task's, by name.
        controls: control -> its metrics on the same test examples: `majority`, the most frequent
            answer of train; `constant`, the best of all constant answers, with its `score`;
            `naive_bayes`, over the words of the fields, where `Task.naive_bayes` is set.
        num_examples: number of test examples that were scored.
        num_skipped: number whose answer is not one token of the model.
        predictions: one record for each scored example; those of LAMA say whether a fact is hard.
        hard: of a relation, the number of `facts` that neither the majority class nor naive Bayes
            gets right, and `p_at_1` on them, None if there are none; empty for other tasks.
        one_token: of a relation whose objects compete, the number of `facts` with an object of one
            token, and `p_at_1` on them over the vocabulary; else as above.
        nearest: for each trained vector, the words with the nearest embeddings.
    """

    metrics: dict[str, float]
    controls: dict[str, dict[str, float]]
    num_examples: int
    num_skipped: int
    predictions: list[dict[str, Any]]
    hard: dict[str, float | None] = field(default_factory=dict)
    one_token: dict[str, float | None] = field(default_factory=dict)
    nearest: list[list[str]] = field(default_factory=list)

    @property
    def score(self) -> float:
        """The mean of the metrics."""
        return task_score(self.metrics)


def evaluate(
    model: PromptedModel,
    prompt: PromptFormat,
    vectors: Tensor | None,
    examples: Mapping[str, Sequence[Example]],
    *,
    max_tokens_per_forward: int,
) -> Evaluation:
    """Score the test examples of a task.

    Args:
        model: the language model.
        prompt: how the examples are put into words.
        vectors: (prompt tokens, embedding size) float; None where the template has none.
        examples: of `test`, and of `train` for the controls.
        max_tokens_per_forward: maximum number of positions in a forward pass.

    Raises:
        DataError: no test example has an answer that is one token of the model.
        ModelError: the scores of an example are not finite.
    """
    task = prompt.task
    one_token: dict[str, float | None] = {}
    if task.objects:
        form = replace(prompt, task=replace(task, objects=()))
        try:
            apart = evaluate(
                model, form, vectors, examples, max_tokens_per_forward=max_tokens_per_forward
            )
            one_token = {"facts": apart.num_examples, "p_at_1": apart.score}
        except DataError:
            one_token = {"facts": 0, "p_at_1": None}
    dataset = build_dataset(model, prompt, examples["test"])
    if not dataset.rows:
        raise DataError(
            f"{task.name}: no test example has an answer that is one token of the model; use "
            "another model or leave it out"
        )
    test = [examples["test"][i] for i in dataset.kept_indices]
    try:
        log_probs = score_examples(
            model,
            dataset.rows,
            vectors,
            dataset.word_ids,
            max_tokens_per_forward=max_tokens_per_forward,
        )
    except ScoreError as error:
        example = test[error.position].name
        raise ModelError(f"{task.name}, test example '{example}': {error}") from None
    guesses = _guesses(task, examples["train"], test)
    predictions = _predictions(task, test, dataset, log_probs)
    right = log_probs.argmax(dim=1) == dataset.targets
    hard = {}
    if task.vocabulary is not None:
        for record, example, *answers in zip(predictions, test, *guesses.values(), strict=True):
            record["hard"] = example.label not in answers
        scores = [float(x) for x, record in zip(right, predictions, strict=True) if record["hard"]]
        hard = {"facts": len(scores), "p_at_1": mean(scores) if scores else None}
    return Evaluation(
        metrics=score_answers(task, test, log_probs.argmax(dim=1), dataset.targets),
        controls={
            **{name: task_metrics(task, test, answers) for name, answers in guesses.items()},
            "constant": best_constant(task, test),
        },
        num_examples=len(test),
        num_skipped=len(examples["test"]) - len(test),
        predictions=predictions,
        hard=hard,
        one_token=one_token,
        nearest=[] if vectors is None else _nearest(model, vectors),
    )


def _nearest(model: PromptedModel, vectors: Tensor) -> list[list[str]]:
    return [[word for word, _ in row] for row in nearest_words(model, vectors, _NEAREST)]


def _guesses(task: Task, train: Sequence[Example], test: Sequence[Example]) -> dict[str, list[str]]:
    """Return control -> its answers to the test examples, which it learned from train."""
    guesses = {"majority": [majority([example.label for example in train])] * len(test)}
    if task.naive_bayes:
        pairs = [(_text(task, example), example.label) for example in train]
        guesses["naive_bayes"] = naive_bayes(pairs, [_text(task, example) for example in test])
    return guesses


def _text(task: Task, example: Example) -> str:
    return " ".join(example.values[field] for field in task.fields)


def _predictions(
    task: Task, test: Sequence[Example], dataset: PromptDataset, log_probs: Tensor
) -> list[dict[str, Any]]:
    best = log_probs.max(dim=1)
    right = ranks(log_probs, dataset.targets).tolist()
    records: list[dict[str, Any]] = []
    for example, value, position, rank in zip(
        test, best.values.tolist(), best.indices.tolist(), right, strict=True
    ):
        answer = {"answer": dataset.answers[position], "log_prob": round(value, 4)}
        if task.vocabulary is None:
            records.append({"example": example.name, "label": example.label, **answer})
        else:
            fact = {"relation": task.name, **example.values, "object": example.label}
            records.append({**fact, **answer, "rank": rank})
    return records
