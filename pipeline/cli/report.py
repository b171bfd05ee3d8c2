"""Show the report, keep results as records, and write the pages made from them."""

import datetime
import os
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from pipeline.cli.console import echo
from pipeline.errors import DataError
from pipeline.files import read_json, write_json, write_text

if TYPE_CHECKING:
    from pipeline.workflow.lock import Execution

app = typer.Typer(help=__doc__, no_args_is_help=True)

BEGIN = "<!-- results: written by `make readme` -->"
END = "<!-- end of results -->"
_RESULTS = Path("docs/results")
_RECORD = re.compile(r"<!-- record: (?P<benchmark>lama|superglue) (?P<name>[\w.-]+) -->")
_END_OF_RECORD = "<!-- end of record -->"

BenchmarkName = Annotated[
    Literal["lama", "superglue"], typer.Argument(help="lama (with stability) or superglue.")
]
ReportFolder = Annotated[Path, typer.Option(help="Folder of the report.")]


@app.command(epilog="Examples:\n  ptune report show")
def show(report: ReportFolder = Path("report")) -> None:
    """Print the result tables, and where to look next."""
    from rich.console import Console
    from rich.markdown import Markdown

    summary = _summary(report)
    console = Console()
    console.print(Markdown(summary))
    console.print(
        f"\nReport: {report}/index.html   History: make ui   Compare: dvc metrics diff, "
        "dvc plots show\nChange something: edit params.yaml, then dvc repro",
        highlight=False,
    )


@app.command(epilog="Examples:\n  ptune report history")
def history(
    out: Annotated[Path, typer.Option(help="HTML file to write.")] = Path("history.html"),
) -> None:
    """Write one page over the whole history: scores, settings, times, commits, and lineage.

    It needs no network and no server. It is not in the folder of the report:
    that is an output of a stage, whose content must not depend on dates.
    """
    from pipeline.history.executions import TrackedHistory
    from pipeline.history.results import read_results
    from pipeline.results.history import history_page

    runs = TrackedHistory().finished()
    if not runs:
        raise DataError("no finished runs in the history; run `dvc repro` first")
    write_text(out, history_page(read_results(), runs, datetime.datetime.now()))
    echo(f"wrote {out}: {len(runs)} runs")


@app.command(epilog="Examples:\n  ptune report readme")
def readme(
    report: ReportFolder = Path("report"),
    file: Annotated[Path, typer.Option(help="File with the two marks.")] = Path("README.md"),
    figures: Annotated[Path, typer.Option(help="Folder for the figures.")] = Path("docs/figures"),
) -> None:
    """Write the tables of the last run, and of the record that README.md names, into README.md.

    Its figures are written into docs/figures.
    """
    from pipeline.history.context import processor_name
    from pipeline.results.page import insert_between

    note = (
        "From `make repro` as cloned (`params.yaml`, seed included), "
        f"{os.cpu_count()} cores of {processor_name()}, {datetime.date.today().isoformat()}. "
        "Test sets are small: a few points may be chance.\n"
    )
    text = file.read_text(encoding="utf-8")
    text = insert_between(text, BEGIN, END, f"{note}\n{_summary(report)}")
    write_text(file, insert_record(text))
    for figure in sorted(report.glob("figures/*.svg")):
        write_text(figures / figure.name, figure.read_text(encoding="utf-8"))


def insert_record(text: str) -> str:
    """Return a text with the table of the record that it names, if any, between its two marks."""
    from pipeline.report.tables import methods_table
    from pipeline.results.page import insert_between
    from pipeline.results.records import Record

    mark = _RECORD.search(text)
    if mark is None:
        return text
    content = read_json(_RESULTS / mark["benchmark"] / f"{mark['name']}.json")
    table = methods_table(Record(mark["benchmark"], content).results)  # type: ignore[arg-type]
    return insert_between(text, mark[0], _END_OF_RECORD, table)


def _summary(report: Path) -> str:
    summary = report / "summary.md"
    if not summary.is_file():
        raise DataError(f"{summary}: no such file; run `dvc repro` first")
    return summary.read_text(encoding="utf-8")


@app.command(epilog="Examples:\n  ptune report collect lama --name four-relations")
def collect(
    benchmark: BenchmarkName,
    name: Annotated[str, typer.Option(help="Name of the record: letters, digits, '.', '-', '_'.")],
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of records.", show_default="docs/results/BENCHMARK"),
    ] = None,
    note: Annotated[str, typer.Option(help="A remark that is shown with the results.")] = "",
    params_file: Annotated[Path, typer.Option("--params", help="Parameters of the run.")] = Path(
        "params.yaml"
    ),
) -> None:
    """Keep the results of the project in the current folder as one JSON file.

    Run it after `dvc repro`, on the machine that ran it, which the record names.
    A record with the same name is replaced.
    """
    import torch

    from pipeline.config.schema import load_params
    from pipeline.history.context import processor_name
    from pipeline.results.records import collect as collect_record
    from pipeline.workflow.lock import read_lock

    if not re.fullmatch(r"\w[\w.-]*", name, re.ASCII):
        raise DataError(f"--name {name!r}: letters, digits, '.', '-' and '_' only")
    params = load_params(params_file)
    device = params.runtime.device
    gpu = device != "cpu" and torch.cuda.is_available()
    head = {
        "name": name,
        "note": note,
        "date": datetime.date.today().isoformat(),
        "hardware": {
            "processor": processor_name(),
            "cores": os.cpu_count(),
            "gpu": torch.cuda.get_device_name(device if ":" in device else None) if gpu else None,
        },
    }
    seconds_of = partial(stage_seconds, read_lock(Path("dvc.lock")))
    record = collect_record(benchmark, params, Path(), head, seconds_of=seconds_of)
    write_json((out or _RESULTS / benchmark) / f"{name}.json", record)


@app.command(epilog="Examples:\n  ptune report page lama")
def page(
    benchmark: BenchmarkName,
    records: Annotated[
        Path | None,
        typer.Option(help="Folder of records.", show_default="docs/results/BENCHMARK"),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Markdown file to write.", show_default="docs/results/BENCHMARK.md"),
    ] = None,
) -> None:
    """Write a benchmark's page of results from all records of a folder."""
    from pipeline.results.page import results_page

    folder = records or _RESULTS / benchmark
    contents = [read_json(path) for path in sorted(folder.glob("*.json"))]
    if not contents:
        raise DataError(f"{folder}: no records; `ptune report collect` writes them")
    write_text(out or _RESULTS / f"{benchmark}.md", results_page(benchmark, contents))


def stage_seconds(
    lock: Mapping[str, "Execution"], stage: str, benchmark: str, method: str, task: str = ""
) -> float | None:
    """Return the seconds of the execution of a stage in dvc.lock; None if no run records them."""
    from pipeline.history.results import seconds_of_execution

    execution = lock.get(f"{stage}-{benchmark}@{f'{task}-' if task else ''}{method}")
    if execution is None or execution.run_key is None:
        return None
    return seconds_of_execution(execution.run_key)
