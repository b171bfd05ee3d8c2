"""dvc.yaml against the code: what a stage's command imports is what the stage depends on."""

import ast
import re
import shlex
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from pipeline.config.schema import RuntimeParams
from tests.project import ROOT

# They cannot change a result: the log, who is running, errors, and the reading of params.yaml (the
# values that a stage uses are declared under `params`; tests/stages/test_stages.py checks that).
NO_RESULT = {
    "pipeline/workflow/project.py", "pipeline/errors.py", "pipeline/config/schema.py",
    "stages/runtime.py",
    *(f"pipeline/history/{path.name}" for path in (ROOT / "pipeline" / "history").glob("*.py")),
    "pipeline/workflow/workdir.py", "pipeline/workflow/processes.py",
}  # fmt: skip

STAGES: dict[str, Any] = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]


def file_of(dotted: str) -> Path | None:
    base = ROOT / dotted.replace(".", "/")
    return next((p for p in (base.with_suffix(".py"), base / "__init__.py") if p.exists()), None)


def imports(tree: ast.AST) -> dict[str, set[Path]]:
    """Name in the file -> the project's files that its import runs, packages included."""
    found: dict[str, set[Path]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                found.setdefault(alias.asname or alias.name, set()).update(
                    files_on_the_way(f"{node.module}.{alias.name}")
                )
        elif isinstance(node, ast.Import):
            for alias in node.names:
                found.setdefault(alias.name, set()).update(files_on_the_way(alias.name))
    return found


def files_on_the_way(dotted: str) -> set[Path]:
    parts = dotted.split(".")
    if parts[0] not in ("pipeline", "stages"):
        return set()
    names = (".".join(parts[:end]) for end in range(1, len(parts) + 1))
    return {path for path in map(file_of, names) if path}


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def used_by_command(module: Path, function: str) -> set[Path]:
    """Files that one command of a stage imports: by the names that it and its helpers use."""
    tree = parsed(module)
    top = {}
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            top[node.name] = node
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            top |= {target.id: node for target in targets if isinstance(target, ast.Name)}
    names: set[str] = set()
    todo = [function]
    while todo:
        name = todo.pop()
        if name not in names:
            names.add(name)
            if name in top:
                todo += [n.id for n in ast.walk(top[name]) if isinstance(n, ast.Name)]
    return set().union(*(files for name, files in imports(tree).items() if name in names))


def needed_by(stage: dict[str, Any]) -> set[str]:
    """Every file of the project that can change what a stage's command gives."""
    _, _, name, *arguments = shlex.split(stage["cmd"])
    module = file_of(name)
    assert module
    commands = {node.name for node in parsed(module).body if isinstance(node, ast.FunctionDef)}
    command = arguments[0] if arguments[0] in commands else "main"
    seen = {module}
    todo = list(used_by_command(module, command))
    while todo:
        path = todo.pop()
        if path not in seen:
            seen.add(path)
            if relative(path) not in NO_RESULT:
                todo += set().union(*imports(parsed(path)).values())
    return {relative(path) for path in seen if not is_docstring_only(path)} - NO_RESULT


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def is_docstring_only(path: Path) -> bool:
    return all(isinstance(node, ast.Expr) for node in parsed(path).body)


def covers(dep: str, file: str) -> bool:
    return file == dep or file.startswith(f"{dep}/")


@pytest.mark.parametrize("name", STAGES)
def test_every_module_that_can_change_a_result_is_a_dependency(name: str) -> None:
    deps = STAGES[name]["deps"]
    missing = {f for f in needed_by(STAGES[name]) if not any(covers(dep, f) for dep in deps)}
    assert not missing, f"add to the deps of {name}: {sorted(missing)}"


@pytest.mark.parametrize("name", STAGES)
def test_no_dependency_on_code_is_idle(name: str) -> None:
    code = [dep for dep in STAGES[name]["deps"] if dep.startswith(("pipeline", "stages"))]
    needed = needed_by(STAGES[name]) | NO_RESULT
    assert not [dep for dep in code if not any(covers(dep, file) for file in needed)]


@pytest.mark.parametrize("name", STAGES)
def test_no_stage_depends_on_what_changes_no_result(name: str) -> None:
    stage = STAGES[name]
    assert not [p for p in stage.get("params", []) if p.split(".")[0] == "runtime"]
    idle = {"pipeline/history", "pipeline/workflow/project.py", "stages/runtime.py"}
    assert not [d for d in stage["deps"] for file in idle if covers(d, file)]


def test_a_missing_dependency_would_be_found() -> None:
    stage = STAGES["train-lama"]
    assert "pipeline/training/loop.py" in needed_by(stage)
    assert "pipeline/data/geonames/facts.py" not in needed_by(stage)
    assert "pipeline/tasks/rte.py" not in needed_by(STAGES["splits-lama"])
    for name in ("train-lama", "train-stability"):
        assert {"pipeline/search/autoprompt.py", "pipeline/training/units.py"} <= needed_by(
            STAGES[name]
        )
    assert "pipeline/evaluation/stability.py" in needed_by(STAGES["evaluate-stability"])
    assert "pipeline/training/loop.py" not in needed_by(STAGES["evaluate-lama"])


def test_what_a_stage_writes_hangs_on_its_own_method_alone() -> None:
    """A method that is added, or whose settings change, must not rerun the others."""
    for name, stage in STAGES.items():
        params = stage.get("params", [])
        for group in ("lama.prompts", "lama.training", "superglue.training"):
            own = f"{group}.${{item.method}}"
            assert [p for p in params if p.startswith(group)] in ([], [own]), name


def test_runtime_is_the_only_group_that_no_stage_declares() -> None:
    declared = {p.split(".")[0] for s in STAGES.values() for p in s.get("params", [])}
    groups = set(YAML(typ="safe").load(ROOT / "params.yaml"))
    assert groups - declared == {"runtime"}
    assert RuntimeParams.model_fields


@pytest.mark.parametrize("name", STAGES)
def test_a_command_is_one_program_without_a_shell(name: str) -> None:
    command = re.sub(r"\$\{[\w.]+\}", "", STAGES[name]["cmd"])
    assert not re.search(r"[;&|<>$`]", command)
