"""How every command ends on an error."""

import contextlib
import os
from collections.abc import Iterator

import typer

from pipeline.errors import PipelineError


def print_warning(message: str, *, color: str) -> None:
    """Print a message to stderr, in a color if it is a terminal and NO_COLOR is not set.

    Source: https://no-color.org
    """
    typer.secho(message, err=True, fg=color, color=False if os.environ.get("NO_COLOR") else None)


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
        print_warning(f"error: {error}", color="red")
        raise typer.Exit(1) from None
