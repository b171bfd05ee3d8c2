"""`ptune send`: send MLflow what it could not be sent while it was away."""

from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.console import errors_told

if TYPE_CHECKING:
    from pipeline.history.sending import Delivery

EXAMPLES = """Examples:
  ptune send
  ptune send --drop 1f0c6a
  MLFLOW_TRACKING_URI=https://mlflow.example.org ptune send"""


Drop = Annotated[
    str | None,
    typer.Option(
        metavar="RUN",
        help="First give up what is kept of a run (its id, or how that begins): it is deleted.",
    ),
]


def send(drop: Drop = None) -> None:
    """Send the log entries that were kept while MLflow could not be reached.

    Each is sent once, in its order, however often the command is run.
    """
    with errors_told():
        from pipeline.history.sending import drop_kept, send_all

        if drop is not None:
            typer.echo(f"what was kept of run {drop_kept(drop)} is dropped")
        deliveries = []
        for delivery in send_all():
            tell(delivery)
            deliveries.append(delivery)
        if not deliveries:
            typer.echo("nothing is kept: MLflow has all that was logged")
    troubled = [delivery for delivery in deliveries if delivery.trouble]
    in_the_way = [delivery.run_id for delivery in troubled if not delivery.elsewhere]
    if in_the_way:
        typer.echo(
            f"`ptune send` tries again; should MLflow never take them, `ptune send --drop "
            f"{in_the_way[0][:10]}` gives them up and sends the rest",
            err=True,
        )
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
