"""The commands in docs/guides.md: each is run, `dvc repro` as far as its check of all parameters.

Those that read a history are run on one in tests/test_pipeline.py, as are whole pipelines.
"""

import contextlib
import re
import shlex
import shutil
from pathlib import Path

import pytest
import typer

from pipeline.cli.app import app
from pipeline.config.checks import check_params
from pipeline.config.schema import load_params
from tests.project import ROOT, run

TEXT = (ROOT / "docs" / "guides.md").read_text(encoding="utf-8")
_CODE = (
    "docs",
    "facts",
    "pipeline",
    "stages",
    "presets",
    "tests",
    "metrics",
    "curves",
    "evaluation",
)
_FILES = (
    "dvc.yaml", "dvc.lock", "params.yaml", ".dvcignore", ".gitignore", "Makefile", "pyproject.toml",
)  # fmt: skip


def commands_of(text: str) -> list[str]:
    """Each command of the fenced blocks, without its comment."""
    blocks = re.findall(r"^```\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    return [shlex.join(shlex.split(line, comments=True)) for b in blocks for line in b.splitlines()]


GUIDES = {
    title: commands_of(text)
    for title, text in re.findall(r"^## ([^\n]+)\n(.*?)(?=^## |\Z)", TEXT, flags=re.M | re.S)
}
COMMANDS = [command for commands in GUIDES.values() for command in commands]


def parsed(root: Path, command: str) -> list[str]:
    """The names of a ptune command; an unknown command or option is an error."""
    group = typer.main.get_command(app)
    _, *words = shlex.split(command)
    names = []
    with contextlib.chdir(root):  # where tasks of the user are found
        while hasattr(group, "commands"):
            names.append(words.pop(0))
            group = group.get_command(typer.Context(group), names[-1])
        group.make_context(names[-1], words)
    return names


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout as cloned: without data, models and history."""
    root = tmp_path / "checkout"
    root.mkdir()
    for name in _CODE:
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("*.pyc.*"))
    for name in _FILES:
        shutil.copyfile(ROOT / name, root / name)
    shutil.copytree(ROOT / ".dvc", root / ".dvc", ignore=shutil.ignore_patterns("cache", "tmp"))
    for command in ("git init -q", "git add -A", "git commit -qm start"):
        run(root, *command.split())
    return root


def execute(root: Path, command: str) -> None:
    program, *words = shlex.split(command)
    match program, *words:
        case "sed", *_:
            before = load_params(root / "params.yaml")
            run(root, program, *words)
            after = load_params(root / "params.yaml")
            with contextlib.chdir(root):  # where files of the user are found
                check_params(after)
            assert after != before, f"{command} changes nothing"
        case "dvc", "repro":
            own = [f"splits-tasks@{name}" for name in load_params(root / "params.yaml").tasks]
            run(root, "dvc", "repro", "validate", *own)
        case "dvc", *_:
            run(root, program, *words)
        case "make", target, *_:
            assert re.search(rf"^{target}:.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE)
        case "pytest", *_:
            run(ROOT, program, *words, "--collect-only")
        case ("ptune", "preset", *_) | ("ptune", "task", *_) | ("python", *_):
            run(root, program, *words)
        case "ptune", *_:
            parsed(root, command)
        case _:
            raise AssertionError(f"this test cannot run {command!r}")


@pytest.mark.slow
@pytest.mark.parametrize("title", [title for title, commands in GUIDES.items() if commands])
def test_a_guides_commands_run_one_after_the_other(checkout: Path, title: str) -> None:
    for command in GUIDES[title]:
        execute(checkout, command)


def test_the_list_leads_to_every_guide() -> None:
    listed = re.findall(r"^- \[(.*)\]\(#(.*)\)$", TEXT, flags=re.MULTILINE)
    assert [title for title, _ in listed] == list(GUIDES)
    for title, anchor in listed:
        assert anchor == re.sub(r"[^a-z0-9 -]", "", title.lower()).replace(" ", "-")


def test_links_to_files_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", TEXT):
        assert (ROOT / "docs" / target).exists(), target
