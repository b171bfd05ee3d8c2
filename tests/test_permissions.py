"""Folders and files that may not be read or written: one message, and nothing that is not true."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.project import ROOT, make_project, run

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="elsewhere root cannot give up that no mode binds it"
)

# Root gives up its capabilities, so that modes bind it as they bind other users.
DROP = (
    "import ctypes; assert not ctypes.CDLL(None).capset("
    "(ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)())"
)
KEY = "ab" * 32
TRAIN = (
    "stages.train", "lama", "manual", "--model", "data/model", "--splits", "data/splits/lama",
    "--out", "models/new", "--curves", "curves/new.csv",
)  # fmt: skip
VALIDATE = ("stages.validate", "--out", "data/params.valid2")


def bound(root: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run `ptune` or a stage as a user whom modes bind."""
    program, *arguments = command
    start = (
        "from pipeline.cli.app import app; app()"
        if program == "ptune"
        else f"import runpy; runpy.run_module({program!r}, run_name='__main__', alter_sys=True)"
    )
    code = f"{DROP}\nimport sys; sys.argv[1:] = {arguments!r}\n{start}"
    return run(root, "python", "-c", code, check=False, PYTHONPATH=str(root))


@pytest.fixture
def checkout(tmp_path: Path, empty_store: Path) -> Path:
    """A folder with a history and all kinds of kept work."""
    root = tmp_path / "checkout"
    shutil.copytree(ROOT / "pipeline", root / "pipeline")
    for name in (f".work/{KEY}", f".work/units/{KEY}", ".work/unsent/abc"):
        (root / name).mkdir(parents=True)
    (root / ".work/unsent/abc/entries.jsonl").write_text('{"store": "mlflow.db", "name": "x"}\n')
    shutil.copyfile(empty_store, root / "mlflow.db")
    return root


@pytest.mark.parametrize(
    ("closed", "mode", "command"),
    [
        (".work", 0o000, "send"),
        (".work/unsent", 0o000, "send"),
        (".work/unsent/abc", 0o000, "send"),
        (".work/unsent/abc/entries.jsonl", 0o000, "send"),
        ("mlflow.db", 0o000, "send"),
        (".work", 0o000, "clean --force"),
        (".work/units", 0o000, "clean --force"),
        (".work/units", 0o500, "clean --force"),
    ],
)
def test_kept_work_that_cannot_be_read_or_written_is_named(
    checkout: Path, closed: str, mode: int, command: str
) -> None:
    place = checkout / closed
    before = place.stat().st_mode
    place.chmod(mode)
    done = bound(checkout, "ptune", *command.split())
    place.chmod(before)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.count("error: ") == 1
    assert str(place) in done.stderr
    assert "nothing" not in done.stdout + done.stderr


@pytest.fixture(scope="module")
def finished(
    tmp_path_factory: pytest.TempPathFactory, tiny_folders: dict[str, Path], empty_store: Path
) -> Path:
    """A project with data and a model."""
    root = make_project(
        tmp_path_factory.mktemp("permissions") / "project",
        tiny_folders["gpt2"],
        superglue__tasks=[],
    )
    shutil.copyfile(empty_store, root / "mlflow.db")
    run(root, "dvc", "repro", "splits-lama", "download-model")
    for name in (f".work/{KEY}", ".work/units", "models", "curves"):
        (root / name).mkdir(parents=True, exist_ok=True)
    return root


@pytest.mark.slow
@pytest.mark.parametrize(
    ("closed", "mode", "command"),
    [
        (".work", 0o000, TRAIN),
        ("data", 0o500, VALIDATE),
        ("mlflow.db", 0o444, TRAIN),
        ("data/model", 0o000, TRAIN),
        ("data/splits/lama", 0o000, TRAIN),
        ("models", 0o500, TRAIN),
        ("curves", 0o500, TRAIN),
        ("dvc.lock", 0o000, ("ptune", "results")),
    ],
)
def test_what_a_stage_cannot_read_or_write_is_named(
    finished: Path, tmp_path: Path, closed: str, mode: int, command: tuple[str, ...]
) -> None:
    root = Path(shutil.copytree(finished, tmp_path / "project", symlinks=True))
    before = (root / closed).stat().st_mode
    (root / closed).chmod(mode)
    done = bound(root, *command)
    (root / closed).chmod(before)
    printed = done.stdout + done.stderr
    assert "Traceback" not in printed
    assert not (root / "models" / "new").exists()
    # Typer itself checks what an option names, and exits with 2.
    assert done.returncode in (1, 2), printed
    assert len(re.findall("^error: |─ Error ─", done.stderr, re.MULTILINE)) == 1, printed
    assert closed in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("place", [".work", ".work/units", f".work/{KEY}"])
def test_a_file_in_the_place_of_a_folder_of_kept_work_is_named(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    from pipeline.errors import PipelineError
    from pipeline.workflow.workdir import unit_locked, work_folder
    from stages.runtime import _file_errors_named

    root = Path(shutil.copytree(finished / ".work", tmp_path / ".work")).parent
    shutil.rmtree(root / place)
    (root / place).write_text("a file")

    def use() -> None:
        with (
            _file_errors_named(),
            work_folder(root, KEY, recorded=lambda _: set(), on_wait=lambda: None) as work,
            unit_locked(work.unit("one", KEY, lambda: None), lambda: None),
        ):
            pass

    with pytest.raises(PipelineError, match=f"{root / place}.*check the path"):
        use()
