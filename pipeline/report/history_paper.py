"""What the paper has on the same data as results of the history, and what differs."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.history.results import Result
from pipeline.report.beside import METHODS, Ours, difference_lines, paper_rows
from pipeline.report.paper import (
    TABLE_1,
    TABLE_1_SOURCE,
    TABLE_3,
    paper_name,
    published_models,
    table_1_spread,
)
from pipeline.report.paper_tasks import TABLES, paper_cells, published_of, task_differences
from pipeline.report.tables import percent_and_std

# What `paper_records` tells beside the columns of `history_table.records`.
PAPER_COLUMNS = ("called", "table", "status")


@dataclass(frozen=True)
class Beside:
    """The paper's rows that may stand under ours.

    Attributes:
        rows: model, facts, method -> cell.
        notes: what differs, and what is doubtful.
    """

    rows: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def methods(self) -> set[str]:
        """Those with a cell."""
        return {method for _, _, cells in self.rows for method, cell in cells.items() if cell}


def beside_results(own: Sequence[Result]) -> Beside:
    """Return what the paper has on the same facts as one model's results; notes, if nothing."""
    rows, notes = [], []
    lama = [result for result in own if result.benchmark == "lama"]
    subset = lama[0].params.get("lama.subset") if lama else None
    if own[0].source == "geonames":
        notes.append(
            "geonames is made from GeoNames: it is neither LAMA nor SuperGLUE, and its scores "
            "are not to be held against the paper's."
        )
    elif lama and own[0].source == "lama" and subset in TABLE_3:
        ours = Ours("", own[0].model, lama[0].relations, 0, {})
        rows += published_rows(subset, own[0].model)
        notes += difference_lines(subset, [ours])
    elif own[0].source is None or lama:
        notes.append("Which facts these are is not known: no row of the paper stands beside them.")
    tasks = [r for r in own if r.benchmark == "superglue" and r.source == "superglue"]
    protocol = _protocol(own)
    if tasks and protocol is not None:
        for task in dict.fromkeys(result.task for result in tasks):
            rows += _task_rows(protocol, own[0].model, task)
        notes += [f"The paper's rows of SuperGLUE: {TABLES[protocol][0]}."]
        notes += task_differences(protocol, own[0].model)
    if any(map(_is_table_1, own)):
        cells = {
            method: percent_and_std(values["test/p_at_1"], values["test/p_at_1_std"])
            for method, values in table_1_spread().items()
        }
        rows.append(("BERT-base, Table 1 (stability)", "", cells))
        notes.append(TABLE_1_SOURCE)
    return Beside(rows, notes)


def published_rows(subset: str, ours: str | None) -> list[tuple[str, str, dict[str, str]]]:
    """Return the rows of Table 3: that of our own model, or all if the paper does not have it."""
    models = published_models(subset)
    same = paper_name(ours) if ours is not None else None
    shown = [same] if same in models else models
    return [
        (name, facts, dict(zip(METHODS, cells, strict=True)))
        for name, _, facts, *cells in paper_rows(subset, shown, METHODS)
    ]


def _protocol(results: Iterable[Result]) -> str | None:
    """Return the protocol of the first results on SuperGLUE itself, if the paper has a table."""
    for result in results:
        name = result.params.get("superglue.protocol")
        if result.benchmark == "superglue" and result.source == "superglue" and name in TABLES:
            return name
    return None


def _task_rows(protocol: str, model: str, task: str) -> list[tuple[str, str, dict[str, str]]]:
    """Return a row for each of the paper's models, on one task."""
    rows: dict[str, dict[str, str]] = {}
    for row in published_of(protocol, model):
        (rows.setdefault(row.model, {})[row.method],) = paper_cells(row, [task])
    return [(f"{task}, {name}", "", cells) for name, cells in rows.items()]


def _is_table_1(result: Result) -> bool:
    """Tell whether these are LAMA's facts of P17 under the four templates of Table 1."""
    return (
        result.benchmark == "stability"
        and result.source == "lama"
        and result.params.get("lama.stability.templates") == "table-1"
        and result.params.get("lama.stability.relations") == "['P17']"
        and result.metrics.get("test/templates") == len(TABLE_1)
    )


def paper_records(results: Sequence[Result]) -> list[dict[str, Any]]:
    """Return the paper's figures that belong beside results, under the names of `records`."""
    found = [
        {
            "model": model,
            "benchmark": "lama",
            "method": column.method,
            "source": "lama",
            "data": f"lama {subset}",
            "test_score": None if value is None else round(value / 100, 4),
            "called": column.called,
            "table": column.table,
            "status": column.status,
        }
        for subset in subsets_of(results)
        for column in TABLE_3[subset]
        for model, value in column.p_at_1.items()
    ]
    found += [
        {
            "model": row.model,
            "benchmark": "superglue",
            "task": task,
            "method": row.method,
            "source": "superglue",
            "data": TABLES[protocol][0],
            "test_score": round(row.score(task), 4),
            "test_score_std": row.std(task),
            "called": row.called,
            "table": f"v2, {TABLES[protocol][0].partition(',')[0]}",
            "status": "verified",
        }
        for protocol, task in _tasks_of(results)
        for row in TABLES[protocol][1]
    ]
    if any(map(_is_table_1, results)):
        found += [
            {
                "model": "BERT-base",
                "benchmark": "stability",
                "method": method,
                "source": "lama",
                "test_score": values["test/p_at_1"],
                "test_score_std": values["test/p_at_1_std"],
                "table": "v2, Table 1",
                "status": "verified",
            }
            for method, values in table_1_spread().items()
        ]
    return found


def _tasks_of(results: Sequence[Result]) -> list[tuple[str, str]]:
    """Return protocol and task of results on SuperGLUE itself, one protocol of each table."""
    found: dict[tuple[str, str], tuple[str, str]] = {}
    for result in results:
        protocol = _protocol([result])
        if protocol is not None:
            found.setdefault((TABLES[protocol][0], result.task), (protocol, result.task))
    return list(found.values())


def subsets_of(results: Iterable[Result]) -> list[str]:
    """Return the halves of Table 3 that belong to results of knowledge probing.

    Facts that are not LAMA's have no subset; the paper's whole LAMA is shown for them.
    """
    found = {
        result.params.get("lama.subset") if result.source == "lama" else "34k"
        for result in results
        if result.benchmark == "lama"
    }
    return [subset for subset in TABLE_3 if subset in found]
