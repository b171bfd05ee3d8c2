"""Write the report."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline.config.schema import load_params
from pipeline.files import atomic_dir
from pipeline.report.page import read_report, write_report
from pipeline.report.scores import ResultFolders
from stages.runtime import Out, ParamsFile, stage

app = typer.Typer(help=__doc__, add_completion=False, no_args_is_help=True)


@app.callback()
def _with_subcommand() -> None:
    """Keep `build` a subcommand, as dvc.yaml and the history know it."""


@app.command()
def build(
    metrics: Annotated[Path, typer.Option(help="Folder of metrics files.")],
    curves: Annotated[Path, typer.Option(help="Folder of learning curves.")],
    evaluation: Annotated[Path, typer.Option(help="Folder of evaluations.")],
    out: Out,
    params_file: ParamsFile = Path("params.yaml"),
) -> None:
    """Write tables and figures of the methods and tasks that params.yaml lists."""
    with stage("report") as context:
        data = read_report(load_params(params_file), ResultFolders(metrics, curves, evaluation))
        with atomic_dir(out) as folder:
            write_report(folder, data)
        context.run.log_file(out / "index.html")
        context.run.log_file(out / "report.md")
        for figure in sorted(out.glob("figures/*.svg")):
            context.run.log_file(figure, "figures")


if __name__ == "__main__":
    app()
