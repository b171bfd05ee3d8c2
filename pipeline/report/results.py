"""Gather what was evaluated into plain rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.files import read_csv, read_json, read_jsonl

Row = dict[str, Any]


@dataclass(frozen=True)
class LamaResults:
    """Knowledge probing.

    Attributes:
        methods: method -> its metrics file.
        relations: one row a relation: `relation`, `label`, `facts`, `left_out`,
            `majority`, and P@1 under each method's name.
        curves: one row a method, relation and epoch: `method`, `relation`, `epoch`, `dev_p_at_1`.
        answers: rows `relation`, `subject`, `object`, and the answer under each method's name.
    """

    methods: dict[str, Row]
    relations: list[Row]
    curves: list[Row]
    answers: list[Row]


@dataclass(frozen=True)
class TaskResults:
    """One SuperGLUE task: method -> its metrics file, and curves as in `LamaResults`."""

    task: str
    methods: dict[str, Row]
    curves: list[Row]


def read_lama_results(
    methods: Sequence[str], *, metrics: Path, curves: Path, evaluation: Path, answers: int
) -> LamaResults:
    """Read the files of the named methods.

    Args:
        methods: in the order of the report.
        metrics: folder of `lama/<method>.json`.
        curves: folder of `lama/<method>.csv`.
        evaluation: folder of `lama/<method>/{relations,controls}.csv` and `predictions`.
        answers: how many facts to show, spread over the relations.

    Raises:
        DataError: a file is missing.
    """
    relations: dict[str, Row] = {}
    shown: dict[tuple[str, str, str], Row] = {}
    for method in methods:
        folder = evaluation / "lama" / method
        for score, control in zip(
            read_csv(folder / "relations.csv"), read_csv(folder / "controls.csv"), strict=True
        ):
            row = relations.setdefault(
                score["relation"],
                {
                    "relation": score["relation"],
                    "label": control["label"],
                    "facts": int(score["facts"]),
                    "left_out": int(control["left_out"]),
                    "majority": float(control["majority"]),
                },
            )
            row[method] = float(score["p_at_1"])
        if answers:
            for record in read_jsonl(folder / "predictions" / "predictions.jsonl"):
                key = (record["relation"], record["subject"], record["object"])
                fact = dict(zip(("relation", "subject", "object"), key, strict=True))
                shown.setdefault(key, fact)[method] = record["answer"]
    return LamaResults(
        methods={method: read_json(metrics / "lama" / f"{method}.json") for method in methods},
        relations=list(relations.values()),
        curves=[
            _point(row, method)
            for method in methods
            for row in read_csv(curves / "lama" / f"{method}.csv")
        ],
        answers=_spread(list(shown.values()), answers),
    )


def read_task_results(
    task: str, methods: Sequence[str], *, metrics: Path, curves: Path
) -> TaskResults:
    """Read the files of the named methods for one task.

    Raises:
        DataError: a file is missing.
    """
    folder = Path("superglue", task)
    return TaskResults(
        task=task,
        methods={method: read_json(metrics / folder / f"{method}.json") for method in methods},
        curves=[
            _point(row, method)
            for method in methods
            for row in read_csv(curves / folder / f"{method}.csv")
        ],
    )


def _point(row: dict[str, str], method: str) -> Row:
    numbers = {key: float(row[key]) for key in row if key.startswith("dev_")}
    names = {key: value for key, value in row.items() if key in ("relation", "task")}
    return {"method": method, "epoch": int(row["epoch"]), **names, **numbers}


def _spread(rows: list[Row], count: int) -> list[Row]:
    """Take rows from every relation in turn, the first ones of each."""
    by_relation: dict[str, list[Row]] = {}
    for row in rows:
        by_relation.setdefault(row["relation"], []).append(row)
    turns = [row for rank in range(count) for own in by_relation.values() for row in own[rank:][:1]]
    return sorted(turns[:count], key=lambda row: list(by_relation).index(row["relation"]))
