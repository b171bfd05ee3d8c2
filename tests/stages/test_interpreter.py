"""Stages under a `python` that lacks the project's packages, as after `.venv/bin/dvc repro`."""

import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from tests.project import ROOT

# What a stage does first, without its imports.
COMMAND = "-c 'import sys, stages; print(sys.executable, sys.prefix)'"


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter without any packages."""
    folder = tmp_path_factory.mktemp("bare")
    venv.create(folder, symlinks=True)
    return folder / "bin" / "python"


def run(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    plain = {"PATH": os.environ["PATH"], **environment}
    return subprocess.run(command, cwd=ROOT, env=plain, capture_output=True, text=True)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_interpreter_of_dvc_takes_over(bare: Path, tmp_path: Path) -> None:
    dvc = tmp_path / "dvc"
    dvc.write_text(f'import os; os.system("{bare} {COMMAND}; true")')
    done = run(sys.executable, str(dvc), DVC_ROOT=str(tmp_path))
    assert done.stdout.split() == [sys.executable, sys.prefix], done.stderr


def test_the_environment_of_make_setup_is_the_second_choice(bare: Path, tmp_path: Path) -> None:
    (tmp_path / ".venv").symlink_to(sys.prefix)
    done = run("sh", "-c", f"{bare} {COMMAND}", DVC_ROOT=str(tmp_path))
    assert done.stdout.split() == [str(tmp_path / ".venv/bin/python"), str(tmp_path / ".venv")]


def test_without_any_the_error_says_what_to_do(bare: Path, tmp_path: Path) -> None:
    done = run("sh", "-c", f"{bare} {COMMAND}", DVC_ROOT=str(tmp_path))
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {bare} does not have the packages mlflow, pydantic")
    assert "source .venv/bin/activate" in done.stderr


def test_an_interpreter_is_replaced_only_once(bare: Path, tmp_path: Path) -> None:
    (tmp_path / ".venv").symlink_to(bare.parents[1])
    done = run("sh", "-c", f"{bare} {COMMAND}", DVC_ROOT=str(tmp_path))
    assert done.returncode == 1
    assert "does not have the packages" in done.stderr
