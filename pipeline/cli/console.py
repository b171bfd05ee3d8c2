"""How every command ends on an error."""

import contextlib
import os
from collections.abc import Iterator

import typer

from pipeline.errors import PipelineError


@contextlib.contextmanager
def report_errors() -> Iterator[None]:
    """Print the message of an error that the user can fix, and end with exit code 1.

    `PTUNE_TRACEBACK=1` shows the traceback instead.
    """
    try:
        yield
    except BrokenPipeError:  # the reader closed the pipe; Typer ends quietly
        raise
    except (PipelineError, OSError) as error:
        if os.environ.get("PTUNE_TRACEBACK"):
            raise
        typer.secho(f"error: {error}", err=True, fg="red")
        raise typer.Exit(1) from None
