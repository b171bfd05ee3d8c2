"""What several commands print, and how every command ends on an error."""

import contextlib
import csv
import os
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import typer

from pipeline.errors import PipelineError, memory_errors_named


def print_warning(message: str, *, color: str) -> None:
    """Print a message to stderr, in a color if it is a terminal and NO_COLOR is not set.

    Source: https://no-color.org
    """
    typer.secho(message, err=True, fg=color, color=False if os.environ.get("NO_COLOR") else None)


def print_columns(rows: Iterable[Sequence[str]], *, right: Collection[int] = ()) -> None:
    """Print rows in aligned columns; the columns with the numbers `right` to the right."""
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [
            cell.rjust(width) if number in right else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        typer.echo("  ".join(cells).rstrip())


def print_csv(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print rows as CSV with a header of all their columns."""
    columns = dict.fromkeys(name for row in rows for name in row)
    writer = csv.DictWriter(sys.stdout, list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)


@contextlib.contextmanager
def report_errors() -> Iterator[None]:
    """Print the message of an error that the user can fix, and end with exit code 1.

    `PTUNE_TRACEBACK=1` shows the traceback instead.
    """
    try:
        with memory_errors_named():
            yield
    except BrokenPipeError:  # the reader closed the pipe; Typer ends quietly
        raise
    except (PipelineError, OSError) as error:
        if os.environ.get("PTUNE_TRACEBACK"):
            raise
        print_warning(f"error: {error}", color="red")
        raise typer.Exit(1) from None
