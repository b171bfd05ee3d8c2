"""Gather what one run of SuperGLUE gave into one record, to be kept with the project."""

from pathlib import Path

from pipeline.config.schema import Params
from pipeline.data.superglue import read_examples
from pipeline.errors import DataError
from pipeline.evaluation.controls import majority
from pipeline.evaluation.metrics import task_metrics, task_score
from pipeline.files import read_json
from pipeline.report.collect import About, SecondsOf, model_params, seconds_of_stages
from pipeline.report.results import Row, read_settings, read_trainings
from pipeline.tasks import get_task, task_names


def gather_tasks(params: Params, root: Path, about: About, *, seconds_of: SecondsOf) -> Row:
    """Return a record of the tasks and methods that `params.yaml` lists, ready to be written.

    A task whose splits are there but which no method was run on has its counts and its majority
    class alone.

    Args:
        params: of the project, unchanged since its last `dvc repro`.
        root: of the project.
        about: the record.
        seconds_of: how long a stage took.

    Raises:
        DataError: no task is listed, or a file is missing.
    """
    glue = params.superglue
    if not glue.tasks or not glue.methods:
        raise DataError("params.yaml lists no task or no method of SuperGLUE; nothing to collect")
    splits = root / "data" / "splits" / "superglue"
    asked = {task: splits / task for task in task_names() if (splits / task).is_dir()}
    missing = [task for task in glue.tasks if task not in asked]
    if missing:
        raise DataError(f"{splits / missing[0]}: no such folder; run `dvc repro` first")

    def method(task: str, method: str) -> Row:
        folder = root / "evaluation" / "superglue" / task / method
        return {
            "metrics": read_json(root / "metrics" / "superglue" / task / f"{method}.json"),
            "seconds": seconds_of_stages(seconds_of, "superglue", method, task),
            "trainings": read_trainings(folder),
            "settings": read_settings(folder),
        }

    return {
        **about.head(root),
        "params": _params(params),
        "tasks": {
            task: {
                "counts": read_json(folder / "counts.json"),
                "majority": _majority(task, folder),
                "methods": {own: method(task, own) for own in glue.methods if task in glue.tasks},
            }
            for task, folder in asked.items()
        },
    }


def _majority(task: str, folder: Path) -> Row:
    """Return the metrics of the most frequent label of the first split's train set, on test."""
    kind = get_task(task)
    train = read_examples(folder / "1" / "train.jsonl", kind.examples)
    test = read_examples(folder / "test.jsonl", kind.examples)
    label = majority([example.label for example in train])
    metrics = task_metrics(kind, test, [label] * len(test))
    return {"label": label, "score": task_score(metrics), **metrics}


def _params(params: Params) -> Row:
    """Return what decided the results, of the listed tasks and methods."""
    glue = params.superglue.model_dump(mode="json")
    methods, tasks = params.superglue.methods, params.superglue.tasks
    for section in ("training", "grid"):
        glue[section] = {method: glue[section][method] for method in methods}
    for section in ("prompts", "overrides"):
        glue[section] = {task: glue[section][task] for task in tasks}
    return {"seed": params.seed, "model": model_params(params), "superglue": glue}
