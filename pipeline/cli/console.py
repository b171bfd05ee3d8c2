"""What several commands print, and how every command ends on an error."""

import contextlib
import io
import json
import os
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import typer

from pipeline.errors import PipelineError, memory_errors_named, printable
from pipeline.files import csv_text


def echo(text: object = "", *, err: bool = False, nl: bool = True) -> None:
    """Print text; its control characters are shown, not obeyed."""
    typer.echo(printable(str(text)), err=err, nl=nl)


def print_json(value: Any, *, indent: int | None = None) -> None:
    """Print a JSON value, with its control characters as JSON escapes them."""
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    typer.echo("".join(c if c == "\n" or c == printable(c) else f"\\u{ord(c):04x}" for c in text))


def shown_cells(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row of a table with the control characters of its text and its columns shown."""
    return {
        printable(key): printable(value) if isinstance(value, str) else value
        for key, value in row.items()
    }


def print_warning(message: str, *, color: str) -> None:
    """Print a message to stderr, in a color if it is a terminal and NO_COLOR is not set.

    Source: https://no-color.org
    """
    typer.secho(
        printable(message), err=True, fg=color, color=False if os.environ.get("NO_COLOR") else None
    )


class LiveLine:
    """A line at the bottom of a terminal: what runs, how far it is, time spent and left.

    It moves all the time; what is printed appears above it. Not on a terminal, there is none.
    """

    def __init__(self, text: str) -> None:
        """Initialize with what runs."""
        self._text = text
        self._progress: Any = None
        self._task: Any = None

    def __enter__(self) -> "LiveLine":
        """Show the line."""
        if sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
            from rich import progress
            from rich.console import Console

            self._progress = progress.Progress(
                progress.TextColumn("{task.description}", markup=False),
                progress.BarColumn(bar_width=20),
                progress.TextColumn("{task.fields[count]}", markup=False),
                progress.TimeElapsedColumn(),
                progress.TimeRemainingColumn(compact=True),
                console=Console(stderr=True),
                refresh_per_second=4,
                transient=True,
            )
            self._task = self._progress.add_task(self._text, total=None, count="")
            self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Remove the line."""
        if self._progress is not None:
            self._progress.stop()

    def update(self, text: str, done: int, total: int) -> None:
        """Show that this part of the work is so far; another text starts another part."""
        if self._progress is None:
            return
        description = f"{self._text}  {text}"
        if self._progress.tasks[0].description != description:
            self._progress.reset(self._task, description=description)
        self._progress.update(self._task, completed=done, total=total, count=f"{done}/{total}")


def print_columns(rows: Iterable[Sequence[str]], *, right: Collection[int] = ()) -> None:
    """Print rows in aligned columns; the columns with the numbers `right` to the right."""
    rows = [list(map(printable, row)) for row in rows]  # before it is measured
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [
            cell.rjust(width) if number in right else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        echo("  ".join(cells).rstrip())


def print_csv(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print rows as CSV with a header of all their columns."""
    shown = list(map(shown_cells, rows))
    columns = dict.fromkeys(name for row in shown for name in row)
    sys.stdout.write(csv_text(list(columns), shown))


@contextlib.contextmanager
def report_errors() -> Iterator[None]:
    """Print the message of an error that the user can fix, and end with exit code 1.

    `PTUNE_TRACEBACK=1` shows the traceback instead. Output is UTF-8 whatever the locale says: an
    answer may have any letter.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
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
