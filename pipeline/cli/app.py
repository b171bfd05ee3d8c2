"""The `ptune` command.

Commands import what is heavy (torch, mlflow, dvc) when they run, so that help and completion are
quick.
"""

import typer

from pipeline.cli import (
    doctor,
    lineage,
    predict,
    preset,
    promote,
    report,
    repro,
    reproduce,
    results,
    send,
    sync,
)

app = typer.Typer(
    name="ptune",
    help="P-tuning as a tracked pipeline: what to run beside `dvc repro`.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.command(epilog=doctor.EXAMPLES)(doctor.doctor)
app.command(epilog=lineage.EXAMPLES)(lineage.lineage)
app.command(epilog=promote.EXAMPLES)(promote.promote)
app.command(epilog=repro.EXAMPLES)(repro.repro)
app.command(epilog=reproduce.EXAMPLES)(reproduce.reproduce)
app.command(epilog=results.EXAMPLES)(results.results)
app.command(epilog=send.EXAMPLES)(send.send)
app.command(epilog=sync.EXAMPLES)(sync.sync)
app.add_typer(predict.app, name="predict")
app.add_typer(preset.app, name="preset")
app.add_typer(report.app, name="report")
