"""Tables and metrics of a stage's trials: a row each, their means and standard deviations."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pipeline.evaluation.evaluate import Evaluation
from pipeline.evaluation.metrics import (
    Row,
    group_rows,
    mean,
    mean_and_std,
    score_points,
    task_score,
)

SETTING_COLUMNS = (
    "task", "setting", "tried", "template", "trainings", "dev_score", "dev_score_std", "chosen",
    "test_score", "test_score_std",
)  # fmt: skip


def trial_columns(metrics: Sequence[str]) -> list[str]:
    """The columns of `trials.csv` for a task with these metrics."""
    names = ["task", "training", "setting", "split", "seed", "best_epoch", "dev_score"]
    return [*names, "test_score", *(f"test_{metric}" for metric in metrics)]


def trial_rows(trained: Mapping[str, Any], evaluations: Mapping[str, Evaluation]) -> list[Row]:
    """A row for each trial that was evaluated.

    Args:
        trained: the content of `trials.json`.
        evaluations: by the trials' names.
    """
    return [
        {
            "task": task,
            "training": trial["name"],
            "setting": setting["number"],
            "split": trial["split"],
            "seed": trial["seed"],
            "best_epoch": trial["best_epoch"],
            "dev_score": trial["dev_score"],
            "test_score": evaluations[trial["name"]].score,
            **{f"test_{k}": v for k, v in evaluations[trial["name"]].metrics.items()},
        }
        for task, content in trained["tasks"].items()
        for setting in content["settings"]
        for trial in setting["trials"]
        if trial["name"] in evaluations
    ]


def setting_rows(trained: Mapping[str, Any], evaluated: Sequence[Row]) -> list[Row]:
    """A row for each setting that was trained, selected or not.

    Args:
        trained: the content of `trials.json`.
        evaluated: rows of `trial_rows`; settings that were not selected have none.
    """
    rows = []
    for task, content in trained["tasks"].items():
        for setting in content["settings"]:
            number = setting["number"]
            dev = [trial["dev_score"] for trial in setting["trials"]]
            test = [
                r["test_score"] for r in evaluated if (r["task"], r["setting"]) == (task, number)
            ]
            values = [
                task,
                number,
                _tried(setting["tried"]),
                setting["template"],
                len(dev),
                mean(dev),
                statistics.stdev(dev) if len(dev) > 1 else None,
                number == content["chosen"],
                mean(test) if test else None,
                statistics.stdev(test) if len(test) > 1 else None,
            ]
            rows.append(dict(zip(SETTING_COLUMNS, values, strict=True)))
    return rows


def task_summary(rows: Sequence[Row], evaluations: Mapping[str, Evaluation]) -> dict[str, float]:
    """The metrics of a SuperGLUE task: means, and standard deviations under `_std`.

    Args:
        rows: of `trial_rows`.
        evaluations: by the trials' names.
    """
    values: dict[str, float] = {}
    for key in rows[0]:
        split, _, metric = key.partition("_")
        if split in ("test", "dev"):
            values |= mean_and_std(f"{split}/{metric}", score_points(rows, _column(key)))
    majority = [evaluation.controls["majority"] for evaluation in evaluations.values()]
    return {
        **values,
        **{f"test/majority_{key}": mean([m[key] for m in majority]) for key in majority[0]},
        "test/majority": mean([task_score(metrics) for metrics in majority]),
        "test/examples": next(iter(evaluations.values())).num_examples,
        **_counts(rows),
    }


def relation_summary(
    rows: Sequence[Row], evaluations: Mapping[str, Evaluation]
) -> dict[str, float]:
    """The metrics of LAMA: means over relations, and over trainings their deviations.

    Args:
        rows: of `trial_rows`.
        evaluations: by the trials' names.
    """
    values: dict[str, float] = {}
    if rows:
        values |= mean_and_std("test/p_at_1", score_points(rows, _column("test_score")))
        values |= mean_and_std("dev/p_at_1", score_points(rows, _column("dev_score")))
        for control in ("majority", "naive_bayes"):
            points = score_points(rows, _control(evaluations, control))
            values[f"test/{control}"] = mean(points)
    relations = relation_rows(rows, evaluations)
    return {
        **values,
        "test/facts": sum(row["facts"] for row in relations),
        "test/left_out": sum(row["left_out"] for row in relations),
        **_counts(rows),
    }


def relation_rows(rows: Sequence[Row], evaluations: Mapping[str, Evaluation]) -> list[Row]:
    """A row for each relation: scores and controls, means over its trials.

    Args:
        rows: of `trial_rows`.
        evaluations: by the trials' names.
    """
    return [
        {
            "relation": relation,
            "facts": evaluations[trials[0]["training"]].num_examples,
            "left_out": evaluations[trials[0]["training"]].num_skipped,
            "p_at_1": mean([row["test_score"] for row in trials]),
            **{
                control: mean([_control(evaluations, control)(row) for row in trials])
                for control in ("majority", "naive_bayes")
            },
        }
        for relation, trials in group_rows(rows, "task").items()
    ]


def template_rows(
    trained: Mapping[str, Any], rows: Sequence[Row], evaluations: Mapping[str, Evaluation]
) -> list[Row]:
    """A row for each template of a relation, whose task is named `P17/1`.

    Args:
        trained: the content of `trials.json`.
        rows: of `trial_rows`.
        evaluations: by the trials' names.
    """
    return [
        {
            "relation": row["relation"].partition("/")[0],
            "number": int(row["relation"].partition("/")[2]),
            "template": trained["tasks"][row["relation"]]["settings"][0]["template"],
            "facts": row["facts"],
            "p_at_1": row["p_at_1"],
        }
        for row in relation_rows(rows, evaluations)
    ]


def spread_over_templates(rows: Sequence[Row]) -> dict[str, float]:
    """Return mean, worst, best and standard deviation over templates, averaged over relations.

    Args:
        rows: one per template: `relation` and `p_at_1`; two or more of each relation.

    Returns:
        `test/p_at_1` and, with these suffixes, `worst`, `best` and `std` (of a sample, n - 1); the
        numbers of relations and templates.

    Source: P-tuning v2, Table 1 and the claim on standard deviations; the paper specifies neither
    the prompts behind that claim nor which deviation it reports.
    """
    scores = [[row["p_at_1"] for row in group] for group in group_rows(rows, "relation").values()]
    values: dict[str, float] = {"test/relations": len(scores), "test/templates": len(rows)}
    if scores:
        values |= {
            "test/p_at_1": mean(list(map(mean, scores))),
            "test/p_at_1_worst": mean(list(map(min, scores))),
            "test/p_at_1_best": mean(list(map(max, scores))),
            "test/p_at_1_std": mean(list(map(statistics.stdev, scores))),
        }
    return values


def _counts(rows: Sequence[Row]) -> dict[str, int]:
    """The numbers of trainings and settings behind a task's score."""
    tasks = list(group_rows(rows, "task").values())
    return {
        "test/trainings": max(map(len, tasks), default=0),
        "test/settings": max((len({row["setting"] for row in task}) for task in tasks), default=0),
    }


def _column(key: str) -> Callable[[Row], float]:
    return lambda row: row[key]


def _control(evaluations: Mapping[str, Evaluation], control: str) -> Callable[[Row], float]:
    return lambda row: task_score(evaluations[row["training"]].controls[control])


def _tried(values: Mapping[str, Any]) -> str:
    """The values that distinguish a setting, except its template, which has a column."""
    return ", ".join(f"{path}={value}" for path, value in values.items() if path != "template")
