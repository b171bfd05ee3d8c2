"""Files of a unit that runs where the project's folder is not seen, without Ray."""

import ast
import os
import subprocess
import sys
import textwrap
import time
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

import pytest

from pipeline.engine import apart
from pipeline.engine.apart import ProjectFiles, Replica, replica_of
from pipeline.engine.units import Unit
from pipeline.errors import DataError
from tests.project import ROOT
from tests.test_dvc_yaml import parsed, run_time_nodes

FOLDER = Path("../main/.work/units/key")  # as in a checkout of `dvc exp run --temp`
WEIGHTS = Path("models/weights")


class Head:
    """The project's files, called by name as a worker calls them, and what was called."""

    def __init__(self, root: Path) -> None:
        self.files = ProjectFiles(str(root))
        self.calls: list[tuple[str, Any]] = []

    def __call__(self, method: str, *arguments: Any, **options: Any) -> Any:
        self.calls.append((method, arguments[-2 if method == "link" else 0]))
        return getattr(self.files, method)(*arguments, **options)

    def of(self, *methods: str) -> list[tuple[str, Any]]:
        return [call for call in self.calls if call[0] in methods]


@pytest.fixture
def head(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Head:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(apart, "_PIECE", 4)
    write(tmp_path / "project/models/base/model.bin", "0123456789")
    write(tmp_path / "project/models/base/empty", "")
    return Head(tmp_path / "project")


def write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name("new")
    partial.write_text(text)
    partial.replace(file)


def replica(head: Head, **more: Any) -> AbstractContextManager[Replica]:
    unit = Unit("a", print, reads=(Path("models/base"),), folder=FOLDER, **more)
    return replica_of(unit, str(head.files._root), head)


def content(folder: Path) -> dict[str, str]:
    files = (file for file in folder.rglob("*") if file.is_file())
    return {file.relative_to(folder).as_posix(): file.read_text() for file in files}


def test_a_unit_resumes_on_another_machine_from_what_the_last_one_sent(
    head: Head, tmp_path: Path
) -> None:
    unit = tmp_path / "main/.work/units/key"
    with suppress(KeyboardInterrupt), replica(head) as first:
        assert content(first.root / "models") == {"base/model.bin": "0123456789", "base/empty": ""}
        write(first.root / FOLDER / "weights-1", "epoch one")
        write(first.root / FOLDER / "checkpoints/0.pt", "")
        first.send()
        assert content(unit) == {"weights-1": "epoch one", "checkpoints/0.pt": ""}
        write(first.root / FOLDER / "weights-2", "lost with the machine")
        raise KeyboardInterrupt
    assert not first.root.exists()
    assert content(unit) == {"weights-1": "epoch one", "checkpoints/0.pt": ""}
    head.calls.clear()
    with replica(head) as second:
        assert content(second.root / FOLDER) == content(unit)
        assert ("read", "models/base/model.bin") not in head.calls  # this machine has it
        (second.root / FOLDER / "weights-1").unlink()
        write(second.root / FOLDER / "results", "0.5")
    assert content(unit) == {"results": "0.5", "checkpoints/0.pt": ""}
    assert [name for _, name in head.of("write")] == [f"{FOLDER}/results"]


def test_a_checkpoint_arrives_after_what_it_needs_and_deletions_come_last(
    head: Head, tmp_path: Path
) -> None:
    with replica(head) as unit:
        write(unit.root / FOLDER / "weights-1", "w")
        os.utime(unit.root / FOLDER / "weights-1", ns=(1, 1))
        write(unit.root / FOLDER / "a checkpoint", "1")
        unit.send()
        write(unit.root / FOLDER / "weights-2", "w")
        os.utime(unit.root / FOLDER / "weights-2", ns=(2, 2))
        write(unit.root / FOLDER / "a checkpoint", "2")
        (unit.root / FOLDER / "weights-1").unlink()
        head.calls.clear()
        unit.send()
        names = [(method, Path(name).name) for method, name in head.calls]
        assert names == [("write", "weights-2"), ("write", "a checkpoint"), ("delete", "weights-1")]
        unit.send()
        assert len(head.calls) == len(names)  # nothing has changed


def test_a_file_of_two_names_travels_once(head: Head, tmp_path: Path) -> None:
    for _ in range(2):
        head.calls.clear()
        with replica(head, writes=(WEIGHTS,)) as unit:
            write(unit.root / FOLDER / "best", "weights")
            os.link(unit.root / FOLDER / "best", unit.root / WEIGHTS)
        assert len({name for _, name in head.of("write")}) == 1
        assert len(head.of("link")) == 1
        project, best = tmp_path / "project", tmp_path / "main/.work/units/key/best"
        assert best.samefile(project / WEIGHTS)
        assert best.read_text() == "weights"
        assert not [name for name in content(tmp_path / "main") if "partial" in name]
        assert {Path(name).name for name in content(project / "models")} == {
            "model.bin", "empty", "weights",
        }  # fmt: skip


def test_an_input_that_changes_while_it_is_sent_is_refused_and_unused_ones_are_deleted(
    head: Head, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache/p-tuning"
    with replica(head):
        pass
    kept = {file.name for file in cache.iterdir()}
    assert len(kept) == 2
    for file in cache.iterdir():
        month = time.time() - 31 * 24 * 3600
        os.utime(file, (month, month))
    (tmp_path / "project/models/base/empty").unlink()
    pieces = iter([b"x", b""])
    monkeypatch.setattr(head.files, "read", lambda *_: next(pieces))
    expected = r"^models/base/model.bin: changed while it was sent; run again$"
    with pytest.raises(DataError, match=expected), replica(head):
        pass
    assert list(cache.iterdir()) == []


def test_a_worker_needs_few_packages() -> None:
    """Those that docs/cluster.md names; the others come with these."""
    code = """
        import sys
        import pipeline.data.superglue, pipeline.evaluation.evaluate, pipeline.search.autoprompt
        import pipeline.engine.cluster, pipeline.tasks.own, pipeline.training.jobs
        ours = (own for name, own in sys.modules.items() if name.startswith("pipeline."))
        print(*(module.__file__ for module in ours))
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(command, check=True, cwd=ROOT, text=True, capture_output=True)
    imported = set()
    for file in done.stdout.split():
        for node in run_time_nodes(parsed(Path(file))):
            if isinstance(node, ast.Import):
                imported |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                imported.add(node.module)
    tops = {name.partition(".")[0] for name in imported} - sys.stdlib_module_names - {"pipeline"}
    with_those = {"accelerate", "filelock", "numpy", "pydantic_core", "safetensors"}
    assert sorted(tops - with_those) == [
        "cloudpickle", "psutil", "pydantic", "ray", "ruamel", "sklearn", "torch", "transformers",
    ]  # fmt: skip
