"""Structure of the code: which folder may import which, and sizes of signatures."""

import ast
from itertools import product
from pathlib import Path

from tests.project import ROOT
from tests.test_dvc_yaml import files_on_the_way, parsed, relative, run_time_nodes

# From the top. A file imports from its own floor or from lower ones. Imports for type checkers do
# not count, imports in functions do.
FLOORS = (
    ("stages", "cli"),
    ("search", "doctor", "inference", "results"),
    ("training", "evaluation"),
    ("models", "history", "engine"),
    ("config", "tasks", "report"),
    ("sources", "workflow", "prompts", "data"),
    ("files", "seeding", "errors"),
)
FLOOR = {folder: number for number, folders in enumerate(reversed(FLOORS)) for folder in folders}


def folder_of(path: Path) -> str:
    """`stages`, or the folder or file directly in `pipeline`."""
    top, *rest = relative(path).split("/")
    return top if top == "stages" else rest[0].removesuffix(".py")


def imported_by(path: Path) -> set[Path]:
    nodes = run_time_nodes(parsed(path))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {
        f"{node.module}.{alias.name}"
        for node in nodes
        if isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names
    }
    package = ROOT / "pipeline" / "__init__.py"
    return {file for name in names for file in files_on_the_way(name)} - {package}


FILES = [path for top in ("pipeline", "stages") for path in sorted((ROOT / top).rglob("*.py"))]
IMPORTS = {
    (relative(path), folder_of(path), folder_of(imported))
    for path in FILES
    if path != ROOT / "pipeline" / "__init__.py"
    for imported in imported_by(path)
}


def test_every_folder_is_on_a_floor() -> None:
    assert {folder_of(path) for path in FILES} - {"__init__"} == set(FLOOR)


def test_no_file_imports_from_a_higher_floor() -> None:
    wrong = sorted({(file, to) for file, folder, to in IMPORTS if FLOOR[to] > FLOOR[folder]})
    assert not wrong, "\n".join(f"{file} imports {folder}" for file, folder in wrong)


def test_no_folders_import_each_other_in_a_circle() -> None:
    reachable = {(folder, to) for _, folder, to in IMPORTS if folder != to}
    for middle, start, end in product(FLOOR, repeat=3):  # Warshall
        if (start, middle) in reachable and (middle, end) in reachable:
            reachable.add((start, end))
    assert not sorted({folder for folder, to in reachable if folder == to})


def test_at_most_five_functions_have_more_than_seven_parameters() -> None:
    """Arguments that belong together are one dataclass."""
    long = []
    for top in ("pipeline", "stages", "benchmarks", "tools"):
        for path in (ROOT / top).rglob("*.py"):
            for node in ast.walk(parsed(path)):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                    names = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                    if len([name for name in names if name.arg not in ("self", "cls")]) > 7:
                        long.append(f"{relative(path)}: {node.name}")
    assert len(long) <= 5, "\n".join(sorted(long))
