"""Gather what was evaluated into plain rows."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.files import read_csv, read_json, read_jsonl

Row = dict[str, Any]

# Columns of a file of learning curves that tell its trainings apart.
_TRAINING = ("relation", "setting", "split", "seed")


@dataclass(frozen=True)
class LamaResults:
    """Knowledge probing.

    Attributes:
        methods: method -> its metrics file.
        relations: as `join_relations` makes them.
        curves: one row a method, relation and epoch: `method`, `relation`, `epoch`, `dev_p_at_1`.
        answers: rows `relation`, `subject`, `object`, and the answer under each method's name.
        splits: the metrics file of the splits.
    """

    methods: dict[str, Row]
    relations: list[Row]
    curves: list[Row]
    answers: list[Row]
    splits: Row


@dataclass(frozen=True)
class StabilityResults:
    """The same relations under several manual templates.

    Attributes:
        methods: method -> its metrics file.
        templates: as `join_templates` makes them.
    """

    methods: dict[str, Row]
    templates: list[Row]


@dataclass(frozen=True)
class TaskResults:
    """One SuperGLUE task.

    Attributes:
        task: its name.
        methods: method -> its metrics file.
        trainings: method -> rows of `trials.csv`, as `read_trainings` returns them.
        settings: method -> rows of `settings.csv`, as `read_settings` returns them.
        curves: of the trainings that were evaluated, one row an epoch: `method`, `task`,
            `training`, `epoch`, `dev_score`.
    """

    task: str
    methods: dict[str, Row]
    trainings: dict[str, list[Row]]
    settings: dict[str, list[Row]]
    curves: list[Row]


def read_lama_results(
    methods: Sequence[str], *, metrics: Path, curves: Path, evaluation: Path, answers: int
) -> LamaResults:
    """Read the files of the named methods.

    Args:
        methods: in the order of the report.
        metrics: folder of `lama/<method>.json` and `splits/lama.json`.
        curves: folder of `lama/<method>.csv`.
        evaluation: folder of `lama/<method>/{relations,controls}.csv` and `predictions`.
        answers: how many facts to show, spread over the relations.

    Raises:
        DataError: a file is missing.
    """
    shown: dict[tuple[str, str, str], Row] = {}
    for method in methods if answers else ():
        path = evaluation / "lama" / method / "predictions" / "predictions.jsonl"
        for record in read_jsonl(path):
            key = (record["relation"], record["subject"], record["object"])
            fact = dict(zip(("relation", "subject", "object"), key, strict=True))
            shown.setdefault(key, fact)[method] = record["answer"]
    return LamaResults(
        methods={method: read_json(metrics / "lama" / f"{method}.json") for method in methods},
        relations=join_relations(
            {method: read_relations(evaluation / "lama" / method) for method in methods}
        ),
        curves=[
            _point(row, method)
            for method in methods
            for row in read_csv(curves / "lama" / f"{method}.csv")
        ],
        answers=_spread(list(shown.values()), answers),
        splits=read_json(metrics / "splits" / "lama.json"),
    )


def read_relations(folder: Path) -> list[Row]:
    """Read how one method did on each relation, and the controls.

    Args:
        folder: of `relations.csv` and `controls.csv`.

    Returns:
        Rows `relation`, `label`, `facts`, `left_out`, `majority`, `naive_bayes`, `p_at_1`.

    Raises:
        DataError: a file is missing.
    """
    return [
        {
            "relation": score["relation"],
            "label": control["label"],
            "facts": int(score["facts"]),
            "left_out": int(control["left_out"]),
            "majority": float(control["majority"]),
            "naive_bayes": float(control["naive_bayes"]),
            "p_at_1": float(score["p_at_1"]),
        }
        for score, control in zip(
            read_csv(folder / "relations.csv"), read_csv(folder / "controls.csv"), strict=True
        )
    ]


def join_relations(columns: Mapping[str, Sequence[Row]]) -> list[Row]:
    """Put the rows of several methods beside each other.

    Args:
        columns: method -> rows as `read_relations` returns them.

    Returns:
        One row a relation: as the first method that has it, with P@1 under each method's name in
        place of `p_at_1`.
    """
    return _join(columns, ("relation",))


def read_stability_results(
    methods: Sequence[str], *, metrics: Path, evaluation: Path
) -> StabilityResults:
    """Read the files of the named methods.

    Args:
        methods: in the order of the report.
        metrics: folder of `stability/<method>.json`.
        evaluation: folder of `stability/<method>/templates.csv`.

    Raises:
        DataError: a file is missing.
    """
    return StabilityResults(
        methods={method: read_json(metrics / "stability" / f"{method}.json") for method in methods},
        templates=join_templates(
            {method: read_templates(evaluation / "stability" / method) for method in methods}
        ),
    )


def read_templates(folder: Path) -> list[Row]:
    """Read how one method did under each template of `templates.csv`.

    Raises:
        DataError: the file is missing.
    """
    return [
        {
            "relation": row["relation"],
            "number": int(row["number"]),
            "template": row["template"],
            "facts": int(row["facts"]),
            "p_at_1": float(row["p_at_1"]),
        }
        for row in read_csv(folder / "templates.csv")
    ]


def join_templates(columns: Mapping[str, Sequence[Row]]) -> list[Row]:
    """Put the rows of several methods beside each other, by relation and number.

    Args:
        columns: method -> rows as `read_templates` returns them.

    Returns:
        One row a template, with P@1 under each method's name in place of `p_at_1`. The text is
        that of the method `manual`, which is the template itself, where that was run.
    """
    order = sorted(columns, key=lambda method: method != "manual")
    return _join({method: columns[method] for method in order}, ("relation", "number"))


def _join(columns: Mapping[str, Sequence[Row]], keys: Sequence[str]) -> list[Row]:
    joined: dict[tuple[Any, ...], Row] = {}
    for method, rows in columns.items():
        for row in rows:
            shared = {name: value for name, value in row.items() if name != "p_at_1"}
            own = joined.setdefault(tuple(row[key] for key in keys), shared)
            own[method] = row["p_at_1"]
    return list(joined.values())


def read_task_results(
    task: str, methods: Sequence[str], *, metrics: Path, curves: Path, evaluation: Path
) -> TaskResults:
    """Read the files of the named methods for one task.

    Raises:
        DataError: a file is missing.
    """
    folder = Path("superglue", task)
    trainings = {method: read_trainings(evaluation / folder / method) for method in methods}
    return TaskResults(
        task=task,
        methods={method: read_json(metrics / folder / f"{method}.json") for method in methods},
        trainings=trainings,
        settings={method: read_settings(evaluation / folder / method) for method in methods},
        curves=[
            {**point, "task": task}
            for method in methods
            for point in _task_curves(method, curves / folder / f"{method}.csv", trainings[method])
        ],
    )


def read_trainings(folder: Path) -> list[Row]:
    """Read how each training of a task and method did, from `trials.csv`.

    Raises:
        DataError: the file is missing.
    """
    return [
        {
            "training": row["training"],
            "setting": int(row["setting"]),
            "split": int(row["split"]),
            "seed": int(row["seed"]),
            "best_epoch": int(row["best_epoch"]),
            "dev_score": float(row["dev_score"]),
            "test_score": float(row["test_score"]),
        }
        for row in read_csv(folder / "trials.csv")
    ]


def read_settings(folder: Path) -> list[Row]:
    """Read what was tried, from `settings.csv`; a number that there is none of is None.

    Raises:
        DataError: the file is missing.
    """
    numbers = ("dev_score", "dev_score_std", "test_score", "test_score_std")
    return [
        {
            "setting": int(row["setting"]),
            "tried": row["tried"],
            "template": row["template"],
            "trainings": int(row["trainings"]),
            "chosen": row["chosen"] == "True",
            **{key: float(row[key]) if row[key] else None for key in numbers},
        }
        for row in read_csv(folder / "settings.csv")
    ]


def training_budget(path: Path) -> Row:
    """Count the trainings behind a file of learning curves, and all epochs that they took.

    An iteration of a search of discrete prompts counts as an epoch, as in the curves.

    Raises:
        DataError: the file is missing.
    """
    last: dict[tuple[str, ...], int] = {}
    for row in read_csv(path):
        training = tuple(row[key] for key in _TRAINING if key in row)
        last[training] = max(last.get(training, 0), int(row["epoch"]))
    return {"trainings": len(last), "epochs": sum(last.values())}


def _task_curves(method: str, path: Path, trainings: Sequence[Row]) -> Iterator[Row]:
    names = {(row["setting"], row["split"], row["seed"]): row["training"] for row in trainings}
    for row in read_csv(path):
        training = names.get((int(row["setting"]), int(row["split"]), int(row["seed"])))
        if training is not None:
            yield {**_point(row, method), "training": training}


def _point(row: dict[str, str], method: str) -> Row:
    numbers = {key: float(row[key]) for key in row if key.startswith("dev_")}
    names = {key: value for key, value in row.items() if key == "relation"}
    return {"method": method, "epoch": int(row["epoch"]), **names, **numbers}


def _spread(rows: list[Row], count: int) -> list[Row]:
    """Take rows from every relation in turn, the first ones of each."""
    by_relation: dict[str, list[Row]] = {}
    for row in rows:
        by_relation.setdefault(row["relation"], []).append(row)
    turns = [row for rank in range(count) for own in by_relation.values() for row in own[rank:][:1]]
    return sorted(turns[:count], key=lambda row: list(by_relation).index(row["relation"]))
