from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.errors import TrackingError
from pipeline.files import write_json
from pipeline.history.reproduction import Difference, check_reproducible, compare
from pipeline.workflow.git import Commits, worktree
from pipeline.workflow.lock import Execution, file_hash, folder_hash
from tests.pipeline.history.chain import run
from tests.project import run as shell

THEN = Execution(
    "evaluate", "python -m stages.evaluate", run_key="ab" * 32,
    inputs={"data/model": "m0.dir", "stages/evaluate.py": "c0", "pipeline/models": "c1.dir"},
    outputs={"metrics/p.json": "a0", "predictions": "b0.dir"},
)  # fmt: skip
RUN = run(THEN, "0123456789abcdef", 0)
CODE = {"stages/evaluate.py": "c0", "pipeline/models": "c1.dir"}


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
        ({"dirty": True}, r"ran in a tree that differed .*git/diff\.patch"),
        ({"commit": "gone"}, r"stages/evaluate\.py, pipeline/models differed from .*fetch"),
    ],
)
def test_a_run_whose_making_is_not_all_known_is_refused(changes, said: str) -> None:
    with pytest.raises(TrackingError, match=rf"run 0123456789 \(evaluate\).*{said}"):
        check_reproducible(replace(RUN, **changes), has(CODE))


@pytest.mark.parametrize("dirty", [False, None])
def test_code_that_was_not_the_commits_is_refused_whatever_the_run_says(dirty) -> None:
    with pytest.raises(TrackingError, match="pipeline/models differed from commit"):
        check_reproducible(replace(RUN, dirty=dirty), has({**CODE, "pipeline/models": "c2.dir"}))


def test_the_same_bytes_are_the_same(tmp_path: Path) -> None:
    found = compare(RUN, {}, THEN, tmp_path, listing=lambda _: None)
    assert found.same == ["metrics/p.json", "predictions"]
    assert (found.different, found.inputs) == ([], {})


def test_other_metrics_are_told_by_their_values(tmp_path: Path) -> None:
    write_json(tmp_path / "metrics" / "p.json", {"test/p_at_1": 0.5, "test/facts": 9, "new": 1.0})
    again = replace(THEN, outputs={**THEN.outputs, "metrics/p.json": "a1"})
    found = compare(
        RUN, {"test/p_at_1": 0.25, "test/facts": 9.0}, again, tmp_path, listing=lambda _: None
    )
    assert found.same == ["predictions"]
    metrics = {"test/p_at_1": (0.25, 0.5), "new": (None, 1.0)}
    assert found.different == [Difference("metrics/p.json", metrics=metrics)]


def test_another_folder_is_told_by_its_files(tmp_path: Path) -> None:
    inner = tmp_path / "predictions" / "deep"
    inner.mkdir(parents=True)
    (inner / "same.txt").write_text("1")
    (inner / "other.txt").write_text("2")
    (inner.parent / "new.txt").write_text("3")
    before = [("deep/same.txt", file_hash(b"1")), ("deep/other.txt", "0"), ("gone.txt", "1")]
    digest = folder_hash(before)
    first = replace(RUN, execution=replace(THEN, outputs={"predictions": digest}))
    again = replace(THEN, outputs={"predictions": "b1.dir"})
    found = compare(first, {}, again, tmp_path, listing={digest: before}.get)
    files = ["deep/other.txt", "gone.txt", "new.txt"]
    assert found.different == [Difference("predictions", files)]
    unknown = compare(first, {}, again, tmp_path, listing=lambda _: None)
    assert unknown.different == [Difference("predictions")]


def test_other_inputs_are_named_with_both_hashes(tmp_path: Path) -> None:
    first = replace(
        RUN, execution=replace(THEN, inputs={**THEN.inputs, "metrics": "x", "metrics/q.json": "q"})
    )
    again = replace(THEN, inputs={**THEN.inputs, "data/model": "m1.dir", "metrics": "x"})
    found = compare(first, {}, again, tmp_path, listing=lambda _: None)
    assert found.inputs == {"data/model": ("m0.dir", "m1.dir")}


def test_a_worktree_has_the_commit_and_is_removed(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "a.txt").write_text("first")
    for command in ("git init -q", "git add -A", "git commit -qm one"):
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
