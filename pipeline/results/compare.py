"""Tables of the evaluations in the history, and the paper's figures on the same data."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, get_args

from pipeline.config.schema import LamaMethod, SuperGlueMethod
from pipeline.history.results import Result
from pipeline.report.published import (
    PROTOCOLS,
    RELATIONS,
    SUBSETS,
    TABLE_1,
    TABLE_1_SOURCE,
    Published,
    for_model,
    lama_differences,
    lama_doubts,
    lama_published,
    published_facts,
    published_table,
    table_1_published,
    task_differences,
    tasks_published,
)
from pipeline.report.scores import COUNTS
from pipeline.report.tables import Table, pivot, relation_count
from pipeline.tasks import task_names

# In the order of the tables.
_METHODS: tuple[str, ...] = tuple(
    dict.fromkeys(
        ["manual", "fine-tuning", "classifier", *get_args(LamaMethod), *get_args(SuperGlueMethod)]
    )
)
_TASKS: tuple[str, ...] = ("lama", "stability", *task_names())

# Of `records`.
COLUMNS = (
    "run", "date", "model", "benchmark", "task", "method", "source", "data", "splits",
    "test_score", "test_score_std", "dev_score", "dev_score_std", "test_examples", "relations",
    "trainings", "train_seconds", "evaluate_seconds", "hardware", "experiment", "restored",
    "commit", "changed",
)  # fmt: skip
# What `paper_records` has in addition.
PAPER_COLUMNS = ("called", "table", "status")


@dataclass(frozen=True)
class PaperRows:
    """The paper's rows that are shown below ours.

    Attributes:
        rows: (name, number of facts) -> method -> cell.
        notes: differences, and what is doubtful.
    """

    rows: dict[tuple[str, str], dict[str, str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def method_tables(results: Sequence[Result], *, paper: bool = False) -> list[Table]:
    """Return a table of scores for each model and data: a row for a task, a column for a method.

    Args:
        results: the newest first, at most one for each model, data, task and method.
        paper: whether the paper's rows are shown below. For facts that are not LAMA's they have a
            table of their own.
    """
    tables = []
    for group in _groups(results):
        rows = paper_rows(group) if paper else PaperRows()
        tables.append(_by_method(group, _test_score, rows, _notes(group)))
    return tables + (_for_orientation(results) if paper else [])


def cost_tables(results: Sequence[Result]) -> list[Table]:
    """Return the tables of `method_tables` with minutes instead of scores."""
    return [
        _by_method(group, _minutes, PaperRows(), _cost_notes(group)) for group in _groups(results)
    ]


def run_tables(results: Sequence[Result], *, paper: bool = False) -> list[Table]:
    """Return a table for each model and data with a row for each run; `paper` as above."""
    columns = ["date", "task", "method", "test", "dev", "test n", "min", "run"]
    tables = []
    for group in _groups(results):
        names = _names(group)
        rows = [
            [
                result.ended.date().isoformat(),
                names[result.run_id],
                result.method,
                _text(result.score("test")),
                _text(result.score("dev")),
                _count(result),
                _minutes(result),
                result.run_id[:8],
            ]
            for result in group
        ]
        published = paper_rows(group) if paper else PaperRows()
        table = Table(_title(group), columns, rows, notes=_notes(group))
        if published.rows:
            tables += [table, _paper_table(f"The paper's figures for {_title(group)}", published)]
        else:
            tables.append(replace(table, notes=[*table.notes, *published.notes]))
    return tables + (_for_orientation(results) if paper else [])


def records(results: Iterable[Result]) -> list[dict[str, Any]]:
    """Return results as plain values, scores as shares of 1; None where there is no number."""
    return [dict(zip(COLUMNS, _values(result), strict=True)) for result in results]


def _values(result: Result) -> tuple[Any, ...]:
    test, dev = result.score("test"), result.score("dev")
    return (
        result.run_id,
        result.ended.date().isoformat(),
        result.model,
        result.benchmark,
        result.task,
        result.method,
        result.source,
        result.data,
        result.contents.get("splits"),
        *((test.mean, test.std) if test else (None, None)),
        *((dev.mean, dev.std) if dev else (None, None)),
        result.count(f"test/{COUNTS.get(result.benchmark)}"),
        result.relations or result.count("test/relations"),
        result.count("test/trainings"),
        result.seconds.get("train"),
        result.seconds.get("evaluate"),
        result.tags.get("hardware"),
        result.tags.get("dvc.experiment"),
        result.restored,
        result.tags.get("mlflow.source.git.commit"),
        {"true": True, "false": False}.get(result.tags.get("git.dirty", "")),
    )


def _groups(results: Iterable[Result]) -> list[list[Result]]:
    """Group results by model and data, in the order of the newest of each."""
    groups: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        groups.setdefault((result.model, result.data), []).append(result)
    return list(groups.values())


def _title(group: Sequence[Result]) -> str:
    return f"{group[0].model} on {group[0].data}"


def _by_method(
    group: Sequence[Result], cell: Callable[[Result], str], paper: PaperRows, notes: list[str]
) -> Table:
    published = {method for cells in paper.rows.values() for method in cells}
    methods = _sorted_methods({*(result.method for result in group), *published})
    names = _names(group)
    rows: dict[tuple[str, ...], list[Result]] = {}
    for result in sorted(group, key=lambda result: _place(_TASKS)(result.name)):
        rows.setdefault((result.name, *result.contents.values()), []).append(result)
    # A column of dates only where they differ, to leave room for the methods.
    same = len(set(map(_dates, rows.values()))) == 1
    return Table(
        title=_title(group) + (f", {_dates(group)}" if same else ""),
        columns=["task", "test n", *([] if same else ["date"]), *methods],
        rows=[
            [
                names[row[0].run_id],
                " / ".join(dict.fromkeys(map(_count, row))),
                *([] if same else [_dates(row)]),
                *_cells({result.method: cell(result) for result in row}, methods),
            ]
            for row in rows.values()
        ],
        paper=[
            [name, facts, *([] if same else [""]), *_cells(cells, methods)]
            for (name, facts), cells in paper.rows.items()
        ],
        notes=[*notes, *paper.notes],
    )


def _sorted_methods(methods: Iterable[str]) -> list[str]:
    return sorted(set(methods), key=_place(_METHODS))


def _place(order: Sequence[str]) -> Callable[[str], int]:
    """Return a key that sorts names in this order; unknown names are last."""
    return lambda name: order.index(name) if name in order else len(order)


def _cells(cells: Mapping[str, str], methods: Iterable[str]) -> list[str]:
    return [cells.get(method, "") for method in methods]


def _names(group: Iterable[Result]) -> dict[str, str]:
    """Return run -> task, with hashes where the same task was run on different contents."""
    values: dict[tuple[str, str], set[str]] = {}
    for result in group:
        for part, value in result.contents.items():
            values.setdefault((result.name, part), set()).add(value)
    names = {}
    for result in group:
        several = [
            f"{part} {value[:7]}"
            for part, value in result.contents.items()
            if len(values[result.name, part]) > 1
        ]
        names[result.run_id] = result.name + (f" ({', '.join(several)})" if several else "")
    return names


def _text(value: object) -> str:
    return "" if value is None else str(value)


def _test_score(result: Result) -> str:
    return _text(result.score("test"))


def _count(result: Result) -> str:
    return _text(result.count(f"test/{COUNTS.get(result.benchmark)}"))


def _minutes(result: Result) -> str:
    """Return the minutes of training and evaluation together; '' if either is unknown."""
    return f"{sum(result.seconds.values()) / 60:.1f}" if len(result.seconds) == 2 else ""


def _cost_notes(group: Sequence[Result]) -> list[str]:
    machines = dict.fromkeys(result.tags.get("hardware", "an unknown machine") for result in group)
    unknown = sum(not _minutes(result) for result in group)
    return [
        f"Minutes of training and evaluation together, loading included; on {_listed(machines)}.",
        *([f"Unknown for {unknown} of {len(group)}."] if unknown else []),
    ]


def _dates(row: Sequence[Result]) -> str:
    days = sorted({result.ended.date().isoformat() for result in row})
    return days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"


def _notes(group: Sequence[Result]) -> list[str]:
    """Return what a reader of our rows has to know."""
    source = group[0].source
    relations = sorted({result.relations for result in group if result.benchmark == "lama"})
    trainings = sorted({r.count("test/trainings") or 1 for r in group if _spread_over_runs(r)})
    templates = {
        (result.count("test/relations") or 0, result.count("test/templates") or 0)
        for result in group
        if result.benchmark == "stability"
    }
    notes = [
        f"lama: P@1 in percent, the mean of {relation_count(source or '', number)}."
        for number in relations
    ]
    if trainings:
        notes.append(
            f"±: standard deviation (n - 1) over {_listed(trainings)} trainings; over settings, "
            "where several were evaluated."
        )
    notes += [
        f"stability: mean ± standard deviation of P@1 over templates ({several} of "
        f"{relation_count('', number)})."
        for number, several in sorted(templates)
    ]
    if any(result.restored for result in group):
        notes.append("Some runs were restored by `ptune sync`; their dates are those of that call.")
    if source is None:
        notes.append("Evaluated outside DVC: the data are unknown, so each run has its own row.")
    return notes


def _spread_over_runs(result: Result) -> bool:
    score = result.score("test")
    return result.benchmark != "stability" and score is not None and score.std is not None


def _listed(values: Iterable[object]) -> str:
    return " or ".join(map(str, values))


def paper_rows(group: Sequence[Result]) -> PaperRows:
    """Return the paper's rows on the same data as the results of one model, and the differences."""
    rows: list[Published] = []
    notes: list[str] = []
    source, model = group[0].source, group[0].model
    lama = [result for result in group if result.benchmark == "lama"]
    subset = lama[0].params.get("lama.subset") if lama else None
    if source == "geonames":
        notes.append(
            "geonames is generated from GeoNames: it is neither LAMA nor SuperGLUE, and its "
            "scores cannot be compared with the paper's."
        )
    elif lama and source == "lama" and subset in SUBSETS:
        rows += for_model(lama_published(subset), model)
        notes += lama_differences(subset, [model], fewer=lama[0].relations != RELATIONS)
    elif source is None or lama:
        notes.append("The facts are unknown, so no row of the paper is shown.")
    protocol = next(filter(None, map(_protocol, group)), None)
    if protocol is not None:
        published = for_model(tasks_published(protocol), model)
        for task in dict.fromkeys(result.task for result in group if _protocol(result)):
            rows += [row for row in published if row.score.task == task]
        notes += [f"The paper's rows of SuperGLUE: {published_table(protocol)}."]
        notes += task_differences(protocol, model)
    if any(map(_is_table_1, group)):
        rows += table_1_published()
        notes.append(TABLE_1_SOURCE)
    return PaperRows(_published_rows(rows), notes)


def _published_rows(rows: Iterable[Published]) -> dict[tuple[str, str], dict[str, str]]:
    """Return (name, number of facts) -> method -> cell."""
    names = {}
    for row in rows:
        name, facts = row.score.origin, ""
        if row.score.benchmark == "lama":
            facts = published_facts(row.data.removeprefix("lama "))
        elif row.score.task:
            name = f"{row.score.task}, {name}"
        names[row.score] = (name, facts)
    return pivot(names, lambda score: names[score], lambda score: score.method)


def _protocol(result: Result) -> str | None:
    """Return the protocol of a result on SuperGLUE itself, if the paper has a table of it."""
    name = result.params.get("superglue.protocol")
    official = (result.benchmark, result.source) == ("superglue", "superglue")
    return name if official and name in PROTOCOLS else None


def _is_table_1(result: Result) -> bool:
    """Return whether this is about LAMA's facts of P17 under the four templates of Table 1."""
    return (
        (result.benchmark, result.source) == ("stability", "lama")
        and result.params.get("lama.stability.templates") == "table-1"
        and result.params.get("lama.stability.relations") == "['P17']"
        and result.metrics.get("test/templates") == len(TABLE_1)
    )


def paper_records(results: Sequence[Result]) -> list[dict[str, Any]]:
    """Return the paper's figures that belong to results, under the names of `records`."""
    rows = [row for subset in _subsets(results) for row in lama_published(subset)]
    tasks: dict[tuple[str, str], str] = {}
    for result in results:
        protocol = _protocol(result)
        if protocol is not None:
            tasks.setdefault((published_table(protocol), result.task), protocol)
    for (_, task), protocol in tasks.items():
        rows += [row for row in tasks_published(protocol) if row.score.task == task]
    rows += table_1_published() if any(map(_is_table_1, results)) else []
    return [
        {
            "model": row.model,
            "benchmark": row.score.benchmark,
            "task": row.score.task,
            "method": row.score.method,
            "source": "superglue" if row.score.benchmark == "superglue" else "lama",
            "data": row.data,
            "test_score": None if row.score.mean is None else round(row.score.mean, 4),
            "test_score_std": row.score.std,
            "called": row.called,
            "table": row.table,
            "status": row.status,
        }
        for row in rows
    ]


def paper_doubts(results: Sequence[Result]) -> list[str]:
    """Return what is known against comparing results with the paper's figures."""
    notes = [note for group in _groups(results) for note in paper_rows(group).notes]
    notes += [note for table in _for_orientation(results) for note in table.notes]
    return list(dict.fromkeys(notes))


def _subsets(results: Iterable[Result]) -> list[str]:
    """Return the halves of Table 3 that belong to results of knowledge probing.

    Facts that are not LAMA's have no subset; the paper's whole LAMA is shown for them.
    """
    subsets = {
        result.params.get("lama.subset") if result.source == "lama" else "34k"
        for result in results
        if result.benchmark == "lama"
    }
    return [subset for subset in SUBSETS if subset in subsets]


def _for_orientation(results: Sequence[Result]) -> list[Table]:
    """Return the paper's rows in tables of their own, for facts that are not LAMA's."""
    notes = ["P@1 in percent, for orientation only."]
    return [
        _paper_table(
            f"The paper's Table 3, on LAMA {subset}: other facts, other models",
            PaperRows(_published_rows(lama_published(subset)), [*notes, *lama_doubts(subset)]),
        )
        for subset in _subsets(result for result in results if result.source != "lama")
    ]


def _paper_table(title: str, paper: PaperRows) -> Table:
    methods = _sorted_methods(method for cells in paper.rows.values() for method in cells)
    rows = [[name, facts, *_cells(cells, methods)] for (name, facts), cells in paper.rows.items()]
    return Table(title, ["model", "facts", *methods], [], rows, paper.notes)
