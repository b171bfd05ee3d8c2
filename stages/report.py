"""Write the report, or show its tables on the terminal."""

import contextlib
import datetime
import os
import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.config.schema import load_params
from pipeline.errors import DataError, PipelineError
from pipeline.files import atomic_dir, read_json, write_json, write_text
from pipeline.history.context import processor_name
from pipeline.history.results import seconds_of_execution
from pipeline.report.collect import About, gather
from pipeline.report.page import write_report
from pipeline.report.readme import insert_results
from pipeline.report.results import (
    Row,
    read_lama_results,
    read_stability_results,
    read_task_results,
    training_budget,
)
from pipeline.report.results_page import results_page
from pipeline.report.tasks_collect import gather_tasks
from pipeline.report.tasks_page import tasks_page
from pipeline.workflow.lock import Execution, file_hash, read_lock
from stages.runtime import Out, ParamsFile, stage

app = typer.Typer(help=__doc__, add_completion=False, no_args_is_help=True)


@app.command()
def build(
    metrics: Annotated[Path, typer.Option(help="Folder of metrics files.")],
    curves: Annotated[Path, typer.Option(help="Folder of learning curves.")],
    evaluation: Annotated[Path, typer.Option(help="Folder of evaluations.")],
    out: Out,
    params_file: ParamsFile = Path("params.yaml"),
) -> None:
    """Write tables and figures of the methods and tasks that params.yaml lists."""
    with stage("report") as this:
        params = load_params(params_file)
        lama = params.lama
        glue = params.superglue
        probing = None
        if lama.methods and lama.relations:
            probing = read_lama_results(
                lama.methods,
                metrics=metrics,
                curves=curves,
                evaluation=evaluation,
                answers=params.report.facts_shown,
            )
        stability = None
        if lama.stability.methods and lama.stability.relations:
            stability = read_stability_results(
                lama.stability.methods, metrics=metrics, evaluation=evaluation
            )
        tasks = [
            read_task_results(
                task, glue.methods, metrics=metrics, curves=curves, evaluation=evaluation
            )
            for task in glue.tasks
            if glue.methods
        ]
        read = [
            *(f"lama/{method}" for method in (lama.methods if probing else ())),
            *(f"stability/{method}" for method in (lama.stability.methods if stability else ())),
            *(f"superglue/{own.task}/{method}" for own in tasks for method in own.methods),
        ]
        files = [metrics / f"{name}.json" for name in read]
        with atomic_dir(out) as folder:
            write_report(
                folder,
                title=params.report.title,
                model=params.model.name,
                lama=probing,
                stability=stability,
                lama_source=lama.source,
                lama_subset=lama.subset,
                tasks=tasks,
                tasks_source=glue.source,
                tasks_protocol=glue.protocol,
                work={name: training_budget(curves / f"{name}.csv") for name in read},
                origins={file.as_posix(): file_hash(file.read_bytes()) for file in files},
            )
        this.run.log_file(out / "index.html")
        this.run.log_file(out / "report.md")
        for figure in sorted(out.glob("figures/*.svg")):
            this.run.log_file(figure, "figures")


@app.command()
def show(
    report: Annotated[Path, typer.Option(help="Folder of the report.")] = Path("report"),
) -> None:
    """Print the result tables and say where to look next."""
    from rich.console import Console
    from rich.markdown import Markdown

    summary = report / "summary.md"
    if not summary.is_file():
        typer.secho(f"error: {summary}: no such file; run `dvc repro` first", err=True, fg="red")
        raise typer.Exit(1)
    console = Console()
    console.print(Markdown(summary.read_text(encoding="utf-8")))
    console.print(
        f"\nReport: {report}/index.html   History: make ui   Compare: dvc metrics diff, "
        "dvc plots show\nChange something: edit params.yaml, then dvc repro",
        highlight=False,
    )


@app.command()
def readme(
    report: Annotated[Path, typer.Option(help="Folder of the report.")] = Path("report"),
    file: Annotated[Path, typer.Option(help="File with the two marks.")] = Path("README.md"),
    figures: Annotated[Path, typer.Option(help="Where figures go.")] = Path("docs/figures"),
) -> None:
    """Write the tables of the last run into README.md, and its figures beside it."""
    note = (
        "From `make repro` as cloned (`params.yaml`, seed included), "
        f"{os.cpu_count()} cores of {processor_name()}, {datetime.date.today().isoformat()}. "
        "Test sets are small: a few points may be chance.\n"
    )
    summary = (report / "summary.md").read_text(encoding="utf-8")
    write_text(file, insert_results(file.read_text(encoding="utf-8"), f"{note}\n{summary}"))
    for figure in sorted(report.glob("figures/*.svg")):
        write_text(figures / figure.name, figure.read_text(encoding="utf-8"))


RecordName = Annotated[
    str, typer.Option(help="Name of the record: letters, digits, '.', '-', '_'.")
]
Records = Annotated[Path, typer.Option(help="Folder of records, such as docs/results/lama.")]
Note = Annotated[str, typer.Option(help="A remark that stands beside the results.")]
RecordsRead = Annotated[Path, typer.Option(help="Folder of records that were collected.")]
Page = Annotated[Path, typer.Option(help="Markdown file to write.")]


@app.command()
def collect(
    name: RecordName, out: Records, note: Note = "", params_file: ParamsFile = Path("params.yaml")
) -> None:
    """Keep what knowledge probing gave, in the project of the current folder, as one JSON file.

    Run it after `dvc repro`, on the machine that ran it, which the record names; a record of that
    name is written over.

    Example: python -m stages.report collect --name four-relations --out docs/results/lama
    """
    _collect(gather, name, out, note, params_file)


@app.command()
def collect_tasks(
    name: RecordName, out: Records, note: Note = "", params_file: ParamsFile = Path("params.yaml")
) -> None:
    """Keep what SuperGLUE gave, in the project of the current folder, as one JSON file.

    Example: python -m stages.report collect-tasks --name few-shot --out docs/results/superglue
    """
    _collect(gather_tasks, name, out, note, params_file)


@app.command()
def results(results: RecordsRead, out: Page) -> None:
    """Write the page of results on knowledge probing from all records of a folder.

    Example: python -m stages.report results --results docs/results/lama --out docs/results/lama.md
    """
    _write_page(results_page, results, out)


@app.command()
def tasks_results(results: RecordsRead, out: Page) -> None:
    """Write the page of results on SuperGLUE from all records of a folder.

    Example: python -m stages.report tasks-results --results docs/results/superglue --out page.md
    """
    _write_page(tasks_page, results, out)


def _collect(
    gathered: Callable[..., Row], name: str, out: Path, note: str, params_file: Path
) -> None:
    with _errors_in_one_line():
        if not re.fullmatch(r"\w[\w.-]*", name, re.ASCII):
            raise DataError(f"--name {name!r}: letters, digits, '.', '-' and '_' only")
        params = load_params(params_file)
        today = datetime.date.today().isoformat()
        about = About(name, note, today, hardware(params.runtime.device))
        seconds_of = partial(stage_seconds, read_lock(Path("dvc.lock")))
        record = gathered(params, Path(), about, seconds_of=seconds_of)
        write_json(out / f"{name}.json", record)


def stage_seconds(
    lock: Mapping[str, Execution], stage: str, benchmark: str, method: str, task: str = ""
) -> float | None:
    """Return what a stage took to make what dvc.lock has of it; None if no run says so."""
    execution = lock.get(f"{stage}-{benchmark}@{f'{task}-' if task else ''}{method}")
    if execution is None or execution.run_key is None:
        return None
    return seconds_of_execution(execution.run_key)


def _write_page(page: Callable[[list[Row]], str], results: Path, out: Path) -> None:
    with _errors_in_one_line():
        records = [read_json(path) for path in sorted(results.glob("*.json"))]
        if not records:
            raise DataError(f"{results}: no records; `python -m stages.report collect` writes them")
        write_text(out, page(records))


@contextlib.contextmanager
def _errors_in_one_line() -> Iterator[None]:
    try:
        yield
    except PipelineError as error:
        typer.secho(f"error: {error}", err=True, fg="red")
        raise typer.Exit(1) from None


def hardware(device: str) -> dict[str, Any]:
    """Return the processor, its cores, and the name of the GPU that `runtime.device` takes."""
    import torch

    gpu = device != "cpu" and torch.cuda.is_available()
    return {
        "processor": processor_name(),
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name(device if ":" in device else None) if gpu else None,
    }


if __name__ == "__main__":
    app()
