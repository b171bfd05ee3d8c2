from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.errors import TrackingError
from pipeline.files import write_json
from pipeline.history import reproduction
from pipeline.history.executions import TrackedRun
from pipeline.history.reproduction import check_reproducible, compare, restore_changes
from pipeline.workflow.git import Commits, apply_patch, worktree
from pipeline.workflow.lock import Execution, file_hash, folder_hash
from tests.pipeline.history.chain import run
from tests.project import run as shell

THEN = Execution(
    "evaluate", "python -m stages.evaluate", run_key="ab" * 32,
    inputs={"data/model": "m0.dir", "stages/evaluate.py": "c0", "pipeline/models": "c1.dir"},
    outputs={"metrics/p.json": "a0", "predictions": "b0.dir"},
)  # fmt: skip
RUN = run(THEN, "0123456789abcdef", 0)
CODE = {"dvc.yaml": "d0", "stages/evaluate.py": "c0", "pipeline/models": "c1.dir"}


def has(code: dict[str, str]):
    return lambda commit, path: code.get(path) if commit == "abc123" else None


def test_a_run_of_a_clean_tree_can_be_made_again() -> None:
    assert check_reproducible(RUN, has(CODE)) == "abc123"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"status": "KILLED"}, "is KILLED: it has no result"),
        ({"execution": replace(THEN, run_key=None)}, "ran outside DVC"),
        ({"execution": replace(THEN, stage="")}, "ran outside DVC"),
        ({"commit": None}, "has no commit"),
        ({"commit": "gone"}, r"commit gone is missing here \(git fetch\)"),
    ],
)
def test_a_run_whose_making_is_not_all_known_is_refused(changes, said: str) -> None:
    with pytest.raises(TrackingError, match=rf"run 0123456789 \(evaluate\).*{said}"):
        check_reproducible(replace(RUN, **changes), has(CODE))


@pytest.mark.parametrize("dirty", [False, None])
def test_code_that_was_not_the_commits_is_refused_whatever_the_run_says(dirty) -> None:
    with pytest.raises(TrackingError, match="pipeline/models differed from commit"):
        check_reproducible(replace(RUN, dirty=dirty), has({**CODE, "pipeline/models": "c2.dir"}))


def changed_checkout(folder: Path) -> tuple[TrackedRun, str]:
    """A run whose code had an edit and a new file, its patch, and a checkout of its commit."""
    code = folder / "stages" / "evaluate.py"
    code.parent.mkdir(parents=True)
    code.write_text("first\n")
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "one"]):
        shell(folder, "git", *command)
    code.write_text("second\n")
    (folder / "pipeline").mkdir()
    (folder / "pipeline" / "new.py").write_text("new\n")
    shell(folder, "git", "add", "-A")
    patch = shell(folder, "git", "diff", "--binary", "HEAD").stdout
    shell(folder, "git", "reset", "-q", "--hard")
    inputs = {
        "stages/evaluate.py": file_hash(b"second\n"),
        "pipeline": folder_hash([("new.py", file_hash(b"new\n"))]),
    }
    return replace(RUN, dirty=True, execution=replace(THEN, inputs=inputs)), patch


def test_the_changes_of_a_run_are_applied(tmp_path: Path) -> None:
    changed, patch = changed_checkout(tmp_path)
    assert check_reproducible(changed, has(CODE)) == "abc123"
    restore_changes(changed, patch, tmp_path)
    assert (tmp_path / "stages" / "evaluate.py").read_text() == "second\n"
    assert (tmp_path / "pipeline" / "new.py").read_text() == "new\n"


def test_a_project_in_a_folder_of_a_repository_gets_the_changes_too(tmp_path: Path) -> None:
    _, patch = changed_checkout(tmp_path)
    (tmp_path / "deep").mkdir()
    assert apply_patch(patch, tmp_path / "deep") == ""
    assert (tmp_path / "pipeline" / "new.py").exists()


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda _: None, r"git/diff\.patch\) are not in the history"),
        (
            lambda patch: patch.replace("-first", "-other"),
            r"cannot be applied: error: patch failed",
        ),
        (lambda patch: patch.replace("+second", "+third"), r"stages/evaluate\.py differed from"),
    ],
)
def test_changes_that_do_not_give_the_code_of_the_run_are_refused(
    tmp_path: Path, edit: Callable[[str], str | None], said: str
) -> None:
    changed, patch = changed_checkout(tmp_path)
    with pytest.raises(TrackingError, match=rf"run 0123456789 \(evaluate\).*{said}"):
        restore_changes(changed, edit(patch), tmp_path)


def test_the_same_bytes_are_the_same(tmp_path: Path) -> None:
    assert compare(RUN, THEN, tmp_path) == (
        ["same       metrics/p.json", "same       predictions",
         "2 of 2 outputs have the same bytes"],
        True,
    )  # fmt: skip


def test_metrics_that_differ_are_reported_with_both_values(tmp_path: Path) -> None:
    write_json(tmp_path / "metrics" / "p.json", {"test/p_at_1": 0.5, "test/facts": 9, "new": 1.0})
    again = replace(THEN, outputs={**THEN.outputs, "metrics/p.json": "a1"})
    first = replace(RUN, metrics={"test/p_at_1": 0.25, "test/facts": 9.0})
    assert compare(first, again, tmp_path) == (
        [
            "same       predictions",
            "different  metrics/p.json",
            "             test/p_at_1: 0.25, now 0.5",
            "             new: None, now 1.0",
            "1 of 2 outputs have the same bytes",
        ],
        False,
    )


@pytest.mark.parametrize("known", [True, False])
def test_a_folder_that_differs_is_reported_with_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, known: bool
) -> None:
    inner = tmp_path / "predictions" / "deep"
    inner.mkdir(parents=True)
    (inner / "same.txt").write_text("1")
    (inner / "other.txt").write_text("2")
    (inner.parent / "new.txt").write_text("3")
    before = [("deep/same.txt", file_hash(b"1")), ("deep/other.txt", "0"), ("gone.txt", "1")]
    digest = folder_hash(before)
    monkeypatch.setattr(reproduction, "folder_listing", {digest: before}.get if known else {}.get)
    first = replace(RUN, execution=replace(THEN, outputs={"predictions": digest}))
    again = replace(THEN, outputs={"predictions": "b1.dir"})
    lines, same = compare(first, again, tmp_path)
    files = ["deep/other.txt", "gone.txt", "new.txt"]
    assert lines[:-1] == [
        "different  predictions", *(f"             {name}" for name in files if known),
    ]  # fmt: skip
    assert not same


def test_inputs_that_differ_are_reported_with_both_hashes(tmp_path: Path) -> None:
    first = replace(
        RUN, execution=replace(THEN, inputs={**THEN.inputs, "metrics": "x", "metrics/q.json": "q"})
    )
    again = replace(THEN, inputs={**THEN.inputs, "data/model": "m1.dir", "metrics": "x"})
    lines, same = compare(first, again, tmp_path)
    assert [line for line in lines if line.startswith("input")] == [
        "input      data/model: m0.dir, now m1.dir"
    ]
    assert same


@pytest.mark.parametrize("subfolder", ["", "project"])
def test_a_worktree_has_the_commit_and_is_removed(tmp_path: Path, subfolder: str) -> None:
    root = tmp_path / "root" / subfolder
    root.mkdir(parents=True)
    (root / "a.txt").write_text("first")
    shell(tmp_path / "root", "git", "init", "-q")
    for command in ("git add -A", "git commit -qm one"):
        shell(root, *command.split())
    commit = shell(root, "git", "rev-parse", "HEAD").stdout.strip()
    (root / "a.txt").write_text("second")
    place = root / ".work" / "again"
    with worktree(root, commit, place, keep=True) as folder:
        assert (folder / "a.txt").read_text() == "first"
        (folder / "made.txt").write_text("left")
    assert place.exists()
    with worktree(root, commit, place) as folder:
        assert not (folder / "made.txt").exists()
    assert not place.exists()
    assert shell(root, "git", "worktree", "list").stdout.count("\n") == 1
    assert Commits(root).hash_at(commit, "a.txt") == file_hash(b"first")
