"""Presets: list them, show one, or write one into params.yaml."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.console import report_errors
from pipeline.config.presets import (
    Change,
    apply_overlay,
    edit_params,
    list_presets,
    merge_overlays,
    read_assignments,
    read_preset,
)

app = typer.Typer(help=__doc__, no_args_is_help=True)

Folder = Annotated[Path, typer.Option("--presets", help="Folder of the presets.")]
ParamsFile = Annotated[Path, typer.Option("--params", help="The parameters.")]
Name = Annotated[str, typer.Argument(help="A name that `list` shows.")]


@app.command("list", epilog="Examples:\n  ptune preset list")
def show_all(folder: Folder = Path("presets")) -> None:
    """Print the presets' names, each with what it is."""
    with report_errors():
        presets = list_presets(folder)
        width = max(map(len, presets), default=0)
        for name, summary in presets.items():
            typer.echo(f"{name:{width}}  {summary}".rstrip())


@app.command(epilog="Examples:\n  ptune preset show lama-34k-bert-base")
def show(
    name: Name, params_file: ParamsFile = Path("params.yaml"), folder: Folder = Path("presets")
) -> None:
    """Print a preset, and what it would change in params.yaml."""
    with report_errors():
        preset = read_preset(folder, name)
        typer.echo(preset.text)
        _tell(params_file, edit_params(params_file, preset.overlay).changes, "It would change")


@app.command(
    epilog="Examples:\n  ptune preset apply lama-smollm2\n"
    "  ptune preset apply lama-smollm2 --set lama.splits.test_facts=200"
)
def apply(
    name: Name,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="A.B.C=VALUE", help="Set this too; may be repeated."),
    ] = None,
    params_file: ParamsFile = Path("params.yaml"),
    folder: Folder = Path("presets"),
) -> None:
    """Write a preset's values into params.yaml; comments and other values stay."""
    with report_errors():
        overlay = read_preset(folder, name).overlay
        overlay = merge_overlays(overlay, read_assignments(assignments or []))
        changes = apply_overlay(params_file, overlay)
        _tell(params_file, changes, "Changed in")
        typer.echo(f"Run it: dvc repro   Go back: git checkout {params_file}")


def _tell(params_file: Path, changes: Sequence[Change], heading: str) -> None:
    if not changes:
        typer.echo(f"{params_file} has all of these values already.")
        return
    typer.echo(f"{heading} {params_file}:")
    for change in changes:
        old = "(not there)" if change.old is None else change.old
        typer.echo(f"  {change.path}: {old} -> {change.new}")
