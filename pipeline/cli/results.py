"""Results: the scores of the evaluations in the history."""

import csv
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import date, datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal

import rich.box
import rich.table
import typer
from rich.console import Console

from pipeline.cli.console import report_errors
from pipeline.errors import PipelineError

if TYPE_CHECKING:
    from pipeline.history.results import Result
    from pipeline.report.tables import Table

Names = list[str] | None
Day = datetime | None
_DAYS = ["%Y-%m-%d"]

# Columns of words; the others hold numbers.
_WORDS = ("date", "task", "method", "model", "run")
_FIRST_TO_GO = ("run", "dev", "min", "test n", "date")
# Characters of a heading that is broken in two lines, and between columns.
_LONG, _GAP = 10, 2


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

    Shows the newest finished run of each model, data, task and method.
    Other data, and other splits of them, have separate rows.
    Tables are in percent; CSV and JSON have shares of 1.
    """
    with report_errors():
        if as_csv + as_json + as_markdown > 1:
            raise PipelineError("--csv, --json, --markdown: give only one of them")
        if cost and (every or against is not None):
            raise PipelineError(
                "--cost cannot be combined with --all, which includes it, or --against"
            )
        # Imports MLflow, which is too slow for --help.
        from pipeline.history.results import ResultFilter, newest, read_results

        selection = ResultFilter(
            models=tuple(model or ()),
            tasks=tuple(task or ()),
            methods=tuple(method or ()),
            since=_day(since),
            until=_day(until),
            tags=dict(map(_key_and_value, tag or ())),
        )
        evaluations = read_results()
        selected = [result for result in evaluations if selection.admits(result)]
        if not selected:
            _explain_none(evaluations)
        shown = selected if every else newest(selected)
        paper = against is not None
        if as_json:
            _print_json(shown, paper=paper)
        elif as_csv:
            _print_csv(shown, paper=paper)
        else:
            from pipeline.report.tables import markdown
            from pipeline.results.compare import cost_tables, method_tables, run_tables

            by_run = run_tables(shown, paper=paper)
            tables = by_run
            if not every:
                tables = cost_tables(shown) if cost else method_tables(shown, paper=paper)
            if as_markdown:
                typer.echo(markdown(tables), nl=False)
            else:
                print_tables(tables, narrow=by_run)


def _day(moment: datetime | None) -> date | None:
    return None if moment is None else moment.date()


def _key_and_value(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise PipelineError(f"--tag {text}: write KEY=VALUE, such as dvc.experiment=workspace")
    return key, value


def _explain_none(evaluations: Sequence["Result"]) -> None:
    """Print why there is nothing to show, and what to do."""
    from pipeline.history.store import store_address, without_password

    where = without_password(store_address())
    if not evaluations:
        typer.echo(
            f"No finished evaluation in the history, {where}.\nRun the pipeline with `dvc repro`, "
            "or set MLFLOW_TRACKING_URI to the history that you mean.",
            err=True,
        )
        return
    typer.echo(f"None of {len(evaluations)} evaluations in {where} matches. There are:", err=True)
    for name, values in (
        ("models", [result.model for result in evaluations]),
        ("tasks", [result.name for result in evaluations]),
        ("methods", [result.method for result in evaluations]),
        ("days", [result.ended.date().isoformat() for result in evaluations]),
    ):
        typer.echo(f"  {name}: {', '.join(sorted(set(values)))}", err=True)


def _print_json(results: Sequence["Result"], *, paper: bool) -> None:
    from pipeline.results.compare import paper_doubts, paper_records, records

    content: dict[str, Any] = {"results": records(results)}
    if paper:
        content |= {"paper": paper_records(results), "doubts": paper_doubts(results)}
    typer.echo(json.dumps(content, indent=2, ensure_ascii=False))


def _print_csv(results: Sequence["Result"], *, paper: bool) -> None:
    from pipeline.results.compare import (
        COLUMNS,
        PAPER_COLUMNS,
        paper_doubts,
        paper_records,
        records,
    )

    rows = records(results)
    if paper:
        rows = [{"of": "ours", **row} for row in rows]
        rows += [{"of": "paper", **row} for row in paper_records(results)]
        for doubt in paper_doubts(results):
            typer.echo(doubt, err=True)
    columns = ["of", *COLUMNS, *PAPER_COLUMNS] if paper else COLUMNS
    writer = csv.DictWriter(sys.stdout, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)


def print_tables(tables: Sequence["Table"], *, narrow: Sequence["Table"]) -> None:
    """Print tables with their titles and notes to the terminal.

    Args:
        tables: the tables to print.
        narrow: printed instead if one of them is too wide; columns are removed until they fit.
    """
    console = Console(markup=False, highlight=False, emoji=False)
    if any(_least_width(table) > console.width for table in tables):
        tables = [_narrowed(table, console.width) for table in narrow]
    for table in tables:
        console.print(table.title, style="bold")
        if table.rows or table.paper:
            console.print(_drawn(table, whole=_least_width(table) <= console.width))
            if table.notes:
                console.print()
        for note in table.notes:
            bullet = rich.table.Table.grid(padding=(0, 1))  # its lines are indented
            bullet.add_row("-", note)
            console.print(bullet)
        console.print()


def _narrowed(table: "Table", width: int) -> "Table":
    """Remove columns, the least important first, until a table fits."""
    for name in _FIRST_TO_GO:
        if name in table.columns and _least_width(table) > width:
            place = table.columns.index(name)
            table = replace(
                table,
                columns=[*table.columns[:place], *table.columns[place + 1 :]],
                rows=[[*row[:place], *row[place + 1 :]] for row in table.rows],
            )
    return table


def _drawn(table: "Table", *, whole: bool) -> rich.table.Table:
    """Return a table for the terminal; `whole`: it is wide enough to break no number."""
    drawn = rich.table.Table(
        box=rich.box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False
    )
    for name, cells in _columns(table):
        justify: Literal["left", "right"] = "left" if name in _WORDS else "right"
        no_wrap = whole and not _is_breakable(cells)
        drawn.add_column(_heading(name), justify=justify, overflow="fold", no_wrap=no_wrap)
    for row in table.rows:
        drawn.add_row(*row)
    drawn.add_section()
    if table.rows and table.paper:
        drawn.add_row("the paper:")
    for row in table.paper:
        drawn.add_row(*row)
    return drawn


def _columns(table: "Table") -> list[tuple[str, list[str]]]:
    """Return each column's name and cells."""
    rows = [*table.rows, *table.paper]
    return [(name, [row[place] for row in rows]) for place, name in enumerate(table.columns)]


def _heading(name: str) -> str:
    """Break a method's long name in two lines."""
    return name.replace("-", "-\n", 1) if len(name) > _LONG else name


def _is_breakable(cells: Sequence[str]) -> bool:
    """Return whether there are words between numbers, as in `34.1 (LPAQA), 43.3 (AutoPrompt)`."""
    return any("(" in cell or " to " in cell for cell in cells)


def _least_width(table: "Table") -> int:
    """Return how many characters a table needs in order to break no number."""
    widths = []
    for name, cells in _columns(table):
        parts = _heading(name).split("\n")
        for cell in cells:
            parts += cell.split() if _is_breakable(cells) else [cell]
        widths.append(max(map(len, parts)))
    return sum(widths) + _GAP * len(widths)
