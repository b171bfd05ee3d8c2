"""Presets: list them, show one, or write one into params.yaml."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.console import echo, print_columns
from pipeline.cli.plan import cost_line

if TYPE_CHECKING:
    from pipeline.config.presets import Change

app = typer.Typer(help=__doc__, no_args_is_help=True)

Folder = Annotated[Path, typer.Option("--presets", help="Folder with the presets.")]
ParamsFile = Annotated[Path, typer.Option("--params", help="Parameters file to edit.")]
Name = Annotated[str, typer.Argument(help="A preset that `list` shows.")]


@app.command("list", epilog="Examples:\n  ptune preset list")
def show_all(folder: Folder = Path("presets")) -> None:
    """List the presets with a one-line summary each."""
    from pipeline.config.presets import list_presets

    print_columns(list_presets(folder).items())


@app.command(epilog="Examples:\n  ptune preset show lama-34k-bert-base")
def show(
    name: Name, params_file: ParamsFile = Path("params.yaml"), folder: Folder = Path("presets")
) -> None:
    """Print a preset and the changes that it would make to params.yaml."""
    from pipeline.config.presets import edit_params, read_preset

    preset = read_preset(folder, name)
    echo(preset.text)
    _print_changes(params_file, edit_params(params_file, preset.values)[1], "Would change")


@app.command(
    epilog="Examples:\n  ptune preset apply lama-smollm2\n"
    "  ptune preset apply lama-smollm2 --set lama.splits.test_facts=200"
)
def apply(
    name: Name,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="A.B.C=VALUE", help="Set another value; repeatable."),
    ] = None,
    params_file: ParamsFile = Path("params.yaml"),
    folder: Folder = Path("presets"),
) -> None:
    """Write a preset's values into params.yaml; keep comments and other values."""
    from pipeline.config.presets import apply_values, read_assignments, read_preset

    values = read_preset(folder, name).values + read_assignments(assignments or [])
    _print_changes(params_file, apply_values(params_file, values), "Changed in")
    if cost := cost_line(params_file):
        echo(f"{cost}   Stage by stage: ptune plan")
    echo(f"Run it: dvc repro   Undo: git checkout {params_file}")


def _print_changes(params_file: Path, changes: Sequence["Change"], heading: str) -> None:
    if not changes:
        echo(f"{params_file} already has these values.")
        return
    echo(f"{heading} {params_file}:")
    for change in changes:
        echo(f"  {change.path}: {change.old or '(not set)'} -> {change.new or '(removed)'}")
