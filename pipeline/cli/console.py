"""What all commands share: how they end in an error."""

import contextlib
import os
from collections.abc import Iterator

import typer

from pipeline.errors import PipelineError


@contextlib.contextmanager
def errors_told() -> Iterator[None]:
    """End with the message of an error that the user can mend, and with exit code 1.

    `PTUNE_TRACEBACK=1` shows the traceback instead.
    """
    try:
        yield
    except BrokenPipeError:  # the reader had enough; Typer ends quietly
        raise
    except (PipelineError, OSError) as error:
        if os.environ.get("PTUNE_TRACEBACK"):
            raise
        typer.secho(f"error: {error}", err=True, fg="red")
        raise typer.Exit(1) from None
