"""What is true of every command of `ptune`."""

import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version

import pytest
import typer
from typer.testing import CliRunner

from pipeline.cli.app import app
from tests.project import ROOT


def commands(group, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The path of each command, groups opened."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name)


ALL = list(commands(typer.main.get_command(app)))


@pytest.mark.parametrize("path", ALL, ids=" ".join)
def test_help_has_an_example_of_the_command(path: tuple[str, ...]) -> None:
    result = CliRunner().invoke(app, [*path, "--help"], env={"COLUMNS": "80"})
    assert result.exit_code == 0
    examples = result.stdout.split("Examples:")[1]
    assert f"ptune {' '.join(path)}" in examples


@pytest.mark.parametrize("path", ALL, ids=" ".join)
def test_help_fits_a_terminal(path: tuple[str, ...]) -> None:
    """Typer keeps the lines of all paragraphs but the first: longer ones are broken in two."""
    command = typer.main.get_command(app)
    for name in path:
        command = command.commands[name]  # type: ignore[attr-defined]
    _, _, rest = (command.help or "").partition("\n\n")
    assert not [line for line in rest.splitlines() if len(line) > 78]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_names_complete_in_the_shell(shell: str) -> None:
    environment = {
        **os.environ,
        "_PTUNE_COMPLETE": f"complete_{shell}",
        "COMP_WORDS": "ptune lin",
        "COMP_CWORD": "1",
        "_TYPER_COMPLETE_ARGS": "ptune lin",
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
    }
    program = [sys.executable, "-c", "from pipeline.cli.app import app; app(prog_name='ptune')"]
    done = subprocess.run(
        program, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert "lineage" in done.stdout
    assert "preset" not in done.stdout


def test_help_loads_neither_torch_nor_mlflow_nor_dvc() -> None:
    code = (
        "import sys; from pipeline.cli.app import app; import typer; typer.main.get_command(app);"
        "sys.exit({'torch', 'transformers', 'mlflow', 'dvc', 'datasets'} & set(sys.modules) or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_version_is_shown() -> None:
    result = CliRunner().invoke(app, ["--version"])
    assert result.exit_code == 0
    assert result.stdout == f"ptune {version('p-tuning-pipeline')}\n"
