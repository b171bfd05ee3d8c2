"""Give a history to results that have none."""

from pathlib import Path

import typer

from pipeline.cli.console import errors_told
from pipeline.cli.send import tell
from pipeline.errors import TrackingError

EXAMPLES = """Examples:
  dvc pull && ptune sync"""


def sync() -> None:
    """Make an MLflow run for each entry of dvc.lock that has none.

    After `dvc pull` in a fresh clone, or on a new or emptied server, the
    results are there and nothing tells of them. Their parameters, hashes,
    metrics and curves become runs, marked as restored. A second call adds
    nothing. What stages could not send (`ptune send`) goes first.
    """
    with errors_told():
        # Imports of seconds, which help must not cost.
        from pipeline.history.restore import restore_missing
        from pipeline.workflow.git import Commits
        from pipeline.workflow.lock import read_lock

        _send_kept()
        lock = read_lock(Path("dvc.lock"))
        made = 0
        for restored in restore_missing(lock, Path(), commit_of=Commits(Path()).of_entries(lock)):
            typer.echo(f"{restored.stage}  run {restored.run_id}")
            for path in restored.left_out:
                typer.echo(
                    f"  {path} is not what dvc.lock says: its numbers are left out", err=True
                )
            made += 1
        typer.echo(f"{made} of {len(lock)} entries of dvc.lock got a run")


def _send_kept() -> None:
    """Send what is kept for this store: an execution whose end is kept has a run already."""
    from pipeline.history.sending import send_all

    for delivery in send_all():
        if delivery.elsewhere:
            continue
        tell(delivery)
        if delivery.trouble:
            raise TrackingError(
                "a stage that ran may get a second run as long as log entries of its own are "
                "kept: run `ptune sync` again when `ptune send` has sent them"
            )
