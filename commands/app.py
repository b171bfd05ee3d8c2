"""The `ptune` command.

Commands import what is heavy (torch, mlflow, dvc) when they run, so that help and completion are
quick.
"""

import typer

from commands import lineage, predict, preset, promote

app = typer.Typer(
    name="ptune",
    help="P-tuning as a tracked pipeline: what to run beside `dvc repro`.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.command()(lineage.lineage)
app.command()(promote.promote)
app.add_typer(predict.app, name="predict")
app.add_typer(preset.app, name="preset")
