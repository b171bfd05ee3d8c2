"""Metrics: pure functions of scores and right answers."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from operator import itemgetter
from typing import Any

from torch import Tensor

from pipeline.tasks import Example, Task

Row = dict[str, Any]


def accuracy(answers: Tensor, targets: Tensor) -> float:
    """The share of examples that were answered right.

    On LAMA this is P@1 of a relation.

    Args:
        answers: (examples,) int64, positions of the predicted answers.
        targets: (examples,) int64, positions of the right answers.

    Raises:
        ValueError: there are no examples.
    """
    if not len(targets):
        raise ValueError("no examples to score")
    return float((answers == targets).double().mean())


def ranks(log_probs: Tensor, targets: Tensor) -> Tensor:
    """Return (rows,) int64: the right answer's rank, 1 for the best; equal scores rank alike."""
    right = log_probs.gather(1, targets.unsqueeze(1))
    return (log_probs > right).sum(dim=1) + 1


def mean(values: Sequence[float]) -> float:
    """The unweighted mean, as LAMA averages relations.

    Raises:
        ValueError: there are no values.
    """
    if not values:
        raise ValueError("no values to average")
    return sum(values) / len(values)


def mean_and_std(name: str, values: Sequence[float]) -> dict[str, float]:
    """The mean under a name, and the sample standard deviation under `<name>_std`.

    The standard deviation is left out of a single value.

    Raises:
        ValueError: there are no values.
    """
    if len(values) < 2:
        return {name: mean(values)}
    return {name: mean(values), f"{name}_std": statistics.stdev(values)}


def task_metrics(
    task: Task, examples: Sequence[Example], answers: Sequence[str]
) -> dict[str, float]:
    """The task's metrics by name, each from 0 to 1; `matthews` from -1.

    Args:
        task: whose metrics they are.
        examples: with their labels.
        answers: the predicted label of each.

    Raises:
        ValueError: there are no examples.
    """
    if not examples:
        raise ValueError("no examples to score")
    return {name: TASK_METRICS[name](task, examples, answers) for name in task.metrics}


def score_points(rows: Sequence[Row], column: str) -> list[float]:
    """The values of a column whose mean and deviation are reported, each a mean over the tasks.

    They are one per split and seed; where several settings of a split were kept, one per setting.

    Args:
        rows: one per trial, with `task`, `setting`, `split` and `seed`.
        column: a number of each row.
    """
    several = any(len(group) > 1 for group in group_rows(rows, "task", "split", "seed").values())
    keys = ("setting",) if several else ("split", "seed")
    return [
        mean([mean([row[column] for row in own]) for own in group_rows(group, "task").values()])
        for group in group_rows(rows, *keys).values()
    ]


def group_rows(rows: Sequence[Row], *keys: str) -> dict[tuple[Any, ...] | Any, list[Row]]:
    """Group rows by a key, or by a tuple of several, in the order of the first rows."""
    groups: dict[Any, list[Row]] = {}
    for row in rows:
        groups.setdefault(itemgetter(*keys)(row), []).append(row)
    return groups


def score_answers(
    task: Task, examples: Sequence[Example], answers: Tensor, targets: Tensor
) -> dict[str, float]:
    """The task's metrics of scored examples.

    Args:
        task: whose metrics they are.
        examples: that were scored.
        answers: (examples,) int64, positions of the predicted answers.
        targets: (examples,) int64, positions of the right answers.
    """
    if task.vocabulary is not None:
        # Two words may be one token of the model, so positions are compared, not words.
        return {name: accuracy(answers, targets) for name in task.metrics}
    return task_metrics(task, examples, [task.labels[i] for i in answers.tolist()])


def task_score(metrics: Mapping[str, float]) -> float:
    """The mean of a task's metrics.

    Source: P-tuning v2, Table 4, whose averages treat CB and MultiRC so, as SuperGLUE does.
    """
    return mean(list(metrics.values()))


def _label_accuracy(_: Task, examples: Sequence[Example], answers: Sequence[str]) -> float:
    return mean([float(e.label == answer) for e, answer in zip(examples, answers, strict=True)])


def _f1(
    _: Task,
    examples: Sequence[Example],
    answers: Sequence[str],
    labels: Sequence[str] | None = None,
) -> float:
    """The mean F1 of some labels; None: of each label that occurs."""
    from sklearn.metrics import f1_score  # takes a second to import

    right = [example.label for example in examples]
    return float(f1_score(right, list(answers), labels=labels, average="macro", zero_division=0))


def _positive_f1(task: Task, examples: Sequence[Example], answers: Sequence[str]) -> float:
    assert task.positive is not None, "checked with params.yaml"
    return _f1(task, examples, answers, [task.positive])


def _matthews(_: Task, examples: Sequence[Example], answers: Sequence[str]) -> float:
    """Matthews' correlation coefficient, from -1 to 1; 0 for a constant answer."""
    from sklearn.metrics import matthews_corrcoef

    return float(matthews_corrcoef([example.label for example in examples], list(answers)))


def _exact_match(_: Task, examples: Sequence[Example], answers: Sequence[str]) -> float:
    """Share of questions all of whose answers were judged right (MultiRC's EM)."""
    whole: dict[str, bool] = {}
    for example, answer in zip(examples, answers, strict=True):
        whole[example.question] = whole.get(example.question, True) and example.label == answer
    return mean([float(right) for right in whole.values()])


TASK_METRICS: dict[str, Callable[[Task, Sequence[Example], Sequence[str]], float]] = {
    "accuracy": _label_accuracy,
    "p_at_1": _label_accuracy,
    # CB: of each label that occurs, unweighted mean.
    "f1": _f1,
    # Of one label against all others.
    "f1_positive": _positive_f1,
    # MultiRC: of the label 1 over all answers, whatever question they belong to.
    "f1a": partial(_f1, labels=["1"]),
    "em": _exact_match,
    # CoLA's metric in GLUE.
    "matthews": _matthews,
}
