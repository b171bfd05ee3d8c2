"""`ptune send`: send MLflow what it could not be sent while it was away."""

from typing import TYPE_CHECKING

import typer

from commands.console import errors_told

if TYPE_CHECKING:
    from pipeline.tracking.sending import Delivery

EXAMPLES = """Examples:
  ptune send
  MLFLOW_TRACKING_URI=https://mlflow.example.org ptune send"""


def send() -> None:
    """Send the log entries that were kept while MLflow could not be reached.

    Each is sent once, in its order, however often the command is run.
    """
    with errors_told():
        from pipeline.tracking.sending import send_all

        troubled = False
        count = 0
        for delivery in send_all():
            count += 1
            troubled |= bool(delivery.trouble)
            tell(delivery)
        if not count:
            typer.echo("nothing is kept: MLflow has all that was logged")
    if troubled:
        raise typer.Exit(1)


def tell(delivery: "Delivery") -> None:
    """Print what became of one run's entries."""
    typer.echo(f"{delivery.name} {delivery.run_id[:10]}: {delivery.sent} entries sent")
    for reason in delivery.refused:
        typer.secho(f"  refused, and dropped: {reason}", err=True, fg="yellow")
    if delivery.trouble:
        typer.secho(f"  {delivery.left} kept: {delivery.trouble}", err=True, fg="red")
    elif delivery.left:
        typer.echo(f"  {delivery.left} kept: its stage still runs, and sends them itself")
