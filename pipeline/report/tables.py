"""Tables: pivots of the table of scores, and Markdown."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

from pipeline.config.schema import LamaMethod
from pipeline.report import published
from pipeline.report.markdown import escaped
from pipeline.report.scores import (
    CONTROLS,
    COUNTS,
    HEADLINE,
    LABELS,
    MethodResult,
    Row,
    Score,
    join,
    relation_sizes,  # noqa: F401 - of the templates, which have this module as `tables`
    sizes_of,
)
from pipeline.report.significance import Comparison


@dataclass(frozen=True)
class Table:
    """A table as text, for any writer: each row is column -> cell, with the same columns."""

    title: str
    rows: list[dict[str, str]]
    notes: list[str] = field(default_factory=list)


def pivot(cells: Iterable[tuple[Any, str, object]]) -> dict[Any, dict[str, str]]:
    """Return row -> column -> text; several values of one cell are separated by commas."""
    table: dict[Any, dict[str, str]] = {}
    for row, column, value in cells:
        before = table.setdefault(row, {}).get(column)
        table[row][column] = str(value) if before is None else f"{before}, {value}"
    return table


def markdown_table(rows: Iterable[Mapping[str, object]]) -> str:
    """Return rows, column -> cell, as a Markdown table; '' without rows.

    The columns are those of the first row; a missing or None value is an empty cell. Columns of
    numbers are aligned to the right.
    """
    lines = list(rows)
    columns = list(lines[0]) if lines else []
    cells = [
        ["" if line.get(name) is None else str(line[name]) for name in columns] for line in lines
    ]
    rule = ["---:" if all(map(_is_number, of)) else "---" for of in zip(*cells, strict=True)]
    return "".join(f"| {' | '.join(line)} |\n" for line in (columns, rule, *cells) if lines)


def markdown(tables: Iterable[Table]) -> str:
    """Return tables as Markdown, each with its title and notes."""
    parts = []
    for table in tables:
        rows = [{name: escaped(cell) for name, cell in row.items()} for row in table.rows]
        texts = (markdown_table(rows), bullets(map(escaped, table.notes)))
        parts += [f"### {escaped(table.title)}\n", *filter(None, texts)]
    return "\n".join(parts)


def bullets(lines: Iterable[str]) -> str:
    """Return a Markdown list."""
    return "".join(f"- {line}\n" for line in lines)


def _is_number(cell: str) -> bool:
    parts = re.split(" ± |/", cell)
    return not cell or all(part.lstrip("+-").replace(".", "", 1).isdigit() for part in parts)


def sizes_title(rows: Iterable[Mapping[str, Any]], unit: str = "") -> str:
    """Return the title of a column of sizes.

    `rows` are metrics, or rows of relations or templates. Those of earlier versions have the sizes
    of test only.
    """
    known = any("train/steps" in row or row.get("train_facts") is not None for row in rows)
    return f"{'train/dev/test' if known else 'test'} {unit}".strip()


def has_steps(rows: Iterable[Row]) -> bool:
    """Return whether some of the rows of trainings know the steps that were taken."""
    return any(row.get("steps") is not None for row in rows)


def data_name(source: str, subset: str, objects: str) -> str:
    """Return the name of the facts; only LAMA has subsets."""
    name = f"`{source}` {subset}" if source == "lama" else f"`{source}`"
    return f"{name}, objects of several tokens too" if objects == "all" else name


def relation_count(source: str, relations: int) -> str:
    """Return a number of relations, with LAMA's total if some are missing."""
    if source == "lama" and relations != published.RELATIONS:
        return f"{relations} of {published.RELATIONS} relations"
    return f"{relations} relation{'' if relations == 1 else 's'}"


def methods_table(results: Sequence[MethodResult]) -> str:
    """Return the scores of all methods of a benchmark; the controls follow, for each task.

    Several trainings are shown as mean ± sample standard deviation. LAMA's table has a column of
    trainings only then. Steps (the mean of a training), sizes of train and dev, and scores on hard
    facts have no column if earlier versions wrote all of the metrics.
    """
    benchmark = results[0].benchmark
    metric = HEADLINE[benchmark]
    scores = [score for result in results for score in result.scores]
    groups: dict[tuple[str, str], dict[tuple[str, str], Score]] = {}
    for score in scores:
        group = groups.setdefault((score.task, score.method), {})
        group.setdefault((score.split, score.metric), score)
    several = any(score.std is not None for score in scores)
    metrics = {(result.task, result.method): result.metrics for result in results}
    known = {key for values in metrics.values() for key in values}
    hidden = [] if results[0].task else ["task", "metrics", "trainings"][: 3 - several]
    hidden += ["steps"] * ("train/steps" not in known) + ["hard"] * ("test/hard_facts" not in known)
    unit = COUNTS[benchmark]
    tasks = list(dict.fromkeys(result.task for result in results))
    rows = []
    order = sorted(groups, key=lambda key: (tasks.index(key[0]), key[1] in CONTROLS.values()))
    for task, method in order:
        group = groups[task, method]
        first = next(iter(group.values()))
        of = next(of for (name, _), of in metrics.items() if name == task)
        steps = metrics.get((task, method), {}).get("train/steps")
        row = {
            "task": task,
            "method": method,
            f"test {LABELS[metric]}": group.get(("test", metric)),
            "hard": group.get(("test", f"{metric}_hard")),
            f"dev {LABELS[metric]}": group.get(("dev", metric)),
            "metrics": metric_parts(s for (split, _), s in group.items() if split == "test"),
            "trainings": first.trainings,
            "steps": None if steps is None else round(steps),
            sizes_title(metrics.values(), unit): sizes_of(metrics.get((task, method), of), unit),
        }
        rows.append({name: cell for name, cell in row.items() if name not in hidden})
    return markdown_table(rows)


def nearest_table(rows: Iterable[Row]) -> str:
    """Return the words nearest to trained vectors, a row for each prompt; '' without rows.

    `rows` are those of `read_nearest`.
    """
    return markdown_table(
        {
            "task": row["task"],
            "method": row["method"],
            "nearest words of each vector": "; ".join(
                f"{number}: {' '.join(map(escaped, words))}"
                for number, words in enumerate(row["nearest"], 1)
            ),
        }
        for row in rows
    )


def one_token_table(results: Sequence[MethodResult]) -> str:
    """Return P@1 over the vocabulary on facts with an object of one token; '' if it is the rest."""
    rows = [
        {
            "method": result.method,
            "test P@1": score,
            "test facts": result.metrics["test/one_token_facts"],
        }
        for result in results
        for score in result.scores
        if score.metric == "p_at_1_one_token"
    ]
    return markdown_table(rows)


def headlines(
    results: Sequence[MethodResult], comparisons: Mapping[str, Iterable[Comparison]]
) -> Iterator[str]:
    """Yield a sentence for each comparison with a method: scores, difference, interval and p."""
    scores = {(r.benchmark, r.task, r.method): r.score() for r in results}
    for benchmark, of_benchmark in comparisons.items():
        for of in of_benchmark:
            difference, interval, p, test = of.cells.values()
            what = f"accuracy on {of.task}" if of.task else "P@1"
            first, second = (scores[benchmark, of.task, m] for m in (of.first, of.second))
            verdict = "" if of.low > 0 or of.high < 0 else "; chance alone may explain it"
            yield (
                f"{of.second} {second}, {of.first} {first}: {difference} points of {what} (95 % "
                f"interval {interval}, p {p if p.startswith('<') else f'= {p}'}, {test}){verdict}."
            )


def several_settings(results: Sequence[MethodResult]) -> list[MethodResult]:
    """Return the results with several settings that were evaluated, as in ablations."""
    tested = {r.name: [row for row in r.settings if row["test_score"] is not None] for r in results}
    # Those that dev has chosen, for each split its own, are no comparison.
    return [
        result
        for result in results
        if len(rows := tested[result.name]) > 1 and not all(row["chosen"] for row in rows)
    ]


def tuned_prompt(results: Sequence[MethodResult]) -> list[Row]:
    """Return the chosen setting of p-tuning's first task or relation, if it was run."""
    settings = (row for result in results if result.method == "p-tuning" for row in result.settings)
    return [row for row in settings if row["chosen"]][:1]


def at_chance(
    results: Sequence[MethodResult], guesses: Mapping[str, Row] | None = None
) -> Iterator[Row]:
    """Yield for each task, if its control is known, the methods that are not above chance.

    Chance is the best constant answer and 1.96 standard errors of an accuracy of one half over the
    test examples. A task without accuracy is judged by its score, without a margin.

    Args:
        results: of tasks.
        guesses: task -> `accuracy` or `score` of a constant answer; None: as in the metrics.
    """
    for task in dict.fromkeys(result.task for result in results):
        of = [result for result in results if result.task == task]
        metrics = of[0].metrics
        metric = "accuracy" if "test/accuracy" in metrics else "score"
        key = "test/constant_accuracy" if metric == "accuracy" else "test/constant"
        guess = guesses[task].get(metric) if guesses else metrics.get(key)
        if guess is None:
            continue
        count = metrics["test/examples"]
        margin = 1.96 * (0.25 / count) ** 0.5 if metric == "accuracy" else 0.0
        within = [r.method for r in of if r.metrics[f"test/{metric}"] <= guess + margin]
        shown = {"task": task, "methods": within, "metric": metric}
        yield {**shown, "guess": guess, "margin": margin, "count": count}


def known_controls(rows: Iterable[Row]) -> dict[str, str]:
    """Return key -> name of those controls that some row of a relation has."""
    keys = {key for row in rows for key in row}
    return {key: name for key, name in CONTROLS.items() if key in keys}


def comparisons_table(comparisons: Iterable[Comparison]) -> str:
    """Return how much better methods are than others, in points; '' without comparisons."""
    rows = [
        {
            "task": of.task,
            "methods": f"{of.first} → {of.second}",
            **of.cells,
        }
        for of in comparisons
    ]
    return markdown_table({k: row[k] for k in row if k != "task" or row[k]} for row in rows)


def metric_parts(scores: Iterable[Score]) -> str:
    """Return the metrics whose mean the score is."""
    parts = {score.metric: f"{LABELS[score.metric]} {score}" for score in scores}
    return ", ".join(parts[key] for key in LABELS if key in parts and key not in HEADLINE.values())


def repeated(results: Sequence[MethodResult], kind: str) -> list[tuple[MethodResult, Row]]:
    """Return the rows of those tasks that have several of them with one method."""
    repeated = []
    for result in results:
        rows: list[Row] = getattr(result, kind)
        tasks = [row["task"] for row in rows]
        repeated += [(result, row) for row in rows if tasks.count(row["task"]) > 1]
    return repeated


def lama_paper(
    subset: str, ours: Mapping[str, Sequence[MethodResult]], models: Iterable[str]
) -> str:
    """Return our rows above the same subset of the paper's Table 3, and how they differ.

    `ours` is name of a row -> results of its methods; `models`, our language models.
    """
    cells: list[tuple[tuple[str, ...], str, Score]] = []
    for name, results in ours.items():
        number = f"{len(results[0].relations)} of {published.RELATIONS}"
        row = (f"ours: {escaped(name)}", number, sizes_of(results[0].metrics, "facts"))
        cells += [(row, result.method, result.score()) for result in results]
    same = (str(published.RELATIONS), published.fact_count(subset))
    cells += [
        ((r.score.origin, *same), r.score.method, r.score) for r in published.lama_rows(subset)
    ]
    used = {method for _, method, _ in cells}
    methods = [method for method in get_args(LamaMethod) if method in used]
    fewer = any(len(results[0].relations) != published.RELATIONS for results in ours.values())
    differences = published.lama_differences(subset, models, fewer=fewer, named=escaped)
    table = _pivot_table(("model", "relations", "facts"), cells, methods)
    return f"{table}\n{bullets(differences)}"


def tasks_paper(protocol: str, model: str, results: Sequence[MethodResult]) -> str:
    """Return our scores on SuperGLUE above the paper's, and how they differ, as Markdown."""
    cells = [((f"ours: {escaped(model)}", r.method), r.task, r.score()) for r in results]
    for row in published.for_model(published.task_rows(protocol), model):
        method = f"{row.score.method} ({row.called})"
        cells.append(((row.score.origin, method), row.score.task, row.score))
    tasks = dict.fromkeys(result.task for result in results)
    table = _pivot_table(("model", "method"), cells, tasks)
    differences = bullets(published.task_differences(protocol, model, named=escaped))
    return f"The paper's rows: {published.table_name(protocol)}.\n\n{table}\n{differences}"


def _pivot_table(
    head: Sequence[str], cells: Iterable[tuple[Any, str, object]], columns: Iterable[str]
) -> str:
    """Return the pivot of cells as Markdown; `head` names the parts of a row."""
    return markdown_table(
        {**dict(zip(head, row, strict=True)), **{name: of.get(name) for name in columns}}
        for row, of in pivot(cells).items()
    )


def stability_rows(
    source: str, results: Sequence[MethodResult]
) -> tuple[dict[str, Row], list[Row], list[str], str]:
    """Return what is shown of stability over templates.

    Returns:
        Method -> metrics; a row for each template, with P@1 under each method's name; the names;
        a remark. The paper's Table 1 is among them if it is about the same templates.
    """
    # The text of a template is that of the manual method, the template itself, where it was run.
    order = sorted(results, key=lambda result: result.method != "manual")
    rows = join({r.method: r.templates for r in order}, "relation", "number")
    metrics = {result.method: result.metrics for result in results}
    pairs = {(row["relation"], _lama_form(row)) for row in rows}
    if source != "lama" or pairs != {("P17", template) for template in published.TABLE_1}:
        return metrics, rows, list(metrics), ""
    paper = {f"{method} (paper)": of for method, of in published.table_1_metrics().items()}
    for row in rows:
        row |= {
            name: p / 100 for name, p in zip(paper, published.TABLE_1[_lama_form(row)], strict=True)
        }
    return metrics | paper, rows, [*metrics, *paper], published.TABLE_1_SOURCE


def _lama_form(row: Row) -> str:
    text: str = row["template"]
    return text.replace("{subject}", "[X]").replace("{mask}", "[Y]")
