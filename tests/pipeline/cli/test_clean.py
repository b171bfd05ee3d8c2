from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipeline.cli.app import app
from pipeline.workflow.workdir import locked

KEYS = [digit * 64 for digit in "1234"]


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Two stages' progress and two units, of a mebibyte each; and what is neither."""
    monkeypatch.chdir(tmp_path)
    work = tmp_path / ".work"
    found = [work / KEYS[0], work / KEYS[1], work / "units" / KEYS[2], work / "units" / KEYS[3]]
    for folder in (*found, work / "unsent" / "abc", work / "downloads"):
        folder.mkdir(parents=True)
        (folder / "content").write_bytes(bytes(2**20))
    return found


def clean(*options: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["clean", *options])
    return done.exit_code, done.output


def test_it_says_what_it_would_free_and_frees_it_by_force(folders: list[Path]) -> None:
    amount = "2 trainings and the progress of 2 stages, 0.00419 GB"
    code, printed = clean()
    assert code == 0
    assert printed == f"not in use: {amount}\n`ptune clean --force` deletes it\n"
    assert all(folder.exists() for folder in folders)
    assert clean("--force") == (0, f"deleted: {amount}\n")
    work = Path(".work")
    left = sorted(path.as_posix() for path in work.rglob("*") if path.is_file())
    assert left == [".work/downloads/content", ".work/unsent/abc/content"]
    assert clean("--force") == (0, "nothing to delete\n")


def test_what_a_stage_uses_is_left(folders: list[Path]) -> None:
    with locked(folders[0], None), locked(folders[2], None):
        code, printed = clean("--force")
    assert code == 0
    amount = "1 trainings and the progress of 1 stages, 0.0021 GB"
    assert printed == f"in use by running stages, and left: {amount}\ndeleted: {amount}\n"
    assert [folder.exists() for folder in folders] == [True, False, True, False]


def test_without_a_work_folder_nothing_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert clean("--force") == (0, "nothing to delete\n")
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_read_is_not_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".work").write_text("a file")
    for command in (("clean",), ("send",)):
        done = CliRunner().invoke(app, command)
        assert done.exit_code == 1
        assert done.output.startswith("error: ")
        assert f"Not a directory: '{tmp_path}/.work" in done.output
