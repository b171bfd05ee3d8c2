"""Tables and metrics of a stage's trials: a row each, their means and standard deviations."""

import statistics
from collections.abc import Mapping, Sequence
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

CONTROLS = ("majority", "constant", "naive_bayes")
RELATION_COLUMNS = (
    "relation", "train_facts", "dev_facts", "facts", "steps", "hard_facts", "p_at_1_hard", "p_at_1",
)  # fmt: skip
# Of relations whose objects compete; see `Evaluation.one_token`.
ONE_TOKEN_COLUMNS = ("one_token_facts", "p_at_1_one_token")
TEMPLATE_COLUMNS = (
    "relation", "number", "template", "train_facts", "dev_facts", "facts", "steps", "p_at_1",
)  # fmt: skip
SETTING_COLUMNS = (
    "task", "setting", "tried", "template", "trainings", "dev_score", "dev_score_std", "chosen",
    "test_score", "test_score_std",
)  # fmt: skip


# Of a trial in `trials.json`: how many examples it used, and steps that it took.
_SIZES = ("examples_train", "examples_dev", "steps")


def trial_columns(metrics: Sequence[str]) -> list[str]:
    """The columns of `trials.csv` for a task with these metrics."""
    names = ["task", "training", "setting", "split", "seed", "steps", "best_epoch", "dev_score"]
    return [*names, "test_score", *(f"test_{metric}" for metric in metrics)]


def trial_rows(trained: Mapping[str, Any], evaluations: Mapping[str, Evaluation]) -> list[Row]:
    """A row for each trial that was evaluated.

    Besides the columns of `trials.csv` it has the numbers of `examples_train`, `examples_dev`,
    `examples` of test, and `left_out` ones, of each control, such as `majority`, its score and its
    metrics (`majority_f1`), and for LAMA `hard_facts` and `p_at_1_hard`. What an earlier version
    did not write to `trials.json` is None. Relations whose objects compete have
    `ONE_TOKEN_COLUMNS` too.

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
            **{key: trial.get(key) for key in _SIZES},
            **_evaluated(evaluations[trial["name"]]),
        }
        for task, content in trained["tasks"].items()
        for setting in content["settings"]
        for trial in setting["trials"]
        if trial["name"] in evaluations
    ]


def _evaluated(evaluation: Evaluation) -> Row:
    hard, one_token = evaluation.hard, evaluation.one_token
    return {
        "test_score": evaluation.score,
        **{f"test_{metric}": value for metric, value in evaluation.metrics.items()},
        **{
            f"{control}_{metric}": value
            for control, metrics in evaluation.controls.items()
            for metric, value in metrics.items()
            if metric != "score"
        },
        **{
            control: metrics.get("score", task_score(metrics))
            for control, metrics in evaluation.controls.items()
        },
        "examples": evaluation.num_examples,
        "left_out": evaluation.num_skipped,
        **({"hard_facts": hard["facts"], "p_at_1_hard": hard["p_at_1"]} if hard else {}),
        **dict(zip(ONE_TOKEN_COLUMNS, one_token.values(), strict=False)),
    }


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
            # The template has its own column.
            tried = [f"{path}={v}" for path, v in setting["tried"].items() if path != "template"]
            rows.append(
                {
                    **dict.fromkeys(SETTING_COLUMNS),
                    "task": task,
                    "setting": number,
                    "tried": ", ".join(tried),
                    "template": setting["template"],
                    "trainings": len(dev),
                    "chosen": number in _chosen(content["chosen"]),
                    **mean_and_std("dev_score", dev),
                    **(mean_and_std("test_score", test) if test else {}),
                }
            )
    return rows


def _chosen(chosen: int | Mapping[str, int] | None) -> list[int | None]:
    """The numbers of the settings that dev selected, of all splits."""
    return list(chosen.values()) if isinstance(chosen, Mapping) else [chosen]


def task_summary(rows: Sequence[Row]) -> dict[str, float]:
    """The metrics of a task: means, and standard deviations under `_std`.

    `rows` are those of `trial_rows`.
    """
    values: dict[str, float] = {}
    for key in rows[0]:
        split, _, metric = key.partition("_")
        if split in ("test", "dev"):
            values |= mean_and_std(f"{split}/{metric}", score_points(rows, key))
    controls = [key for key in rows[0] if key.startswith(CONTROLS)]
    return {
        **values,
        **{f"test/{key}": mean([row[key] for row in rows]) for key in controls},
        **_sizes(rows, "examples"),
        "test/examples": rows[0]["examples"],
        **_counts(rows),
    }


def relation_summary(rows: Sequence[Row]) -> dict[str, float]:
    """The metrics of LAMA: means over relations, and over trainings their deviations.

    `rows` are those of `trial_rows`.
    """
    values: dict[str, float] = {}
    if rows:
        for split in ("test", "dev"):
            values |= mean_and_std(f"{split}/p_at_1", score_points(rows, f"{split}_score"))
        for control in CONTROLS:
            values[f"test/{control}"] = mean(score_points(rows, control))
    if hard := [row for row in rows if row.get("hard_facts")]:
        values |= mean_and_std("test/p_at_1_hard", score_points(hard, "p_at_1_hard"))
    if one_token := [row for row in rows if row.get("one_token_facts")]:
        points = score_points(one_token, "p_at_1_one_token")
        values |= mean_and_std("test/p_at_1_one_token", points)
    relations = relation_rows(rows)
    for key in ("hard_facts", "one_token_facts"):
        if f"test/p_at_1_{key.removesuffix('_facts')}" in values:
            values[f"test/{key}"] = sum(row[key] for row in relations)
    return {
        **values,
        **_sizes(rows, "facts"),
        "test/facts": sum(row["facts"] for row in relations),
        "test/left_out": sum(row["left_out"] for row in relations),
        **_counts(rows),
    }


def relation_rows(rows: Sequence[Row]) -> list[Row]:
    """A row for each relation: scores and controls, means over its rows of `trial_rows`."""
    return [
        {
            "relation": relation,
            "train_facts": trials[0]["examples_train"],
            "dev_facts": trials[0]["examples_dev"],
            "facts": trials[0]["examples"],
            "left_out": trials[0]["left_out"],
            "steps": _mean_steps(trials),
            "hard_facts": (hard := trials[0].get("hard_facts", 0)),
            "p_at_1_hard": mean([row["p_at_1_hard"] for row in trials]) if hard else None,
            **_one_token(trials),
            "p_at_1": mean([row["test_score"] for row in trials]),
            **{control: mean([row[control] for row in trials]) for control in CONTROLS},
        }
        for relation, trials in group_rows(rows, "task").items()
    ]


def template_rows(trained: Mapping[str, Any], rows: Sequence[Row]) -> list[Row]:
    """A row for each template of a relation, whose task is named `P17/1`.

    Args:
        trained: the content of `trials.json`.
        rows: of `trial_rows`.
    """
    return [
        {
            "relation": row["relation"].partition("/")[0],
            "number": int(row["relation"].partition("/")[2]),
            "template": trained["tasks"][row["relation"]]["settings"][0]["template"],
            **{key: row[key] for key in ("train_facts", "dev_facts", "facts", "steps", "p_at_1")},
        }
        for row in relation_rows(rows)
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


def _one_token(trials: Sequence[Row]) -> Row:
    """The `ONE_TOKEN_COLUMNS` of a relation, if its objects compete."""
    facts, score = ONE_TOKEN_COLUMNS
    if facts not in trials[0]:
        return {}
    count = trials[0][facts]
    return {facts: count, score: mean([row[score] for row in trials]) if count else None}


def _sizes(rows: Sequence[Row], unit: str) -> dict[str, float]:
    """Examples of train and dev, summed over tasks, and the mean steps of a training.

    Empty if an earlier version trained, which did not record them.
    """
    first = [trials[0] for trials in group_rows(rows, "task").values()]
    steps = _mean_steps(rows)
    if steps is None:
        return {}
    sizes = {f"{s}/{unit}": sum(row[f"examples_{s}"] for row in first) for s in ("train", "dev")}
    return {**sizes, "train/steps": steps}


def _mean_steps(rows: Sequence[Row]) -> float | None:
    steps = [row["steps"] for row in rows]
    return None if None in steps or not steps else mean(steps)


def _counts(rows: Sequence[Row]) -> dict[str, int]:
    """The numbers of trainings and settings behind a task's score."""
    tasks = list(group_rows(rows, "task").values())
    return {
        "test/trainings": max(map(len, tasks), default=0),
        "test/settings": max((len({row["setting"] for row in task}) for task in tasks), default=0),
    }
