"""The `ptune` command.

Commands import heavy packages (torch, mlflow, dvc, pydantic) when they run, so that help and
completion are fast.
"""

from importlib.metadata import version
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from pipeline.cli import (
    clean,
    compare,
    doctor,
    export,
    history,
    plan,
    predict,
    preset,
    promote,
    push,
    report,
    repro,
    results,
    show,
    task,
    ui,
)
from pipeline.cli.console import echo, report_errors


class _Commands(TyperGroup):
    def invoke(self, ctx: Any) -> Any:
        with report_errors():
            return super().invoke(ctx)


app = typer.Typer(
    name="ptune",
    cls=_Commands,
    help="P-tuning as a tracked pipeline: the commands beyond `dvc repro`.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _print_version(requested: bool) -> None:
    if requested:
        echo(f"ptune {version('p-tuning-pipeline')}")
        raise typer.Exit


@app.callback()
def _options(
    _: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    pass


app.command(epilog=clean.EXAMPLES)(clean.clean)
app.command(epilog=compare.EXAMPLES)(compare.compare)
app.command(epilog=doctor.EXAMPLES)(doctor.doctor)
app.command(epilog=export.EXAMPLES)(export.export)
app.command(epilog=history.LINEAGE_EXAMPLES)(history.lineage)
app.command(epilog=plan.EXAMPLES)(plan.plan)
app.command(epilog=promote.EXAMPLES)(promote.promote)
app.command(epilog=push.EXAMPLES)(push.push)
app.command(epilog=repro.EXAMPLES)(repro.repro)
app.command(epilog=history.REPRODUCE_EXAMPLES)(history.reproduce)
app.command(epilog=results.EXAMPLES)(results.results)
app.command(epilog=history.SEND_EXAMPLES)(history.send)
app.command(epilog=history.SYNC_EXAMPLES)(history.sync)
app.command(epilog=show.EXAMPLES)(show.show)
app.command(epilog=ui.EXAMPLES)(ui.ui)
app.add_typer(predict.app, name="predict")
app.add_typer(preset.app, name="preset")
app.add_typer(report.app, name="report")
app.add_typer(task.app, name="task")
