from pathlib import Path

import pytest

from pipeline.workflow.git import apply_patch, changes, commit_problem
from tests.project import run as shell


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with one tracked file, which is the current folder."""
    (tmp_path / "pipeline").mkdir()
    (tmp_path / "pipeline" / "code.py").write_text("one = 1\n")
    for command in ("git init -q", "git add -A", "git commit -qm one"):
        shell(tmp_path, *command.split())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_without_changes_there_is_no_patch(checkout: Path) -> None:
    assert changes("pipeline", "params.yaml") == ""


def test_edits_and_new_source_files_are_in_the_patch_and_nothing_else(checkout: Path) -> None:
    (checkout / "pipeline" / "code.py").write_text("one = 2\n")
    (checkout / "pipeline" / "new.py").write_text("new = 1\n")
    (checkout / "pipeline" / ".env").write_text("KEY=secret\n")
    (checkout / "pipeline" / "id_rsa").write_text("secret\n")
    (checkout / "pipeline" / "large.py").write_text("#" * 1_000_001)
    patch = changes("pipeline")
    assert "secret" not in patch
    assert len(patch) < 2000
    for name in (".env", "id_rsa", "large.py"):
        assert f"# left out: pipeline/{name}\n" in patch
    for name in ("new.py", ".env", "id_rsa", "large.py"):
        (checkout / "pipeline" / name).unlink()
    shell(checkout, "git", "checkout", "-q", ".")
    assert apply_patch(patch, checkout) == ""
    assert (checkout / "pipeline" / "code.py").read_text() == "one = 2\n"
    assert (checkout / "pipeline" / "new.py").read_text() == "new = 1\n"


def test_outside_a_repository_there_is_no_patch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert changes("pipeline") == ""


def test_git_says_why_there_is_no_commit(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert commit_problem() is None
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    problem = commit_problem()
    assert problem is not None
    assert problem.startswith("fatal: detected dubious ownership in repository")
    assert "git config --global --add safe.directory" in problem
    monkeypatch.delenv("GIT_TEST_ASSUME_DIFFERENT_OWNER")
    monkeypatch.setenv("PATH", "")
    assert commit_problem() is None  # without git


def test_a_folder_that_is_in_no_checkout_is_no_problem_of_git(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert commit_problem(tmp_path) is None
