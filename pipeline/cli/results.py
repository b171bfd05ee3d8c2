"""Results: the scores of the evaluations in the history."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Literal

import rich.box
import rich.table
import typer
from rich.console import Console

from pipeline.cli.console import echo, print_csv, print_json
from pipeline.errors import PipelineError, printable

if TYPE_CHECKING:
    from pipeline.history.results import Result
    from pipeline.report.significance import Answers
    from pipeline.report.tables import Table

Names = list[str] | None
Day = datetime | None
_DAYS = ["%Y-%m-%d"]

# Columns of words; the others hold numbers.
_WORDS = (
    *("date", "now", "task", "method", "settings", "model", "run"),
    *("metric", "setting", "relation"),
)
_FIRST_TO_GO = ("run", "dev", "min", "steps", "test n", "train/dev/test", "date")
# Characters of a heading that is broken in two lines.
_LONG = 10

EXAMPLES = """Examples:
  ptune results
  ptune results --task rte --since 2026-11-01 --all
  ptune results --against paper --markdown
  ptune results --cost"""


def results(
    model: Annotated[
        Names, typer.Option(metavar="NAME", help="Only this model; may be repeated.")
    ] = None,
    task: Annotated[
        Names,
        typer.Option(metavar="NAME", help="A SuperGLUE task, or lama, stability; may be repeated."),
    ] = None,
    method: Annotated[
        Names, typer.Option(metavar="NAME", help="Only this method; may be repeated.")
    ] = None,
    since: Annotated[
        Day, typer.Option(formats=_DAYS, metavar="DATE", help="Evaluated on this day or later.")
    ] = None,
    until: Annotated[
        Day, typer.Option(formats=_DAYS, metavar="DATE", help="Evaluated on this day or earlier.")
    ] = None,
    tag: Annotated[
        Names, typer.Option(metavar="KEY=VALUE", help="With this tag in MLflow; may be repeated.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Every run, the newest first.")] = False,
    against: Annotated[
        Literal["paper"] | None,
        typer.Option(metavar="paper", help="With the paper's figures, and what is doubtful."),
    ] = None,
    cost: Annotated[bool, typer.Option("--cost", help="Minutes instead of scores.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV, one row for each run.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown.")] = False,
) -> None:
    """Print the scores of methods on tasks, from the runs in MLflow.

    Shows, for each model, data, task and method, the run that dvc.lock has, or
    else the newest, with paired tests between the methods of a row, from their
    stored predictions. --all shows every run, with the settings that differ.
    Other data, and other splits of them, have separate rows.
    Tables are in percent; CSV and JSON have shares of 1.
    """
    if as_csv + as_json + as_markdown > 1:
        raise PipelineError("--csv, --json, --markdown: give only one of them")
    if cost and (every or against is not None):
        raise PipelineError("--cost cannot be combined with --all, which includes it, or --against")
    # Imports MLflow, which is too slow for --help.
    from pipeline.history.results import latest, read_answers, read_results

    tags = {}
    for text in tag or ():
        key, equals, value = text.partition("=")
        if not key or not equals:
            raise PipelineError(f"--tag {text}: write KEY=VALUE, such as dvc.experiment=workspace")
        tags[key] = value

    def is_selected(result: "Result") -> bool:
        day = result.ended.date()
        return (
            (not model or result.model in model)
            and (not task or result.name in task)
            and (not method or result.method in method)
            and (since is None or day >= since.date())
            and (until is None or day <= until.date())
            and tags.items() <= result.tags.items()
        )

    answers: dict[str, Answers | None] = {}

    def cached_answers(result: "Result") -> "Answers | None":
        if result.run_id not in answers:
            answers[result.run_id] = read_answers(result)
        return answers[result.run_id]

    evaluations = read_results()
    selected = list(filter(is_selected, evaluations))
    if not selected:
        _explain_none(evaluations)
    shown = selected if every else latest(selected)
    paper = against is not None
    if as_json or as_csv:
        _print_records(shown, as_json=as_json, paper=paper)
        return
    from pipeline.report.tables import markdown
    from pipeline.results.compare import result_tables

    # Of several runs of a method, none is the one to compare.
    answers_of = None if cost or every else cached_answers
    by_run = result_tables(shown, "run", paper=paper, answers_of=answers_of)
    show: Literal["test", "min"] = "min" if cost else "test"
    tables = by_run if every else result_tables(shown, show, paper=paper, answers_of=answers_of)
    if as_markdown:
        echo(markdown(tables), nl=False)
    else:
        print_tables(tables, narrow=by_run)


def _explain_none(evaluations: Sequence["Result"]) -> None:
    """Print why there is nothing to show, and what to do."""
    from pipeline.history.store import store_address

    where = store_address()
    if not evaluations:
        echo(
            f"No finished evaluation in the history, {where}.\nRun the pipeline with `dvc repro`, "
            "or set MLFLOW_TRACKING_URI to the history that you mean.",
            err=True,
        )
        return
    echo(f"None of {len(evaluations)} evaluations in {where} matches. There are:", err=True)
    for name, values in (
        ("models", [result.model for result in evaluations]),
        ("tasks", [result.name for result in evaluations]),
        ("methods", [result.method for result in evaluations]),
        ("days", [result.ended.date().isoformat() for result in evaluations]),
    ):
        echo(f"  {name}: {', '.join(sorted(set(values)))}", err=True)


def _print_records(results: Sequence["Result"], *, as_json: bool, paper: bool) -> None:
    from pipeline.results.compare import paper_figures, record_of

    rows = list(map(record_of, results))
    figures, doubts = paper_figures(results) if paper else ([], [])
    if as_json:
        content = {"results": rows, **({"paper": figures, "doubts": doubts} if paper else {})}
        print_json(content, indent=2)
        return
    if paper:
        rows = [{"of": "ours", **row} for row in rows]
        rows += [{"of": "paper", **row} for row in figures]
    for doubt in doubts:
        echo(doubt, err=True)
    print_csv(rows)


def print_tables(tables: Sequence["Table"], *, narrow: Sequence["Table"]) -> None:
    """Print tables with their titles and notes to the terminal.

    `narrow` are printed instead if one is too wide; their columns are removed until they fit.
    """
    console = Console(markup=False, highlight=False, emoji=False)
    if any(_width(console, table) > console.width for table in tables):
        tables = narrow
    for table in tables:
        console.print(printable(table.title), style="bold")
        for name in _FIRST_TO_GO:
            if _width(console, table) > console.width:
                rows = [{k: v for k, v in row.items() if k != name} for row in table.rows]
                table = replace(table, rows=rows)
        if table.rows:
            console.print(_drawn(table))
        for note in table.notes:
            bullet = rich.table.Table.grid(padding=(0, 1))  # its lines are indented
            bullet.add_row("-", printable(note))
            console.print(bullet)
        console.print()


def _width(console: Console, table: "Table") -> int:
    options = console.options.update(max_width=10**6)
    return console.measure(_drawn(table), options=options).maximum


def _drawn(table: "Table") -> rich.table.Table:
    """Return a table for the terminal, with several lines in long headings and cells."""
    drawn = rich.table.Table(
        box=rich.box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False
    )
    for name in table.rows[0] if table.rows else ():
        heading = name.replace("-", "-\n", 1) if len(name) > _LONG else name
        drawn.add_column(heading, justify="left" if name in _WORDS else "right", overflow="fold")
    for row in table.rows:
        drawn.add_row(*(printable(cell.replace("), ", "),\n")) for cell in row.values()))
    return drawn
