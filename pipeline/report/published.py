"""The paper's figures as rows of the table of scores, with what is known against them.

The figures are in `published.yaml`, in percent as printed.
"""

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from pipeline.report.scores import Score, scores_of

_PAPER: dict[str, Any] = YAML(typ="safe").load(Path(__file__).with_name("published.yaml"))
_LAMA, _GLUE = _PAPER["lama"], _PAPER["superglue"]

RELATIONS: int = _LAMA["relations"]
SUBSETS: tuple[str, ...] = tuple(_LAMA["subsets"])
PROTOCOLS: tuple[str, ...] = tuple(_GLUE["protocols"])
TABLE_1: dict[str, list[float]] = _PAPER["stability"]["templates"]
TABLE_1_SOURCE: str = _PAPER["stability"]["source"]


@dataclass(frozen=True)
class Published:
    """One number of the paper.

    Attributes:
        score: the number; its origin is the model with its size.
        model: name in the paper.
        hub: name of the model on the Hugging Face hub; None if it cannot be read here.
        called: the method's name in the paper.
        status: `verified` or `recalled`.
    """

    score: Score
    model: str
    hub: str | None
    called: str
    table: str
    status: str
    data: str


def lama_rows(subset: str) -> list[Published]:
    """Return a subset's half of Table 3, in the order of its models."""
    rows = []
    for model, about in _LAMA["models"].items():
        for column in _LAMA["subsets"][subset]["columns"]:
            if model in column["p_at_1"]:
                value = column["p_at_1"][model]
                notes = [column["called"]] * (column["method"] == "discrete")
                notes += [column["status"]] * (column["status"] != "verified")
                score = Score(
                    "lama", "", column["method"], "test", "p_at_1",
                    None if value is None else value / 100,
                    origin=" ".join(filter(None, (model, about["size"]))), note=", ".join(notes),
                )  # fmt: skip
                names = (column["called"], column["table"], column["status"])
                rows.append(Published(score, model, about["hub"], *names, f"lama {subset}"))
    return rows


def lama_scores(subset: str, model: str) -> dict[str, float]:
    """Return method -> P@1 of a model of the hub in a subset's half of Table 3."""
    name = paper_name(model)
    rows = [row for row in lama_rows(subset) if row.model == name]
    return {row.score.method: row.score.mean for row in rows if row.score.mean is not None}


def setting_scores() -> dict[tuple[str, str], float]:
    """Return task and setting -> score of Tables 7 and 8, as `setting_name` names the settings."""
    return {
        (task, name): statistics.mean(cells) / 100
        for task, of in _GLUE["settings"].items()
        for name, cells in of.items()
    }


def fact_count(subset: str) -> str:
    """Return the number of facts of a subset, as the tables show it."""
    return str(_LAMA["subsets"][subset]["facts"])


def task_rows(protocol: str) -> list[Published]:
    """Return the table of a protocol, one row for each model, method and task.

    A standard deviation is published for tasks with one metric.
    """
    table = _table(protocol)
    status = table.get("status", "verified")
    note = "" if status == "verified" else status
    rows = []
    for row in table["rows"]:
        for task, cells in table["columns"].items():
            if None in [row["figures"][cell] for cell in cells]:
                continue
            std = row["stds"][cells[0]] / 100 if "stds" in row and len(cells) == 1 else None
            mean = statistics.mean(row["figures"][cell] for cell in cells) / 100
            score = Score(
                "superglue", task, row["method"], "test", "score", mean, std,
                origin=row["model"], note=note,
            )  # fmt: skip
            source = f"v2, {table['name'].partition(',')[0]}"
            names = (row["called"], source, status, table["name"])
            rows.append(Published(score, row["model"], row["hub"], *names))
    return rows


def has_table(source: str, protocol: str) -> bool:
    """Return whether the paper has a table of a source's tasks under a protocol."""
    return source in ("superglue", "glue") and (source == "glue") == (protocol == "lm-bff")


def table_name(protocol: str) -> str:
    """Return the name of the paper's table that belongs to a protocol."""
    return str(_table(protocol)["name"])


def table_1_metrics() -> dict[str, dict[str, float]]:
    """Return method -> spread of its column of Table 1, under the keys of a metrics file."""
    columns = zip(*TABLE_1.values(), strict=True)
    return {
        method: {
            "test/relations": 1,
            "test/templates": len(column),
            "test/p_at_1": statistics.mean(column) / 100,
            "test/p_at_1_worst": min(column) / 100,
            "test/p_at_1_best": max(column) / 100,
            "test/p_at_1_std": statistics.stdev(column) / 100,
        }
        for method, column in zip(("manual", "p-tuning"), columns, strict=True)
    }


def table_1_rows() -> list[Published]:
    """Return the means of Table 1."""
    origin = "BERT-base, Table 1 (stability)"
    names = ("BERT-base", "bert-base-cased", "", "v2, Table 1", "verified", "")
    return [
        Published(score, *names)
        for method, values in table_1_metrics().items()
        for score in scores_of(values, "stability", "", method, origin=origin)
    ]


def for_model(rows: Sequence[Published], model: str) -> list[Published]:
    """Return the rows of a model of the hub; all rows if the paper has none of it."""
    return [row for row in rows if row.hub == _hub_name(model)] or list(rows)


def paper_name(model: str) -> str | None:
    """Return what the paper calls a model of the hub; None if Table 3 does not have it."""
    models = _LAMA["models"].items()
    return next((name for name, about in models if about["hub"] == _hub_name(model)), None)


def lama_doubts(subset: str) -> list[str]:
    """Return what is known against a subset's half of Table 3."""
    return list(_LAMA["subsets"][subset]["doubts"])


def lama_differences(
    subset: str, models: Iterable[str], *, fewer: bool, named: Callable[[str], str] = str
) -> list[str]:
    """Return how our rows of some models differ from the paper's, and what is doubtful.

    `fewer`: one of our rows is about fewer relations than the paper's. `named` formats the name of
    a model.
    """
    columns = [
        f"`{column['method']}`: {column['called']} ({column['table']}, {column['status']})"
        for column in _LAMA["subsets"][subset]["columns"]
    ]
    return [
        *(
            _difference(named(m), paper_name(m), "of the paper: compare methods, not numbers")
            for m in dict.fromkeys(models)
        ),
        *([f"Fewer relations than the paper's {RELATIONS} give another mean."] if fewer else []),
        "An object must be one token of the model here; other facts are left out.",
        _LAMA["setting"],
        *(
            f"{name} is not reproduced: {about['reason']}"
            for name, about in _LAMA["models"].items()
            if about["hub"] is None
            and any(name in column["p_at_1"] for column in _LAMA["subsets"][subset]["columns"])
        ),
        f"The paper's columns: {'; '.join(columns)}.",
        *lama_doubts(subset),
    ]


def task_differences(protocol: str, model: str, *, named: Callable[[str], str] = str) -> list[str]:
    """Return the same for a table of tasks; `protocol` is one of `PROTOCOLS`."""
    table = _table(protocol)
    name = next((row["model"] for row in table["rows"] if row["hub"] == _hub_name(model)), None)
    return [_difference(named(model), name, "of this table: compare methods"), *table["doubts"]]


def _difference(model: str, name: str | None, other: str) -> str:
    if name is None:
        return f"{model} is not a model {other}."
    return f"{model} is the paper's {name}."


def _table(protocol: str) -> dict[str, Any]:
    table: dict[str, Any] = _GLUE["tables"][_GLUE["protocols"][protocol]]
    return table


def _hub_name(model: str) -> str:
    return model.partition("@")[0].rpartition("/")[2]
