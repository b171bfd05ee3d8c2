"""A disk that is full: one message, whole outputs or none, and all is right when there is space."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.project import make_project, outputs, run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a disk of limited size"),
]

FREE = (0, 40_000, 160_000, 600_000)
STAGES = (
    "validate", "download-model", "download-lama", "splits-lama", "train-lama@p-tuning",
    "evaluate-lama@p-tuning", "report",
)  # fmt: skip
FOLDERS = ("data", "models", "curves", "metrics", "evaluation", "report")


@pytest.fixture(scope="module")
def finished(
    tmp_path_factory: pytest.TempPathFactory, tiny_folders: dict[str, Path], empty_store: Path
) -> Path:
    """A project that has run; without DVC's run cache, so that stages run again."""
    root = make_project(
        tmp_path_factory.mktemp("full") / "project",
        tiny_folders["gpt2"],
        lama__methods=["p-tuning"],
        superglue__tasks=[],
        runtime__checkpoint_seconds=0,
    )
    shutil.copyfile(empty_store, root / "mlflow.db")
    run(root, "dvc", "repro")
    shutil.rmtree(root / ".dvc" / "cache" / "runs")
    return root


@pytest.fixture
def project(finished: Path, tmp_path: Path) -> Iterator[Path]:
    """A copy on a disk with 4 MB more than it takes."""
    root = tmp_path / "project"
    root.mkdir()
    used = int(subprocess.check_output(["du", "-sk", finished]).split()[0])
    options = f"size={(used + 4000) * 1024}"
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", root], check=False)
    if mounted.returncode:
        pytest.skip("a disk of limited size cannot be mounted here, as in most containers")
    try:
        yield Path(shutil.copytree(finished, root, symlinks=True, dirs_exist_ok=True))
    finally:
        subprocess.run(["umount", root], check=True)


def fill(disk: Path, free: int) -> None:
    """Fill a disk but for so many bytes."""
    stat = os.statvfs(disk)
    (disk / "filler").write_bytes(bytes(max(0, stat.f_bavail * stat.f_frsize - free)))


def repro(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `dvc repro`, and before it what `tools/venv.pth` runs."""
    checked = run(project, "python", "-m", "pipeline.config", check=False)
    if checked.returncode:
        return checked
    return run(project, "dvc", "repro", "--single-item", *arguments, check=False)


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_on_a_full_disk_says_so_and_runs_when_there_is_space(
    finished: Path, project: Path, stage: str
) -> None:
    expected = outputs(finished, *FOLDERS)
    for free in FREE:
        fill(project, free)
        full = repro(project, "--force", stage)
        printed = full.stdout + full.stderr
        assert "Traceback" not in printed, printed
        present = outputs(project, *FOLDERS)
        changed = {path for path in present if present[path] != expected.get(path)}
        assert not changed, (free, changed)
        if full.returncode == 0:
            assert present == expected
        else:
            assert printed.lower().count("error: ") >= 1, printed
        (project / "filler").unlink()
        again = repro(project, stage)
        assert again.returncode == 0, (free, printed, again.stdout + again.stderr)
        assert outputs(project, *FOLDERS) == expected
