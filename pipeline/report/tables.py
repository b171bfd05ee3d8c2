"""Tables: pivots of the table of scores, and Markdown."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

from pipeline.config.schema import LamaMethod
from pipeline.report.published import (
    RELATIONS,
    TABLE_1,
    TABLE_1_SOURCE,
    for_model,
    lama_differences,
    lama_published,
    published_facts,
    published_table,
    table_1_metrics,
    task_differences,
    tasks_published,
)
from pipeline.report.scores import (
    CONTROLS,
    COUNTS,
    HEADLINE,
    LABELS,
    MethodResult,
    Row,
    Score,
    join,
    percent,
)

_SPLITS = ("train", "dev", "test")


@dataclass(frozen=True)
class Table:
    """A table as text, for any writer.

    Attributes:
        title: its heading.
        columns: their names.
        rows: as many cells each as there are columns.
        paper: rows of the paper, shown below, apart from ours.
        notes: what a reader has to know.
    """

    title: str
    columns: list[str]
    rows: list[list[str]]
    paper: list[list[str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def pivot(
    scores: Iterable[Score], row: Callable[[Score], Any], column: Callable[[Score], str]
) -> dict[Any, dict[str, str]]:
    """Return row -> column -> cell; several numbers in one cell are separated by commas."""
    cells: dict[Any, dict[str, list[str]]] = {}
    for score in scores:
        cells.setdefault(row(score), {}).setdefault(column(score), []).append(str(score))
    return {key: {c: ", ".join(texts) for c, texts in of.items()} for key, of in cells.items()}


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table; columns of numbers are aligned to the right."""
    rule = ["---:" if all(map(_is_number, cells)) else "---" for cells in zip(*rows, strict=True)]
    return "\n".join("| " + " | ".join(line) + " |" for line in (columns, rule, *rows)) + "\n"


def markdown(tables: Iterable[Table]) -> str:
    """Return tables as Markdown, each with its title and notes."""
    parts = []
    for table in tables:
        paper = [[f"paper: {name}", *cells] for name, *cells in table.paper]
        rows = [list(map(escaped, row)) for row in [*table.rows, *paper]]
        parts.append(f"### {escaped(table.title)}\n")
        parts += [markdown_table(table.columns, rows)] if rows else []
        parts += [bullets(map(escaped, table.notes))] if table.notes else []
    return "\n".join(parts)


def bullets(lines: Iterable[str]) -> str:
    """Return a Markdown list."""
    return "".join(f"- {line}\n" for line in lines)


def escaped(text: str) -> str:
    """Return text that Markdown shows as it is, in one line."""
    return re.sub(r"([\\|*_`~$\[\]<>&])", r"\\\1", " ".join(text.split()))


def _is_number(cell: str) -> bool:
    return not cell or all(part.replace(".", "", 1).isdigit() for part in cell.split(" ± "))


def lama_title(source: str, subset: str, relations: int) -> str:
    """Return a heading with the name of the facts and the number of relations."""
    return f"Knowledge probing: {data_name(source, subset)}, {relation_count(source, relations)}"


def data_name(source: str, subset: str) -> str:
    """Return the name of the facts; only LAMA has subsets."""
    return f"`{source}` {subset}" if source == "lama" else f"`{source}`"


def relation_count(source: str, relations: int) -> str:
    """Return a number of relations, with LAMA's total if some are missing."""
    if source == "lama" and relations != RELATIONS:
        return f"{relations} of {RELATIONS} relations"
    return f"{relations} relation{'' if relations == 1 else 's'}"


def methods_table(results: Sequence[MethodResult]) -> str:
    """Return the scores of all methods of a benchmark; the controls follow, for each task.

    Several trainings are shown as mean ± sample standard deviation. LAMA's table has a column of
    trainings only then.
    """
    benchmark = results[0].benchmark
    label, count = LABELS[HEADLINE[benchmark]], f"test {COUNTS[benchmark]}"
    groups: dict[tuple[str, str], dict[tuple[str, str], Score]] = {}
    for score in (score for result in results for score in result.scores):
        group = groups.setdefault((score.task, score.method), {})
        group.setdefault((score.split, score.metric), score)
    tasks = list(dict.fromkeys(result.task for result in results))
    rows = []
    for (task, method), group in sorted(
        groups.items(),
        key=lambda item: (tasks.index(item[0][0]), item[0][1] in CONTROLS.values()),
    ):
        first = next(iter(group.values()))
        rows.append(
            {
                "task": task,
                "method": method,
                f"test {label}": _cell(group.get(("test", HEADLINE[benchmark]))),
                f"dev {label}": _cell(group.get(("dev", HEADLINE[benchmark]))),
                "metrics": metric_parts(s for (split, _), s in group.items() if split == "test"),
                "trainings": _cell(first.trainings),
                count: str(first.n),
            }
        )
    several = any(score.std is not None for group in groups.values() for score in group.values())
    hidden = () if benchmark == "superglue" else ("task", "metrics", "trainings")[: 3 - several]
    columns = [name for name in rows[0] if name not in hidden]
    return markdown_table(columns, [[row[name] for name in columns] for row in rows])


def _cell(value: object) -> str:
    return "" if value is None else str(value)


def metric_parts(scores: Iterable[Score]) -> str:
    """Return the metrics whose mean the score is."""
    parts = {score.metric: f"{LABELS[score.metric]} {score}" for score in scores}
    return ", ".join(parts[key] for key in LABELS if key in parts and key not in HEADLINE.values())


def lama_counts(metrics: Row, splits: Row) -> str:
    """Return sentences about the number of facts, and of those that were left out.

    Args:
        metrics: metrics file of a method; what is left out is the same for all of one model.
        splits: metrics file of the splits.
    """
    text = (
        f"Of {metrics['test/facts'] + metrics['test/left_out']} test facts, "
        f"{metrics['test/left_out']} were left out: their object is not one token of this model."
    )
    if "train/overlap" not in splits:
        return text
    outside = ", ".join(f"{splits[f'{split}/outside_vocabulary']} {split}" for split in _SPLITS)
    return (
        f"{text} Removed before: {splits['train/overlap']} train and {splits['dev/overlap']} dev "
        "facts whose subject and object are in a later split too, and those whose object is "
        f"outside the allowed vocabulary ({outside})."
    )


def relations_table(columns: Mapping[str, Sequence[Row]]) -> str:
    """Return the controls and P@1 of each relation; empty where a method was not evaluated.

    Args:
        columns: name of the column -> `MethodResult.relations`.
    """
    rows = [
        [
            escaped(f"{row['relation']} {row['label']}"),
            str(row["facts"]),
            str(row["left_out"]),
            *(percent(row[control]) for control in CONTROLS),
            *(percent(row.get(name)) for name in columns),
        ]
        for row in join(columns, "relation")
    ]
    return markdown_table(["relation", "facts", "left out", *CONTROLS.values(), *columns], rows)


def answers_table(methods: Sequence[str], answers: Sequence[Row]) -> str:
    """Return facts with the answer of each method; correct answers are bold."""

    def cell(row: Row, method: str) -> str:
        answer = escaped(row.get(method, ""))
        return f"**{answer}**" if row.get(method) == row["object"] else answer

    rows = [
        [
            row["relation"],
            escaped(row["subject"]),
            escaped(row["object"]),
            *(cell(row, method) for method in methods),
        ]
        for row in answers
    ]
    return markdown_table(["relation", "subject", "object", *methods], rows)


def settings_table(results: Sequence[MethodResult]) -> str:
    """Return each setting of the tasks and methods that tried several; empty if none did."""
    rows = [
        [
            row["task"],
            result.method,
            str(row["setting"]),
            escaped(row["tried"]),
            escaped(row["template"]),
            str(row["trainings"]),
            percent(row["dev_score"], row["dev_score_std"]),
            percent(row["test_score"], row["test_score_std"]),
            "yes" if row["chosen"] else "",
        ]
        for result, row in _repeated(results, "settings")
    ]
    task, label = _names(results)
    columns = [task, "method", "setting", "tried", "template", "trainings"]
    columns += [f"dev {label}", f"test {label}", "chosen"]
    return markdown_table(columns, rows) if rows else ""


def trainings_table(results: Sequence[MethodResult]) -> str:
    """Return each training of the tasks and methods that have several; empty if none has."""
    rows = [
        [
            row["task"],
            result.method,
            *(str(row[key]) for key in ("setting", "split", "seed", "best_epoch")),
            percent(row["dev_score"]),
            percent(row["test_score"]),
        ]
        for result, row in _repeated(results, "trainings")
    ]
    task, label = _names(results)
    columns = [task, "method", "setting", "split", "seed", "best epoch"]
    return markdown_table([*columns, f"dev {label}", f"test {label}"], rows) if rows else ""


def _names(results: Sequence[MethodResult]) -> tuple[str, str]:
    """Return the heading of a benchmark's tasks, and of its score."""
    benchmark = results[0].benchmark if results else "superglue"
    task = "task" if benchmark == "superglue" else "relation"
    return task, LABELS[HEADLINE[benchmark]]


def _repeated(results: Sequence[MethodResult], kind: str) -> list[tuple[MethodResult, Row]]:
    """Return the rows of those tasks that have several of them with one method."""
    repeated = []
    for result in results:
        rows: list[Row] = getattr(result, kind)
        tasks = [row["task"] for row in rows]
        repeated += [(result, row) for row in rows if tasks.count(row["task"]) > 1]
    return repeated


def budget_table(budgets: Mapping[str, Row]) -> str:
    """Return how much was trained.

    Args:
        budgets: name of a metrics file, without its ending -> `count_epochs` of its curves.
    """
    rows = [
        [*name.rsplit("/", 1), str(budget["trainings"]), str(budget["epochs"])]
        for name, budget in budgets.items()
    ]
    return markdown_table(["benchmark", "method", "trainings", "epochs"], rows)


def training_summary(training: Row) -> str:
    """Return in words what a method's section of `params.yaml` tunes, and for how long."""
    search = training.get("search")
    if search is not None:
        if search["prompts"] == "gradient":
            return f"search, {search['iterations']} iterations"
        return f"best of {escaped(search['prompts'])}"
    if not training["tune"]:
        return "none"
    tuned = [f"{part} at {training[part]['learning_rate']:g}" for part in training["tune"]]
    batch_size = training.get("batch_size", training.get("batch"))  # the key of older records
    return f"{', '.join(tuned)}, at most {training['epochs']} epochs, batch {batch_size}"


@dataclass(frozen=True)
class LamaRow:
    """A row of ours that is compared with the paper's.

    Attributes:
        name: of the row.
        model: name of the language model.
        results: of its methods.
    """

    name: str
    model: str
    results: Sequence[MethodResult]

    @property
    def relations(self) -> int:
        """Number of relations that were evaluated."""
        return len(self.results[0].relations)


def lama_paper(subset: str, ours: Sequence[LamaRow]) -> str:
    """Return our rows above the same subset of the paper's Table 3, and how they differ."""
    paper = [row.score for row in lama_published(subset)]
    scores = [result.score() for row in ours for result in row.results]
    order: tuple[str, ...] = get_args(LamaMethod)
    methods = [name for name in order if name in {score.method for score in [*scores, *paper]}]
    rows = [
        [
            f"ours: {escaped(row.name)}",
            f"{row.relations} of {RELATIONS}",
            str(row.results[0].metrics["test/facts"]),
            *({r.method: str(r.score()) for r in row.results}.get(name, "") for name in methods),
        ]
        for row in ours
    ]
    rows += [
        [model, str(RELATIONS), published_facts(subset), *(cells.get(m, "") for m in methods)]
        for model, cells in pivot(paper, lambda s: s.origin, lambda s: s.method).items()
    ]
    differences = lama_differences(
        subset,
        [row.model for row in ours],
        fewer=any(row.relations != RELATIONS for row in ours),
        named=escaped,
    )
    table = markdown_table(["model", "relations", "facts", *methods], rows)
    return f"{table}\n{bullets(differences)}"


def tasks_paper(protocol: str, model: str, results: Sequence[MethodResult]) -> str:
    """Return our scores on SuperGLUE above the paper's, and how they differ, as Markdown.

    Args:
        protocol: a protocol of the paper.
        model: name of the language model.
        results: of our methods.
    """
    scores = [result.score() for result in results]
    tasks = list(dict.fromkeys(score.task for score in scores))
    rows = [
        [f"ours: {escaped(model)}", method, *(cells.get(task, "") for task in tasks)]
        for method, cells in pivot(scores, lambda s: s.method, lambda s: s.task).items()
    ]
    published = for_model(tasks_published(protocol), model)
    called = {row.score.method: row.called for row in published}
    paper = pivot(
        (row.score for row in published), lambda s: (s.origin, s.method), lambda s: s.task
    )
    rows += [
        [origin, f"{method} ({called[method]})", *(cells.get(task, "") for task in tasks)]
        for (origin, method), cells in paper.items()
    ]
    table = markdown_table(["model", "method", *tasks], rows)
    differences = bullets(task_differences(protocol, model, named=escaped))
    return f"The paper's rows: {published_table(protocol)}.\n\n{table}\n{differences}"


@dataclass(frozen=True)
class StabilityTables:
    """The tables of stability over templates, as Markdown.

    Attributes:
        methods: spread over templates of each method: mean, worst, best, standard deviation.
        templates: P@1 under each template, one column for each method.
        paper: remark on the paper's rows; empty if the paper has none on these templates.
    """

    methods: str
    templates: str
    paper: str


def stability_tables(source: str, results: Sequence[MethodResult]) -> StabilityTables:
    """Return the tables of stability, with the paper's Table 1 if it is about the same templates.

    Args:
        source: of the facts.
        results: of the methods.
    """
    # The text of a template is that of the manual method, the template itself, where it was run.
    order = sorted(results, key=lambda result: result.method != "manual")
    templates = join({r.method: r.templates for r in order}, "relation", "number")
    pairs = {(row["relation"], _lama_form(row)) for row in templates}
    same = source == "lama" and pairs == {("P17", template) for template in TABLE_1}
    paper = table_1_metrics() if same else {}
    spreads = [
        [r.method, *(str(r.metrics[f"test/{key}"]) for key in ("relations", "templates")),
         *_spread(r.metrics)]
        for r in results
    ]  # fmt: skip
    spreads += [[f"{m} (paper)", "1", str(len(TABLE_1)), *_spread(of)] for m, of in paper.items()]
    methods = [result.method for result in results]
    rows = [
        [
            row["relation"],
            str(row["number"]),
            escaped(row["template"]),
            str(row["facts"]),
            *(percent(row.get(method)) for method in methods),
            *(f"{value:.1f}" for value in (TABLE_1[_lama_form(row)] if same else ())),
        ]
        for row in templates
    ]
    columns = ["relation", "number", "template", "facts", *methods]
    return StabilityTables(
        markdown_table(
            ["method", "relations", "templates", "mean", "worst", "best", "std"], spreads
        ),
        markdown_table([*columns, *(f"{method} (paper)" for method in paper)], rows),
        TABLE_1_SOURCE if same else "",
    )


def _spread(metrics: Row) -> list[str]:
    shares = [metrics[f"test/p_at_1{suffix}"] for suffix in ("", "_worst", "_best")]
    return [*map(percent, shares), f"{100 * metrics['test/p_at_1_std']:.2f}"]


def _lama_form(row: Row) -> str:
    text: str = row["template"]
    return text.replace("{subject}", "[X]").replace("{mask}", "[Y]")
