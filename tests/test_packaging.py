"""The package's metadata, its lock files and CITATION.cff against each other."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
from collections.abc import Callable
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from ruamel.yaml import YAML

from tests.project import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
LOCKS = {
    "requirements.lock": PROJECT["dependencies"],
    "requirements-dev.lock": PROJECT["optional-dependencies"]["dev"],
    "requirements-docs.lock": PROJECT["optional-dependencies"]["docs"],
    "requirements-server.lock": PROJECT["optional-dependencies"]["server"],
}


def entries(name: str) -> dict[str, str]:
    """Each package of a lock file with its version and its hashes."""
    text = (ROOT / name).read_text(encoding="utf-8")
    return dict(re.findall(r"^([^= ]+)==(.*(?:\n .*)*)$", text, re.MULTILINE))


@pytest.mark.parametrize("name", LOCKS)
def test_every_entry_of_a_lock_file_has_a_hash(name: str) -> None:
    assert entries(name)
    assert all("--hash=sha256:" in entry for entry in entries(name).values())


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_file_pins_what_pyproject_asks_for(name: str) -> None:
    pinned = {
        package: entry.split()[0] for file in LOCKS for package, entry in entries(file).items()
    }
    for requirement in map(Requirement, LOCKS[name]):
        package = canonicalize_name(requirement.name)
        if package not in ("torch", PROJECT["name"]):  # each machine has its build of torch
            assert requirement.specifier.contains(pinned[package]), requirement


def test_no_package_is_pinned_twice() -> None:
    packages = [package for name in LOCKS for package in entries(name)]
    assert len(packages) == len(set(packages))


def test_torch_is_left_to_each_machine() -> None:
    assert not {"torch", "triton"} & entries("requirements.lock").keys()


def test_the_citation_names_this_version_and_license() -> None:
    citation = YAML(typ="safe").load(ROOT / "CITATION.cff")
    assert citation["version"] == PROJECT["version"]
    assert citation["license"] == PROJECT["license"]
    assert (ROOT / "LICENSE").read_text(encoding="utf-8").count("Apache License") > 1


@pytest.mark.parametrize("path", ["/usr/bin", f"/usr/bin:{Path(sys.executable).parent}"])
def test_the_environment_starts_its_programs_without_activation(tmp_path: Path, path: str) -> None:
    shutil.copy(ROOT / "tools" / "venv.pth", tmp_path)
    code = f"import os, site; site.addsitedir({str(tmp_path)!r}); print(os.environ['PATH'])"
    # -S: a .pth file that the environment has already would hide a missing one.
    command = [sys.executable, "-S", "-c", code]
    shown = subprocess.run(command, env={"PATH": path}, capture_output=True, text=True, check=True)
    folders = shown.stdout.strip().split(os.pathsep)
    assert sorted(folders) == sorted(["/usr/bin", str(Path(sys.executable).parent)])
    assert folders[0] == ("/usr/bin" if os.pathsep in path else str(Path(sys.executable).parent))


@pytest.fixture
def python(tmp_path: Path) -> Path:
    """The Python of a new environment with `tools/venv.pth` and the libraries of this one."""
    folder = tmp_path / "venv"
    venv.create(folder, with_pip=False)
    packages = Path(sysconfig.get_path("purelib", "venv", {"base": str(folder)}))
    shutil.copy(ROOT / "tools" / "venv.pth", packages)
    (packages / "libraries.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    return folder / "bin" / "python"


@pytest.fixture
def start_dvc(tmp_path: Path, python: Path) -> Callable[[str], subprocess.CompletedProcess[str]]:
    """Start a program in `tmp_path` that is named dvc, and prints that it has started."""
    script = tmp_path / "dvc"
    script.write_text("print('started')")

    def start(argument: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [python, script, argument], cwd=tmp_path, env={"PATH": "/usr/bin"},
            capture_output=True, text=True, check=False,
        )  # fmt: skip

    return start


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("methods: [manual, p-tuning]", "methods: manual"), "lama.methods: value should be"),
        (("tasks: {}", "tasks:"), "tasks: value should be"),
        (("seed: 34", f"seed: {'[' * 5_000}"), "nested too deeply"),
    ],
)
def test_dvc_is_not_started_with_parameters_that_it_cannot_read(
    tmp_path: Path,
    start_dvc: Callable[[str], subprocess.CompletedProcess[str]],
    change: tuple[str, str],
    said: str,
) -> None:
    """DVC reads the lists of params.yaml before any stage runs."""
    (tmp_path / "stages").mkdir()
    (tmp_path / "stages" / "validate.py").touch()
    (tmp_path / "pipeline").symlink_to(ROOT / "pipeline")
    text = (ROOT / "params.yaml").read_text(encoding="utf-8")
    (tmp_path / "params.yaml").write_text(text.replace(*change, 1))
    refused = start_dvc("repro")
    assert refused.returncode == 1
    assert refused.stderr.startswith("error: params.yaml: ")
    assert said in refused.stderr
    assert "started" not in refused.stdout
    assert start_dvc("status").stdout == "started\n"
    (tmp_path / "params.yaml").write_text(text)
    assert start_dvc("repro").stdout == "started\n"


def test_parameters_are_read_once_before_dvc(
    tmp_path: Path, start_dvc: Callable[[str], subprocess.CompletedProcess[str]]
) -> None:
    """Python reads a .pth file of a virtual environment twice."""
    check = tmp_path / "pipeline" / "config" / "__main__.py"
    check.parent.mkdir(parents=True)
    check.write_text("print('read')")
    assert start_dvc("repro").stdout == "read\nstarted\n"
    assert start_dvc("status").stdout == "started\n"


def test_the_site_has_each_page_of_the_documentation() -> None:
    pages = re.findall(r"^ +- [^:]+: (\S+)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    assert [page for page in pages if not (ROOT / page).is_file()] == []
    docs = {path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md")}
    assert docs - set(pages) == set()
