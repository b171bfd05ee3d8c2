"""Results: the scores of the evaluations in the history, beside each other."""

import csv
import json
import sys
from collections.abc import Sequence
from datetime import date, datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from pipeline.cli.console import report_errors
from pipeline.errors import PipelineError

if TYPE_CHECKING:
    from pipeline.history.results import Result

Names = list[str] | None
Day = datetime | None
_DAYS = ["%Y-%m-%d"]


EXAMPLES = """Examples:
  ptune results
  ptune results --task rte --since 2026-11-01 --all
  ptune results --against paper --markdown
  ptune results --cost"""


def results(
    model: Annotated[
        Names, typer.Option(metavar="NAME", help="Of this model alone; may be repeated.")
    ] = None,
    task: Annotated[
        Names,
        typer.Option(metavar="NAME", help="Of SuperGLUE, or lama, stability; may be repeated."),
    ] = None,
    method: Annotated[
        Names, typer.Option(metavar="NAME", help="Of this method alone; may be repeated.")
    ] = None,
    since: Annotated[
        Day, typer.Option(formats=_DAYS, metavar="DATE", help="Evaluated then or later.")
    ] = None,
    until: Annotated[
        Day, typer.Option(formats=_DAYS, metavar="DATE", help="Evaluated then or earlier.")
    ] = None,
    tag: Annotated[
        Names, typer.Option(metavar="KEY=VALUE", help="With this tag in MLflow; may be repeated.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Every run, the newest first.")] = False,
    against: Annotated[
        Literal["paper"] | None,
        typer.Option(metavar="paper", help="With the paper's figures, and what is doubtful."),
    ] = None,
    cost: Annotated[bool, typer.Option("--cost", help="Minutes in place of scores.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV, a row a run.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown.")] = False,
) -> None:
    """Print the scores of methods on tasks, from the runs in MLflow.

    Of each model, data, task and method it is the newest finished run.
    Other data, and other splits of them, have rows of their own.
    Tables are in percent; CSV and JSON have shares of 1.
    """
    with report_errors():
        if as_csv + as_json + as_markdown > 1:
            raise PipelineError("--csv, --json, --markdown: give one of them")
        if cost and (every or against is not None):
            raise PipelineError("--cost: goes neither with --all, which has it, nor with --against")
        # An import of mlflow's, which help must not cost.
        from pipeline.history.results import Wanted, newest, read_results

        wanted = Wanted(
            models=tuple(model or ()),
            tasks=tuple(task or ()),
            methods=tuple(method or ()),
            since=_day(since),
            until=_day(until),
            tags=dict(map(_key_and_value, tag or ())),
        )
        found = read_results()
        own = [result for result in found if wanted.admits(result)]
        if not own:
            _say_why(found)
        if not every:
            own = newest(own)
        if as_json:
            _print_json(own, paper=against is not None)
        elif as_csv:
            _print_csv(own, paper=against is not None)
        else:
            _print_tables(
                own, every=every, cost=cost, paper=against is not None, as_markdown=as_markdown
            )


def _day(moment: datetime | None) -> date | None:
    return None if moment is None else moment.date()


def _key_and_value(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise PipelineError(f"--tag {text}: write KEY=VALUE, such as dvc.experiment=workspace")
    return key, value


def _say_why(found: Sequence["Result"]) -> None:
    """Say why there is nothing to show, and what to do."""
    from pipeline.history.store import store_address, without_password

    where = without_password(store_address())
    if not found:
        typer.echo(
            f"No finished evaluation in the history, {where}.\nRun the pipeline with `dvc repro`, "
            "or set MLFLOW_TRACKING_URI to the history that you mean.",
            err=True,
        )
        return
    typer.echo(f"None of {len(found)} evaluations in {where} is of that kind. There are:", err=True)
    for name, values in (
        ("models", [result.model for result in found]),
        ("tasks", [result.name for result in found]),
        ("methods", [result.method for result in found]),
        ("days", [result.ended.date().isoformat() for result in found]),
    ):
        typer.echo(f"  {name}: {', '.join(sorted(set(values)))}", err=True)


def _print_json(own: Sequence["Result"], *, paper: bool) -> None:
    from pipeline.report.history_paper import paper_records
    from pipeline.report.history_table import paper_doubts, records

    content: dict[str, Any] = {"results": records(own)}
    if paper:
        content |= {"paper": paper_records(own), "doubts": paper_doubts(own)}
    typer.echo(json.dumps(content, indent=2, ensure_ascii=False))


def _print_csv(own: Sequence["Result"], *, paper: bool) -> None:
    from pipeline.report.history_paper import PAPER_COLUMNS, paper_records
    from pipeline.report.history_table import COLUMNS, paper_doubts, records

    rows = records(own)
    if paper:
        rows = [{"of": "ours", **row} for row in rows]
        rows += [{"of": "paper", **row} for row in paper_records(own)]
        for doubt in paper_doubts(own):
            typer.echo(doubt, err=True)
    columns = ["of", *COLUMNS, *PAPER_COLUMNS] if paper else COLUMNS
    writer = csv.DictWriter(sys.stdout, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)


def _print_tables(
    own: Sequence["Result"], *, every: bool, cost: bool, paper: bool, as_markdown: bool
) -> None:
    from pipeline.cli.drawing import print_tables
    from pipeline.report.history_table import cost_tables, markdown, method_tables, run_tables

    by_run = run_tables(own, paper=paper)
    tables = by_run
    if not every:
        tables = cost_tables(own) if cost else method_tables(own, paper=paper)
    if as_markdown:
        typer.echo(markdown(tables), nl=False)
    else:
        print_tables(tables, instead=by_run)
