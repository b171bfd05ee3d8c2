import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from pipeline.training import checkpoint as checkpoints
from pipeline.training.checkpoint import Checkpoint

PROJECT = Path(__file__).parents[3]


class Clock:
    """The time, as a test wants it; writing can be made to take some."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    ours = Clock()
    monkeypatch.setattr(checkpoints, "time", SimpleNamespace(monotonic=ours.monotonic))
    return ours


def write_slowly(monkeypatch: pytest.MonkeyPatch, clock: Clock, seconds: float) -> None:
    save = torch.save

    def slow(*args: Any) -> None:
        save(*args)
        clock.now += seconds

    monkeypatch.setattr(torch, "save", slow)


def test_where_nothing_was_saved_there_is_nothing(tmp_path: Path) -> None:
    assert Checkpoint(tmp_path / "unit.pt", seconds=0.0).load() is None
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", [b"", b"\0" * 4096, b"cut", None])
def test_a_damaged_file_is_set_aside_and_the_work_restarts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes | None
) -> None:
    path = tmp_path / "unit.pt"
    Checkpoint(path, seconds=0.0).save({"progress": 1})
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] if content is None else content)
    assert Checkpoint(path, seconds=0.0).load("progress") is None
    assert capsys.readouterr().err.startswith(f"warning: {path}: damaged (")
    assert [file.name for file in tmp_path.iterdir()] == ["unit.pt.damaged"]


def test_a_state_without_a_key_and_a_folder_in_the_place_are_damaged(tmp_path: Path) -> None:
    path = tmp_path / "unit.pt"
    Checkpoint(path, seconds=0.0).save({"other": 1})
    assert Checkpoint(path, seconds=0.0).load("progress") is None
    path.mkdir()
    assert Checkpoint(path, seconds=0.0).load("progress") is None
    Checkpoint(path, seconds=0.0).save({"progress": 2})
    assert Checkpoint(path, seconds=0.0).load("progress") == {"progress": 2}


def test_what_was_saved_last_comes_back_bit_for_bit(tmp_path: Path) -> None:
    path = tmp_path / "unit.pt"
    state = {
        "position": {"epoch": 3, "losses": {"P17": 0.1 + 0.2}},
        "vectors": None,
        "list": [{"w": torch.rand(3, 4)}, torch.rand(2, dtype=torch.bfloat16)],
    }
    Checkpoint(path, seconds=0.0).save({"position": None})
    Checkpoint(path, seconds=0.0).save(state)
    found = Checkpoint(path, seconds=0.0).load()
    assert found is not None
    assert (found["position"], found["vectors"]) == (state["position"], None)
    assert torch.equal(found["list"][0]["w"], state["list"][0]["w"])  # type: ignore[index]
    assert torch.equal(found["list"][1], state["list"][1])  # type: ignore[index]
    assert [file.name for file in tmp_path.iterdir()] == ["unit.pt"]


def test_a_failure_while_writing_leaves_the_last_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "unit.pt"
    checkpoint = Checkpoint(path, seconds=0.0)
    checkpoint.save({"epoch": 1})

    def half(_: object, file: Any) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(OSError, match="No space left"):
        checkpoint.save({"epoch": 2})
    monkeypatch.undo()
    assert Checkpoint(path, seconds=0.0).load() == {"epoch": 1}
    checkpoint.save({"epoch": 3})
    assert Checkpoint(path, seconds=0.0).load() == {"epoch": 3}
    assert [file.name for file in tmp_path.iterdir()] == ["unit.pt"]


_KILLED = """
import os, sys
from pathlib import Path
import torch
from pipeline.training.checkpoint import Checkpoint
checkpoint = Checkpoint(Path(sys.argv[1]), seconds=0.0)
if sys.argv[2] == "second":
    checkpoint.save({"epoch": 1})
if sys.argv[3] == "writing":
    def die(state, file):
        file.write(b"half")
        file.flush()
        os._exit(9)
    torch.save = die
else:
    Path.replace = lambda *_: os._exit(9)
checkpoint.save({"epoch": 2})
"""


@pytest.mark.parametrize(("which", "moment"), [("first", "renaming"), ("second", "writing")])
def test_after_a_kill_a_checkpoint_is_whole_or_absent(
    tmp_path: Path, which: str, moment: str
) -> None:
    path = tmp_path / "unit.pt"
    killed = subprocess.run(
        [sys.executable, "-c", _KILLED, str(path), which, moment], cwd=PROJECT, timeout=600
    )
    assert killed.returncode == 9
    expected = None if which == "first" else {"epoch": 1}
    assert Checkpoint(path, seconds=0.0).load() == expected


def test_bytes_are_on_the_disk_before_the_name_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a machine that loses power may keep the new name and lose the content."""
    done = []
    sync, replace = os.fsync, Path.replace

    def synced(descriptor: int) -> None:
        done.append(f"synced {os.fstat(descriptor).st_size > 0}")
        sync(descriptor)

    def renamed(path: Path, target: Path) -> None:
        done.append("renamed")
        replace(path, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", renamed)
    Checkpoint(tmp_path / "unit.pt", seconds=0.0).save({"epoch": 1})
    assert done[:2] == ["synced True", "renamed"]


def test_the_next_one_is_due_when_the_interval_has_passed(tmp_path: Path, clock: Clock) -> None:
    checkpoint = Checkpoint(tmp_path / "unit.pt", seconds=30.0)
    for _ in range(3):
        assert not checkpoint.due
        clock.now += 29.5
        assert not checkpoint.due
        clock.now += 0.5
        assert checkpoint.due
        assert checkpoint.due  # asking changes nothing
        checkpoint.save({})


def test_without_an_interval_one_is_always_due(tmp_path: Path, clock: Clock) -> None:
    checkpoint = Checkpoint(tmp_path / "unit.pt", seconds=0.0)
    assert checkpoint.due
    checkpoint.save({})
    assert checkpoint.due


@pytest.mark.parametrize(("cost", "wait"), [(1.0, 30.0), (1.5, 30.0), (3.0, 60.0), (60.0, 1200.0)])
def test_writing_takes_a_twentieth_of_the_time_at_most(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch, cost: float, wait: float
) -> None:
    checkpoint = Checkpoint(tmp_path / "unit.pt", seconds=30.0)
    write_slowly(monkeypatch, clock, cost)
    checkpoint.save({})
    clock.now += wait - 0.5
    assert not checkpoint.due
    clock.now += 1.0  # beyond rounding
    assert checkpoint.due


def test_a_slow_write_is_forgotten_when_the_next_is_fast(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = Checkpoint(tmp_path / "unit.pt", seconds=30.0)
    write_slowly(monkeypatch, clock, 60.0)
    checkpoint.save({})
    monkeypatch.undo()
    monkeypatch.setattr(checkpoints, "time", SimpleNamespace(monotonic=clock.monotonic))
    checkpoint.save({})
    clock.now += 30.5
    assert checkpoint.due
