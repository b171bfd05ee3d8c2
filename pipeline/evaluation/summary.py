"""What the trainings of a task and method gave together: a row each, and their mean and spread."""

from collections.abc import Mapping, Sequence
from statistics import stdev
from typing import Any

from pipeline.evaluation.evaluate import TaskEvaluation
from pipeline.evaluation.metrics import mean, mean_and_std, task_score

Row = dict[str, Any]


def unit_rows(trained: Mapping[str, Any], found: Mapping[str, TaskEvaluation]) -> list[Row]:
    """Return a row for each training that was evaluated.

    Args:
        trained: what `train` wrote to `units.json`.
        found: name of the training -> how it did on the test set.
    """
    return [
        {
            "training": unit["name"],
            "setting": setting["number"],
            "split": unit["split"],
            "seed": unit["seed"],
            "best_epoch": unit["best_epoch"],
            "dev_score": unit["dev_score"],
            "test_score": task_score(found[unit["name"]].metrics),
            **{f"test_{key}": value for key, value in found[unit["name"]].metrics.items()},
        }
        for setting in trained["settings"]
        for unit in setting["units"]
        if unit["name"] in found
    ]


def setting_rows(trained: Mapping[str, Any], evaluated: Sequence[Row]) -> list[Row]:
    """Return a row for each setting that was trained, chosen or not.

    Args:
        trained: what `train` wrote to `units.json`.
        evaluated: as `unit_rows` returns them; of a setting that was not chosen there are none.
    """
    rows = []
    for setting in trained["settings"]:
        dev = [unit["dev_score"] for unit in setting["units"]]
        test = [row["test_score"] for row in evaluated if row["setting"] == setting["number"]]
        rows.append(
            {
                "setting": setting["number"],
                "tried": _shown(setting["tried"]),
                "template": setting["template"],
                "trainings": len(dev),
                "dev_score": mean(dev),
                "dev_score_std": stdev(dev) if len(dev) > 1 else None,
                "chosen": setting["number"] == trained["chosen"],
                "test_score": mean(test) if test else None,
                "test_score_std": stdev(test) if len(test) > 1 else None,
            }
        )
    return rows


def task_summary(rows: Sequence[Row], found: Mapping[str, TaskEvaluation]) -> dict[str, float]:
    """Return the numbers of a metrics file: means, and sample standard deviations under `_std`.

    They are taken over the trainings of one setting; over the means of the settings, if several
    were evaluated.

    Args:
        rows: as `unit_rows` returns them.
        found: name of the training -> how it did on the test set.
    """
    settings = sorted({row["setting"] for row in rows})
    values: dict[str, float] = {}
    for key in rows[0]:
        split, _, metric = key.partition("_")
        if split in ("test", "dev"):
            by_setting = [[r[key] for r in rows if r["setting"] == n] for n in settings]
            points = by_setting[0] if len(settings) == 1 else list(map(mean, by_setting))
            values |= mean_and_std(f"{split}/{metric}", points)
    majority = [own.majority for own in found.values()]
    return {
        **values,
        **{f"test/majority_{key}": mean([own[key] for own in majority]) for key in majority[0]},
        "test/majority": mean([task_score(own) for own in majority]),
        "test/examples": next(iter(found.values())).asked,
        "test/trainings": len(rows),
        "test/settings": len(settings),
    }


def _shown(tried: Mapping[str, Any]) -> str:
    """Return what a setting was told apart by, but for its template, which has a column."""
    return ", ".join(f"{path}={value}" for path, value in tried.items() if path != "template")
