"""Tables of the evaluations in the history, and the paper's figures on the same data."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal, get_args

from pipeline.config.schema import LamaMethod, SuperGlueMethod
from pipeline.history.results import Result, subject_of
from pipeline.history.summary import short_names
from pipeline.report import published
from pipeline.report.published import Published
from pipeline.report.scores import COUNTS, sizes_of
from pipeline.report.significance import Answers, Comparison, compare_answers
from pipeline.report.tables import Table, pivot, relation_count
from pipeline.tasks import task_names

# In the order of the tables.
_METHODS: tuple[str, ...] = tuple(
    dict.fromkeys(
        ["manual", "fine-tuning", "classifier", *get_args(LamaMethod), *get_args(SuperGlueMethod)]
    )
)
_TASKS: tuple[str, ...] = ("lama", "stability", *task_names())
# The half of Table 3 that is shown, for orientation, with facts that are not LAMA's.
_ORIENTATION = "34k"

# Which test examples a result got right; None if its predictions are not stored.
AnswersOf = Callable[[Result], Answers | None]
# The cells of one run, or of one figure of the paper.
_Line = dict[str, str]


def result_tables(
    results: Sequence[Result],
    show: Literal["test", "min", "run"],
    *,
    paper: bool = False,
    answers_of: AnswersOf | None = None,
) -> list[Table]:
    """Return a table for each model and data, of results newest first.

    `test` and `min` show a row for a task, a column for a method, with the test score, or with the
    minutes of training and evaluation; of each method on a task, the results have one at most.
    `run` shows a row for each run. With `paper`, the paper's figures follow ours; if the facts are
    not LAMA's, they are in a separate table. With `answers_of`, the notes have paired tests between
    the methods of a row.
    """
    tables = []
    for group in groups_of(results):
        figures, differences = paper_rows(group) if paper else ([], [])
        ordered = group if show == "run" else sorted(group, key=lambda r: _place(_TASKS)(r.name))
        ours = _with_settings(group) if show == "run" else _lines(ordered)
        lines = [*ours, *(_paper_line(row, group) for row in figures)]
        notes = _cost_notes(group) if show == "min" else _notes(group)
        if answers_of is not None:
            notes += _comparison_notes(group, answers_of)
        notes += differences
        if any(line.get("now") for line in ours):
            notes.append("*: what `dvc.lock` has now.")
        title = f"{group[0].model} on {group[0].data}"
        columns = dict.fromkeys((key for line in ours for key in line), "")
        by_run = [columns | line for line in lines]
        rows = by_run if show == "run" else _by_method(lines, show, _columns(group)[0])
        tables.append(Table(title, rows, notes))
    return tables + (_for_orientation(results) if paper else [])


def compare_results(
    group: Sequence[Result], answers_of: AnswersOf
) -> Iterator[tuple[str, list[Comparison], list[str]]]:
    """Yield name of a row, its comparisons, and the methods without stored predictions.

    Rows are those of results of one model and data; stability and tasks without accuracy have no
    comparisons.
    """
    rows: dict[str, list[Result]] = {}
    for result, name in zip(group, _row_names(group), strict=True):
        if result.benchmark == "lama" or "test/accuracy" in result.metrics:
            rows.setdefault(name, []).append(result)
    for name, of in rows.items():
        if len(of) > 1:
            of.sort(key=lambda result: _place(_METHODS)(result.method))
            answers = {result.method: answers_of(result) for result in of}
            known = {method: found for method, found in answers.items() if found is not None}
            yield name, compare_answers(of[0].task, known), [m for m in answers if m not in known]


def _comparison_notes(group: Sequence[Result], answers_of: AnswersOf) -> list[str]:
    notes = []
    for name, comparisons, unknown in compare_results(group, answers_of):
        for of in comparisons:
            unit = "accuracy" if of.task else "P@1"
            difference, interval, p, test = of.cells.values()
            notes.append(
                f"{name}, {of.second} minus {of.first}: {difference} points of {unit} (95 % "
                f"interval {interval}), p {p if p.startswith('<') else f'= {p}'}, {test}."
            )
        if unknown:
            notes.append(f"{name}: no paired test; no stored predictions of {', '.join(unknown)}.")
    return notes


def record_of(result: Result) -> dict[str, Any]:
    """Return a result as plain values, scores as shares of 1; None where there is no number."""
    test, dev = result.score("test"), result.score("dev")
    return {
        "run": result.run_id,
        "date": result.ended.date().isoformat(),
        "model": result.model,
        "benchmark": result.benchmark,
        "task": result.task,
        "method": result.method,
        "source": result.source,
        "data": result.data,
        "splits": result.contents.get("splits"),
        "test_score": test and test.mean,
        "test_score_std": test and test.std,
        "dev_score": dev and dev.mean,
        "dev_score_std": dev and dev.std,
        "train_examples": result.count(f"train/{COUNTS.get(result.benchmark)}"),
        "dev_examples": result.count(f"dev/{COUNTS.get(result.benchmark)}"),
        "steps": result.metrics.get("train/steps"),
        "test_examples": result.count(f"test/{COUNTS.get(result.benchmark)}"),
        "relations": result.relations or result.count("test/relations"),
        "trainings": result.count("test/trainings"),
        "train_seconds": result.seconds.get("train"),
        "evaluate_seconds": result.seconds.get("evaluate"),
        "hardware": result.tags.get("hardware"),
        "experiment": result.tags.get("dvc.experiment"),
        "restored": result.restored,
        "commit": result.tags.get("mlflow.source.git.commit"),
        "current": result.current,
        "changed": {"true": True, "false": False}.get(result.tags.get("git.dirty", "")),
    }


def groups_of(results: Iterable[Result]) -> list[list[Result]]:
    """Group results by model and data, in the order of the newest of each."""
    groups: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        groups.setdefault((result.model, result.data), []).append(result)
    return list(groups.values())


def _row_names(group: Sequence[Result]) -> list[str]:
    """Return the name of the row of each result."""
    # Names have hashes where the same task was run on different contents.
    values: dict[tuple[str, str], set[str]] = {}
    for result in group:
        for part, value in result.contents.items():
            values.setdefault((result.name, part), set()).add(value)
    hashes = [
        ", ".join(
            f"{part} {value[:7]}"
            for part, value in result.contents.items()
            if len(values[result.name, part]) > 1
        )
        for result in group
    ]
    return [
        f"{result.name} ({several})" if several else result.name
        for result, several in zip(group, hashes, strict=True)
    ]


def _with_settings(group: Sequence[Result]) -> list[_Line]:
    """Return the lines of runs, with a mark for current ones, and the settings that differ.

    Only runs of the same task and method are compared. A column without content is left out.
    """
    settings = differing_settings(group)
    marks = [
        {
            "now": "*" if result.current else "",
            "settings": ", ".join(f"{k}={v}" for k, v in of.items()),
        }
        for result, of in zip(group, settings, strict=True)
    ]
    used = [key for key in ("now", "settings") if any(mark[key] for mark in marks)]
    return [
        {
            **{key: line[key] for key in ("date", "task", "method")},
            **{key: mark[key] for key in used},
            **line,
        }
        for line, mark in zip(_lines(group), marks, strict=True)
    ]


def differing_settings(results: Sequence[Result]) -> list[dict[str, str]]:
    """Return, for each result, the settings in which it differs from others of its task and method.

    Names are the shortest ends of the keys of `params.yaml`; `-` is a setting that is not set.
    """
    keys: dict[tuple[str, ...], list[str]] = {}
    for subject in map(subject_of, results):
        of = [result.params for result in results if subject_of(result) == subject]
        every = dict.fromkeys(key for params in of for key in params)
        keys[subject] = [key for key in every if len({params.get(key) for params in of}) > 1]
    names = {subject: short_names(of) for subject, of in keys.items()}
    return [
        {
            names[subject_of(result)][key]: result.params.get(key, "-")
            for key in keys[subject_of(result)]
        }
        for result in results
    ]


def _lines(group: Sequence[Result]) -> list[_Line]:
    title, steps = _columns(group)
    return [
        {
            "date": result.ended.date().isoformat(),
            "task": name,
            "method": result.method,
            "test": str(result.score("test") or ""),
            "dev": str(result.score("dev") or ""),
            title: sizes_of(result.metrics, COUNTS.get(result.benchmark, "")),
            **{key: _steps(result) for key in steps},
            "min": minutes_of(result),
            "run": result.run_id[:8],
        }
        for result, name in zip(group, _row_names(group), strict=True)
    ]


def _columns(group: Sequence[Result]) -> tuple[str, list[str]]:
    """Return the title of the column of sizes, and whether there is one of steps."""
    known = any("train/steps" in result.metrics for result in group)
    return ("train/dev/test", ["steps"]) if known else ("test n", [])


def _steps(result: Result) -> str:
    """Return the steps of a training, the mean of several; '' if the run has none."""
    steps = result.metrics.get("train/steps")
    return "" if steps is None else f"{steps:.0f}"


def _paper_line(row: Published, group: Sequence[Result]) -> _Line:
    score = row.score
    title, steps = _columns(group)
    keys = ("date", "task", "method", "test", "dev", title, *steps, "min", "run")
    line = dict.fromkeys(keys, "")
    task = ", ".join(filter(None, (score.task, score.origin)))
    line |= {"task": f"paper: {task}", "method": score.method, "test": str(score)}
    if score.benchmark == "lama":
        line[title] = published.fact_count(row.data.removeprefix("lama "))
    return line


def _by_method(lines: Sequence[_Line], value: str, title: str) -> list[_Line]:
    """Pivot lines: a row for each task, a column for each method."""
    cells = pivot((line["task"], line["method"], line[value]) for line in lines)
    methods = sorted({line["method"] for line in lines}, key=_place(_METHODS))
    rows: list[_Line] = []
    for task, values in cells.items():
        of = [line for line in lines if line["task"] == task]
        counts, days = dict.fromkeys(line[title] for line in of), sorted(x["date"] for x in of)
        dates = " to ".join(dict.fromkeys([days[0], days[-1]]))
        head = {"task": task, title: ", ".join(counts), "date": dates}
        rows.append(head | {method: values.get(method, "") for method in methods})
    return rows


def _place(order: Sequence[str]) -> Callable[[str], int]:
    """Return a key that sorts names in this order; unknown names are last."""
    return lambda name: order.index(name) if name in order else len(order)


def minutes_of(result: Result) -> str:
    """Return the minutes of training and evaluation together; '' if either is unknown."""
    return f"{sum(result.seconds.values()) / 60:.1f}" if len(result.seconds) == 2 else ""


def _cost_notes(group: Sequence[Result]) -> list[str]:
    machines = dict.fromkeys(result.tags.get("hardware", "an unknown machine") for result in group)
    unknown = sum(not minutes_of(result) for result in group)
    about = "Minutes of training and evaluation together, loading included"
    notes = [f"{about}; on {' or '.join(machines)}."]
    return notes + ([f"Unknown for {unknown} of {len(group)}."] if unknown else [])


def _notes(group: Sequence[Result]) -> list[str]:
    """Return what a reader of our rows has to know."""
    source = group[0].source
    relations = sorted({result.relations for result in group if result.benchmark == "lama"})
    trainings = {
        result.count("test/trainings") or 1
        for result in group
        if result.benchmark != "stability"
        and (score := result.score("test")) is not None
        and score.std is not None
    }
    templates = {
        (result.count("test/relations") or 0, result.count("test/templates") or 0)
        for result in group
        if result.benchmark == "stability"
    }
    notes = [
        f"lama: P@1 in percent, the mean of {relation_count(source or '', number)}."
        for number in relations
    ]
    steps = pivot((r.name, r.method, _steps(r)) for r in group if _steps(r))
    notes += [
        f"Steps of a training, {name}: {', '.join(f'{m} {of}' for m, of in methods.items())}."
        for name, methods in steps.items()
    ]
    if trainings:
        notes.append(
            f"±: standard deviation (n - 1) over {' or '.join(map(str, sorted(trainings)))} "
            "trainings; over settings, where several were evaluated."
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


def paper_rows(group: Sequence[Result]) -> tuple[list[Published], list[str]]:
    """Return the paper's figures on the same data as the results of one model, and notes.

    The notes are the differences, and what is doubtful.
    """
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
    elif source == "facts":
        notes.append("facts are relations of your own; the paper has none of them.")
    elif lama and lama[0].params.get("lama.objects") == "all":
        notes.append("The paper has no objects of several tokens, so none of its rows is shown.")
    elif lama and source == "lama" and subset in published.SUBSETS:
        rows += published.for_model(published.lama_rows(subset), model)
        fewer = lama[0].relations != published.RELATIONS
        notes += published.lama_differences(subset, [model], fewer=fewer)
    elif source is None or lama:
        notes.append("The facts are unknown, so no row of the paper is shown.")
    protocol = next(filter(None, map(_protocol, group)), None)
    if protocol is not None:
        figures = published.for_model(published.task_rows(protocol), model)
        for task in dict.fromkeys(result.task for result in group if _protocol(result)):
            rows += [row for row in figures if row.score.task == task]
        notes += [f"The paper's rows of tasks: {published.table_name(protocol)}."]
        notes += published.task_differences(protocol, model)
    if any(map(_is_table_1, group)):
        rows += published.table_1_rows()
        notes.append(published.TABLE_1_SOURCE)
    return rows, notes


def _protocol(result: Result) -> str | None:
    """Return the protocol of a result on the official data, if the paper has a table of it."""
    name = result.params.get("superglue.protocol")
    if result.benchmark != "superglue" or name not in published.PROTOCOLS:
        return None
    return name if published.has_table(result.source or "", str(name)) else None


def _is_table_1(result: Result) -> bool:
    """Return whether this is about LAMA's facts of P17 under the four templates of Table 1."""
    return (
        (result.benchmark, result.source) == ("stability", "lama")
        and result.params.get("lama.objects") != "all"
        and result.params.get("lama.stability.templates") == "table-1"
        and result.params.get("lama.stability.relations") == "['P17']"
        and result.metrics.get("test/templates") == len(published.TABLE_1)
    )


def paper_figures(results: Sequence[Result]) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the paper's figures that tables of the results show, and what is doubtful.

    The figures have the keys of `record_of`, and `called`, `table` and `status`.
    """
    shown = [paper_rows(group) for group in groups_of(results)]
    rows = [row for figures, _ in shown for row in figures]
    notes = [note for _, notes in shown for note in notes]
    for table in _for_orientation(results):
        rows += published.lama_rows(_ORIENTATION)
        notes += table.notes
    figures = [
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
        for row in dict.fromkeys(rows)
    ]
    return figures, list(dict.fromkeys(notes))


def _for_orientation(results: Sequence[Result]) -> list[Table]:
    """Return the paper's figures in a separate table if some facts are not LAMA's."""
    if all(r.benchmark != "lama" or r.source == "lama" for r in results):
        return []
    title = f"The paper's Table 3, on LAMA {_ORIENTATION}: other facts, other models"
    notes = ["P@1 in percent, for orientation only.", *published.lama_doubts(_ORIENTATION)]
    lines = [_paper_line(row, ()) for row in published.lama_rows(_ORIENTATION)]
    return [Table(title, _by_method(lines, "test", _columns(())[0]), notes)]
