"""Tables of what the history holds: methods beside each other, or run by run."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

from pipeline.config.schema import LamaMethod, SuperGlueMethod
from pipeline.history.results import Result
from pipeline.report.history_paper import Beside, beside_results, published_rows, subsets_of
from pipeline.report.paper import DOUBTS
from pipeline.report.tables import escaped, markdown_table, percent_and_std, relation_count
from pipeline.tasks import task_names

# In the order of the tables.
_METHODS: tuple[str, ...] = tuple(
    dict.fromkeys(
        ["manual", "fine-tuning", "classifier", *get_args(LamaMethod), *get_args(SuperGlueMethod)]
    )
)
_TASKS: tuple[str, ...] = ("lama", "stability", *task_names())

# What a benchmark's score and its number of test examples are called in a metrics file.
_SCORES = {"lama": "p_at_1", "stability": "p_at_1", "superglue": "score"}
_COUNTS = {"lama": "test/facts", "superglue": "test/examples"}

# Of `records`.
COLUMNS = (
    "run", "date", "model", "benchmark", "task", "method", "source", "data", "splits",
    "test_score", "test_score_std", "dev_score", "dev_score_std", "test_examples", "relations",
    "trainings", "train_seconds", "evaluate_seconds", "hardware", "experiment", "restored",
    "commit", "changed",
)  # fmt: skip


@dataclass(frozen=True)
class Table:
    """Results of one model on the same kind of data, as text.

    Attributes:
        title: the model and the data.
        columns: their names.
        rows: as many cells each as there are columns.
        paper: rows of the paper, to stand beneath, apart from ours.
        notes: what a reader has to know.
    """

    title: str
    columns: list[str]
    rows: list[list[str]]
    paper: list[list[str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def method_tables(results: Sequence[Result], *, paper: bool = False) -> list[Table]:
    """Return a table of scores for each model and data: a row a task, a column a method.

    Args:
        results: the newest first, at most one for each model, data, task and method.
        paper: whether the paper's rows stand beneath. Under facts that are not LAMA's they have a
            table of their own.
    """
    tables = []
    for own in _groups(results):
        beside = beside_results(own) if paper else Beside()
        tables.append(_by_method(own, _test_score, beside, _notes(own)))
    return tables + (_apart(results) if paper else [])


def cost_tables(results: Sequence[Result]) -> list[Table]:
    """Return tables as `method_tables` does, of minutes in place of scores."""
    return [_by_method(own, _minutes, Beside(), _cost_notes(own)) for own in _groups(results)]


def run_tables(results: Sequence[Result], *, paper: bool = False) -> list[Table]:
    """Return a table for each model and data, a row a run; as `method_tables` else."""
    tables = []
    for own in _groups(results):
        names = _names(own)
        rows = [
            [
                result.ended.date().isoformat(),
                names[result.run_id],
                result.method,
                _score(result, "test"),
                _score(result, "dev"),
                _count(result),
                _minutes(result),
                result.run_id[:8],
            ]
            for result in own
        ]
        columns = ["date", "task", "method", "test", "dev", "test n", "min", "run"]
        beside = beside_results(own) if paper else Beside()
        if not beside.rows:
            tables.append(Table(_title(own), columns, rows, notes=[*_notes(own), *beside.notes]))
            continue
        tables.append(Table(_title(own), columns, rows, notes=_notes(own)))
        tables.append(_paper_alone(f"The paper, beside {_title(own)}", beside))
    return tables + (_apart(results) if paper else [])


def markdown(tables: Iterable[Table]) -> str:
    """Return tables as Markdown, each under its title."""
    return "\n".join("\n".join(_markdown_parts(table)) for table in tables)


def _markdown_parts(table: Table) -> list[str]:
    paper = [[f"paper: {name}", *cells] for name, *cells in table.paper]
    rows = [list(map(escaped, row)) for row in [*table.rows, *paper]]
    return [
        f"### {escaped(table.title)}\n",
        *([markdown_table(table.columns, rows)] if rows else []),
        *(["".join(f"- {escaped(note)}\n" for note in table.notes)] if table.notes else []),
    ]


def records(results: Iterable[Result]) -> list[dict[str, Any]]:
    """Return results as plain values, scores as shares of 1; None where there is no number."""
    return [dict(zip(COLUMNS, _values(result), strict=True)) for result in results]


def _values(result: Result) -> tuple[Any, ...]:
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
        _metric(result, "test"),
        _metric(result, "test", "_std"),
        _metric(result, "dev"),
        _metric(result, "dev", "_std"),
        _whole(result, _COUNTS.get(result.benchmark, "")),
        result.relations or _whole(result, "test/relations"),
        _whole(result, "test/trainings"),
        result.seconds.get("train"),
        result.seconds.get("evaluate"),
        result.tags.get("hardware"),
        result.tags.get("dvc.experiment"),
        result.restored,
        result.tags.get("mlflow.source.git.commit"),
        {"true": True, "false": False}.get(result.tags.get("git.dirty", "")),
    )


def paper_doubts(results: Sequence[Result]) -> list[str]:
    """Return what is known against comparing results with the paper's figures."""
    notes = [note for own in _groups(results) for note in beside_results(own).notes]
    return list(dict.fromkeys([*notes, *(n for table in _apart(results) for n in table.notes)]))


def _groups(results: Iterable[Result]) -> list[list[Result]]:
    """Gather what one model did on the same kind of data, in the order of the newest of each."""
    groups: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        groups.setdefault((result.model, result.data), []).append(result)
    return list(groups.values())


def _title(own: Sequence[Result]) -> str:
    return f"{own[0].model} on {own[0].data}"


def _by_method(
    own: Sequence[Result], shown: Callable[[Result], str], beside: Beside, notes: list[str]
) -> Table:
    methods = _sorted_methods({*(result.method for result in own), *beside.methods})
    names = _names(own)
    rows: dict[tuple[str, ...], list[Result]] = {}
    for result in sorted(own, key=lambda result: _place(_TASKS)(result.name)):
        rows.setdefault((result.name, *result.contents.values()), []).append(result)
    # A column of dates only where they differ: the width is the methods'.
    same = len(set(map(_dates, rows.values()))) == 1
    return Table(
        title=_title(own) + (f", {_dates(own)}" if same else ""),
        columns=["task", "test n", *([] if same else ["date"]), *methods],
        rows=[
            [
                names[row[0].run_id],
                " / ".join(dict.fromkeys(map(_count, row))),
                *([] if same else [_dates(row)]),
                *_cells({result.method: shown(result) for result in row}, methods),
            ]
            for row in rows.values()
        ],
        paper=[
            [name, facts, *([] if same else [""]), *_cells(cells, methods)]
            for name, facts, cells in beside.rows
        ],
        notes=[*notes, *beside.notes],
    )


def _sorted_methods(methods: Iterable[str]) -> list[str]:
    return sorted(set(methods), key=_place(_METHODS))


def _place(order: Sequence[str]) -> Callable[[str], int]:
    """Return what sorts names in this order; a name that it lacks comes last."""
    return lambda name: order.index(name) if name in order else len(order)


def _cells(cells: Mapping[str, str], methods: Iterable[str]) -> list[str]:
    return [cells.get(method, "") for method in methods]


def _names(own: Iterable[Result]) -> dict[str, str]:
    """Return run -> task, with the contents that tell it from the same task on other contents."""
    values: dict[tuple[str, str], set[str]] = {}
    for result in own:
        for part, value in result.contents.items():
            values.setdefault((result.name, part), set()).add(value)
    names = {}
    for result in own:
        several = [
            f"{part} {value[:7]}"
            for part, value in result.contents.items()
            if len(values[result.name, part]) > 1
        ]
        names[result.run_id] = result.name + (f" ({', '.join(several)})" if several else "")
    return names


def _metric(result: Result, split: str, suffix: str = "") -> float | None:
    return result.metrics.get(f"{split}/{_SCORES.get(result.benchmark)}{suffix}")


def _score(result: Result, split: str) -> str:
    return percent_and_std(_metric(result, split), _metric(result, split, "_std"))


def _test_score(result: Result) -> str:
    return _score(result, "test")


def _minutes(result: Result) -> str:
    """Return what training and evaluation took together; nothing where either is unknown."""
    return f"{sum(result.seconds.values()) / 60:.1f}" if len(result.seconds) == 2 else ""


def _cost_notes(own: Sequence[Result]) -> list[str]:
    machines = dict.fromkeys(result.tags.get("hardware", "a machine unknown") for result in own)
    unknown = sum(not _minutes(result) for result in own)
    return [
        f"Minutes of training and evaluation together, loading included; on {_listed(machines)}.",
        *([f"Not known of {unknown} of {len(own)}."] if unknown else []),
    ]


def _whole(result: Result, key: str) -> int | None:
    value = result.metrics.get(key)
    return None if value is None else int(value)


def _count(result: Result) -> str:
    count = _whole(result, _COUNTS.get(result.benchmark, ""))
    return "" if count is None else str(count)


def _dates(row: Sequence[Result]) -> str:
    days = sorted({result.ended.date().isoformat() for result in row})
    return days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"


def _notes(own: Sequence[Result]) -> list[str]:
    """Return what a reader of our rows has to know."""
    relations = sorted({result.relations for result in own if result.benchmark == "lama"})
    trainings = sorted({count for r in own if (count := _whole(r, "test/trainings") or 1) > 1})
    templates = {
        (_whole(r, "test/relations") or 0, _whole(r, "test/templates") or 0)
        for r in own
        if r.benchmark == "stability"
    }
    notes = []
    for number in relations:
        asked = relation_count(own[0].source or "", number)
        notes.append(f"lama: P@1 in percent, the mean of {asked}.")
    if trainings:
        notes.append(
            f"±: standard deviation (n - 1) over {_listed(trainings)} trainings; over settings, "
            "where several were evaluated."
        )
    for number, several in sorted(templates):
        notes.append(
            f"stability: mean ± standard deviation of P@1 over templates ({several} of "
            f"{relation_count('', number)})."
        )
    if any(result.restored for result in own):
        notes.append("Some runs were restored by `ptune sync`; their dates are those of that call.")
    if own[0].source is None:
        notes.append(
            "These were evaluated outside DVC, so nothing says which data they are about: each "
            "stands alone."
        )
    return notes


def _listed(values: Iterable[object]) -> str:
    return " or ".join(map(str, values))


def _apart(results: Sequence[Result]) -> list[Table]:
    """Return the paper's rows in tables of their own, for facts that are not LAMA's."""
    notes = ["P@1 in percent, for orientation alone."]
    return [
        _paper_alone(
            f"The paper's Table 3, on LAMA {subset}: other facts, other models",
            Beside(published_rows(subset, None), [*notes, *DOUBTS[subset]]),
        )
        for subset in subsets_of(result for result in results if result.source != "lama")
    ]


def _paper_alone(title: str, beside: Beside) -> Table:
    methods = _sorted_methods(beside.methods)
    rows = [[name, facts, *_cells(cells, methods)] for name, facts, cells in beside.rows]
    return Table(title, ["model", "facts", *methods], [], rows, beside.notes)
