"""dvc.yaml against the code: a stage depends on the files that its command imports, no others."""

import ast
import contextlib
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from dvc.repo import Repo
from ruamel.yaml import YAML

from pipeline.config.schema import RuntimeParams
from pipeline.tasks import task_names
from tests.project import ROOT

# Files that cannot change a result: records of runs, which process runs what and where, messages,
# and the parsing of params.yaml (the values that a stage uses are declared under `params`,
# which tests/stages/test_stages.py checks).
NO_RESULT = (
    "pipeline/history/", "pipeline/workflow/project.py", "pipeline/workflow/workdir.py",
    "pipeline/workflow/processes.py", "pipeline/engine/", "pipeline/errors.py",
    "pipeline/config/schema.py", "pipeline/cli/console.py", "stages/__init__.py",
    "stages/runtime.py",
)  # fmt: skip

STAGES: dict[str, Any] = {
    name: stage.get("do", stage)
    for name, stage in YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"].items()
}

# (stage, task): a matrix over SuperGLUE's tasks has an instance for every task. Methods, and tasks
# of the user, run the same code.
INSTANCES = [
    (name, task)
    for name, stage in STAGES.items()
    for task in (task_names() if "${superglue.tasks}" in stage.get("matrix", {}).values() else [""])
]

each_instance = pytest.mark.parametrize(("name", "task"), INSTANCES)


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def code_files() -> set[str]:
    """All files with code; an __init__ with a docstring only has none."""
    paths = [path for top in ("pipeline", "stages") for path in (ROOT / top).rglob("*.py")]
    return {relative(p) for p in paths if not all(isinstance(n, ast.Expr) for n in parsed(p).body)}


CODE = code_files()


def file_of(dotted: str) -> Path | None:
    base = ROOT / dotted.replace(".", "/")
    return next((p for p in (base.with_suffix(".py"), base / "__init__.py") if p.exists()), None)


def imports(tree: ast.AST) -> dict[str, set[Path]]:
    """Name in the file -> the project's files that its import runs, packages included.

    Imports in functions count; imports for type checkers do not.
    """
    found: dict[str, set[Path]] = {}
    for node in run_time_nodes(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                found.setdefault(alias.asname or alias.name, set()).update(
                    files_on_the_way(f"{node.module}.{alias.name}")
                )
        elif isinstance(node, ast.Import):
            for alias in node.names:
                found.setdefault(alias.name, set()).update(files_on_the_way(alias.name))
    return found


def run_time_nodes(node: ast.AST) -> list[ast.AST]:
    """All nodes below a node, without those under `if TYPE_CHECKING`."""
    if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
        return []
    return [node, *(n for child in ast.iter_child_nodes(node) for n in run_time_nodes(child))]


def files_on_the_way(dotted: str) -> set[Path]:
    parts = dotted.split(".")
    if parts[0] not in ("pipeline", "stages"):
        return set()
    names = (".".join(parts[:end]) for end in range(1, len(parts) + 1))
    return {path for path in map(file_of, names) if path}


def used_by_command(module: Path, function: str) -> dict[str, set[Path]]:
    """Imports of a stage's module, by name, that one of its commands and its helpers use."""
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
    return {name: files for name, files in imports(tree).items() if name in names}


@cache
def needed_by(name: str, task: str = "") -> set[str]:
    """Every file that can change the result of an instance of a stage.

    `get_task` imports the task of the instance. `validate` calls it for all tasks of params.yaml,
    but does not depend on them: the stages of a task find any mistake in its file themselves.
    """
    _, _, dotted, *arguments = shlex.split(STAGES[name]["cmd"])
    module = file_of(dotted)
    assert module
    commands = {node.name for node in parsed(module).body if isinstance(node, ast.FunctionDef)}
    command = arguments[0] if arguments[0] in commands else "main"
    seen = {module}
    todo = [used_by_command(module, command)]
    while todo:
        names = todo.pop()
        files = set().union(*names.values())
        if task and "get_task" in names:
            files.add(ROOT / f"pipeline/tasks/{task}.py")
        for path in files - seen:
            seen.add(path)
            if not relative(path).startswith(NO_RESULT):
                todo.append(imports(parsed(path)))
    return {file for file in map(relative, seen) if file in CODE and not file.startswith(NO_RESULT)}


def listed_by(name: str, task: str) -> set[str]:
    """The files with code that an instance lists, itself or by their folder."""
    deps = [dep.replace("${item.task}", task) for dep in STAGES[name]["deps"]]
    return {f for f in CODE for dep in deps if f == dep or f.startswith(f"{dep}/")}


@each_instance
def test_a_stage_depends_on_the_files_that_it_imports_and_on_no_others(
    name: str, task: str
) -> None:
    listed, needed = listed_by(name, task), needed_by(name, task)
    assert not needed - listed, "add these to the deps"
    assert not listed - needed, "take these out of the deps"


def test_a_stage_that_needs_the_digests_of_superglue_depends_on_them() -> None:
    for name, stage in STAGES.items():
        code, digests = (f"pipeline/sources/superglue.{end}" for end in ("py", "sha256"))
        assert (code in stage.get("deps", [])) == (digests in stage.get("deps", [])), name


def test_a_missing_or_idle_dependency_would_be_found() -> None:
    for benchmark in ("lama", "stability"):
        assert {"pipeline/search/autoprompt.py", "pipeline/training/loop.py"} <= needed_by(
            f"train-{benchmark}"
        )
    for task in task_names():
        assert f"pipeline/tasks/{task}.py" in needed_by("train-superglue", task)
        assert "pipeline/data/geonames/places.py" in needed_by("splits-superglue", task)
    trained = needed_by("train-superglue", "rte")
    assert not [file for file in trained if "/geonames/" in file or "/sources/" in file]
    assert not [file for file in trained if "/search/" in file]
    assert "pipeline/tasks/boolq.py" not in trained
    assert "pipeline/training/loop.py" not in needed_by("evaluate-lama")


@pytest.mark.parametrize("name", STAGES)
def test_no_stage_depends_on_the_runtime_parameters(name: str) -> None:
    assert not [p for p in STAGES[name].get("params", []) if p.split(".")[0] == "runtime"]


def test_a_stage_depends_on_the_parameters_of_its_method_only() -> None:
    """A method that is added, or whose settings change, must not rerun the others."""
    for name, stage in STAGES.items():
        params = stage.get("params", [])
        for group in ("lama.prompts", "lama.training", "superglue.training"):
            defaults = [] if group == "lama.prompts" else [f"{group}.defaults"]
            declared = [p for p in params if p.startswith(group)]
            assert declared in ([], [*defaults, f"{group}.${{item.method}}"]), name


def test_runtime_is_the_only_group_that_no_stage_declares() -> None:
    declared = {p.split(".")[0] for s in STAGES.values() for p in s.get("params", [])}
    groups = set(YAML(typ="safe").load(ROOT / "params.yaml"))
    assert groups - declared == {"runtime"}
    assert RuntimeParams.model_fields


@pytest.mark.parametrize("name", STAGES)
def test_a_command_is_one_program_without_a_shell(name: str) -> None:
    command = re.sub(r"\$\{[\w.]+\}", "", STAGES[name]["cmd"])
    assert not re.search(r"[;&|<>$`]", command)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Repo]:
    """The default's project as after `dvc repro`, with empty results."""
    root = tmp_path_factory.mktemp("finished")
    for name in ("pipeline", "stages", "facts"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copyfile(ROOT / name, root / name)
    with contextlib.chdir(root):  # DVC resolves paths against it
        repo = Repo.init(no_scm=True)
        for path in (Path(out.fs_path) for stage in repo.index.stages for out in stage.outs):
            (path.parent if path.suffix else path).mkdir(parents=True, exist_ok=True)
            if path.suffix:
                path.touch()
        repo.commit(force=True)
        yield repo


def stale_after_a_comment(repo: Repo, file: str) -> set[str]:
    """The stages that DVC would run again, after a comment is added to a file."""
    path = Path(repo.root_dir, file)
    content = path.read_bytes()
    path.write_bytes(content + b"# A comment.\n")
    try:
        return set(repo.status())
    finally:
        path.write_bytes(content)


def test_dvc_runs_again_what_a_changed_file_can_change(finished: Repo) -> None:
    assert not finished.status()
    stages = {stage.addressing for stage in finished.index.stages}
    training = {stage for stage in stages if stage.startswith("train-")}

    def stale(file: str) -> set[str]:
        return stale_after_a_comment(finished, file)

    assert "train-superglue@rte-p-tuning" in training
    assert stale("pipeline/training/loop.py") == training
    assert stale("pipeline/tasks/boolq.py") == set()
    assert stale("pipeline/tasks/rte.py") == {s for s in stages if "superglue@rte" in s} - {
        "download-superglue@rte"
    }
    assert stale("pipeline/data/geonames/places.py") == {
        "validate", *(s for s in stages if s.startswith("splits-"))
    }  # fmt: skip
    assert {s.partition("@")[0] for s in stale("pipeline/search/autoprompt.py")} == {"train-lama"}
    sources = sorted((ROOT / "pipeline" / "sources").glob("*.py"))
    for file in (sources[0], sources[-1]):
        assert not {s for s in stale(relative(file)) if s.startswith(("train", "splits"))}
    for file in sorted(code for code in CODE if code.startswith("pipeline/report/"))[:2]:
        assert stale(file) <= {"report"}


def test_an_output_that_is_edited_in_place_is_restored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a hard link, an edit by root alters the cache too, and DVC does not notice it."""
    monkeypatch.chdir(tmp_path)
    subprocess.run(["git", "init", "-q"], check=True)
    Repo.init().close()
    shutil.copyfile(ROOT / ".dvc" / "config", ".dvc/config")
    Path("dvc.yaml").write_text("stages: {write: {cmd: echo Asia > out, outs: [out]}}")
    with Repo() as repo:
        repo.reproduce()
        repo.checkout(relink=True)
        output = Path("out")
        assert output.stat().st_nlink == 1
        with output.open("r+") as file:
            file.write("Peru")
        assert repo.status()
        repo.reproduce()
        assert output.read_text() == "Asia\n"


def test_the_cache_keeps_what_an_edit_in_place_changes(tmp_path: Path) -> None:
    """An output that is a hard link of its copy in the cache would change that copy too."""
    (tmp_path / ".dvc").mkdir()
    shutil.copyfile(ROOT / ".dvc" / "config", tmp_path / ".dvc" / "config")
    (tmp_path / "dvc.yaml").write_text(
        "stages: {copy: {cmd: cp source.txt made.txt, deps: [source.txt], outs: [made.txt]}}"
    )
    (tmp_path / "source.txt").write_text("Paris")
    made = tmp_path / "made.txt"
    with contextlib.chdir(tmp_path):
        subprocess.run(["git", "init", "-q"], check=True)
        Repo().reproduce()
        made.chmod(0o644)
        with made.open("r+") as file:
            file.write("Lyons")
        Repo().reproduce()
    assert made.read_text() == "Paris"
