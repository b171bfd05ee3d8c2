"""Write the report, or show its tables on the terminal."""

import datetime
import os
import platform
from pathlib import Path
from typing import Annotated

import typer

from pipeline.files import staged_folder, write_text
from pipeline.params import load_params
from pipeline.report.page import write_report
from pipeline.report.readme import insert_results
from pipeline.report.results import read_lama_results, read_task_results
from stages.running import Out, ParamsFile, stage

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
        results = None
        if lama.methods and lama.relations:
            results = read_lama_results(
                lama.methods,
                metrics=metrics,
                curves=curves,
                evaluation=evaluation,
                answers=params.report.facts_shown,
            )
        tasks = [
            read_task_results(task, glue.methods, metrics=metrics, curves=curves)
            for task in glue.tasks
            if glue.methods
        ]
        with staged_folder(out) as folder:
            write_report(
                folder,
                title=params.report.title,
                model=params.model.name,
                lama=results,
                lama_source=lama.source,
                tasks=tasks,
                tasks_source=glue.source,
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
        f"From `make repro` as cloned (`params.yaml`, seed included), {machine_name()}, "
        f"{datetime.date.today().isoformat()}. Test sets are small: a few points may be chance.\n"
    )
    summary = (report / "summary.md").read_text(encoding="utf-8")
    write_text(file, insert_results(file.read_text(encoding="utf-8"), f"{note}\n{summary}"))
    for figure in sorted(report.glob("figures/*.svg")):
        write_text(figures / figure.name, figure.read_text(encoding="utf-8"))


def machine_name() -> str:
    """Return the processor and the number of cores that this process may use."""
    model = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        model = names[0] if names else model
    return f"{os.cpu_count()} cores of {model}"


if __name__ == "__main__":
    app()
