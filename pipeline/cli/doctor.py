"""`ptune doctor`: check that everything params.yaml needs is available and works."""

from collections.abc import Sequence
from dataclasses import asdict
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.console import print_json
from pipeline.errors import printable

if TYPE_CHECKING:
    from pipeline.doctor.checks import CheckResult

# State -> mark, the same in ASCII, and its color.
_MARKS = {
    "ok": ("✓", "+", "green"),
    "warning": ("!", "!", "yellow"),
    "failed": ("✗", "x", "red"),
    "skipped": ("-", "-", "dim"),
}

EXAMPLES = """Examples:
  ptune doctor
  ptune doctor --json"""


def doctor(
    params_file: Annotated[Path, typer.Option("--params", help="The parameters.")] = Path(
        "params.yaml"
    ),
    seconds: Annotated[
        float, typer.Option(min=0.1, help="Timeout for each host on the network.")
    ] = 5.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check machine, checkout, data sources and history, and report how to fix problems.

    Exit code 0: everything params.yaml needs works. 1: something does not.
    """
    # Imports of torch, mlflow and dvc, which help must not cost.
    from rich.console import Console

    from pipeline.doctor.project import run_all_checks

    with Console(stderr=True).status("checking"):
        results = run_all_checks(params_file, seconds=seconds)
    works = all(result.state != "failed" for result in results)
    if as_json:
        content = {"works": works, "checks": [asdict(result) for result in results]}
        print_json(content, indent=2)
    else:
        _print_results(results)
    raise typer.Exit(0 if works else 1)


def _print_results(results: Sequence["CheckResult"]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(markup=False, highlight=False, emoji=False)
    grid = Table.grid(padding=(0, 2, 0, 0))
    for result, following in zip_longest(results, results[1:]):
        mark, plain, color = _MARKS[result.state]
        shown = plain if console.options.ascii_only else mark
        grid.add_row(Text(shown, color), result.name, printable(result.message))
        # Advice shared by several checks is shown once, below the last of them.
        if result.advice and (following is None or following.advice != result.advice):
            grid.add_row("", "", Text(printable(f"> {result.advice}"), color))
    console.print(grid)
