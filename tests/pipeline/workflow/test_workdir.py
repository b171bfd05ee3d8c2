import multiprocessing
import os
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

from pipeline.workflow import workdir
from pipeline.workflow.workdir import (
    WorkFolder,
    clear_recorded,
    clear_unused,
    delete_work,
    in_use,
    kept_work,
    unit_locked,
    work_folder,
)

KEY = "ab" * 32
OTHER = "cd" * 32

_context = multiprocessing.get_context("spawn")


def none_of_them(_: Collection[str]) -> set[str]:
    return set()


def all_of_them(keys: Collection[str]) -> set[str]:
    return set(keys)


def alone() -> None:
    raise AssertionError("nobody else works on this key")


def opened(root: Path, key: str | None = KEY, **changes: Any) -> AbstractContextManager[WorkFolder]:
    return work_folder(root, key, **{"recorded": none_of_them, "on_wait": alone} | changes)


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 600
    while not path.exists():
        assert time.monotonic() < deadline, path
        time.sleep(0.01)


def _hold(root: Path, key: str, inside: Path, leave: Path) -> None:
    """Stay in a work folder until asked to leave."""
    with opened(root, key) as work:
        work.note("epoch", "3")
        inside.touch()
        wait_for(leave)
        time.sleep(0.2)
        work.note("epoch", "4")


@contextmanager
def holder(root: Path, key: str = KEY, *, name: str = "a") -> Iterator[tuple[BaseProcess, Path]]:
    """Run a process that is in a work folder; yield it, and the file that tells it to leave."""
    inside, leave = root / f"{name}.inside", root / f"{name}.leave"
    process = _context.Process(target=_hold, args=(root, key, inside, leave))
    process.start()
    try:
        wait_for(inside)
        yield process, leave
    finally:
        process.kill()
        process.join()


def run_together(root: Path, calls: Sequence[tuple[Callable[..., None], tuple[Any, ...]]]) -> None:
    """Make each call in its own process; they start when the file `start` is there."""
    processes = [_context.Process(target=target, args=args) for target, args in calls]
    for process in processes:
        process.start()
    (root / "start").touch()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * len(processes)


def test_the_progress_of_a_key_is_found_again_and_by_no_other_key(tmp_path: Path) -> None:
    with opened(tmp_path) as work:
        work.note("run_id", "abc")
        work.path("checkpoints", "P17.pt").write_text("weights")
    with opened(tmp_path, OTHER) as work:
        assert work.noted("run_id", str) is None
        assert not work.path("checkpoints", "P17.pt").exists()
    with opened(tmp_path) as work:
        assert work.noted("run_id", str) == "abc"
        assert work.path("checkpoints", "P17.pt").read_text() == "weights"


def test_a_note_holds_what_was_noted_last(tmp_path: Path) -> None:
    with opened(tmp_path) as work:
        assert work.noted("run_id", str) is None
        work.note("run_id", "abc")
        work.note("run_id", "Zürich\n")
        assert work.noted("run_id", str) == "Zürich\n"


def test_an_error_keeps_the_progress_and_frees_the_key(tmp_path: Path) -> None:
    def fail() -> None:
        with opened(tmp_path) as work:
            work.note("epoch", "3")
            raise ArithmeticError

    with pytest.raises(ArithmeticError):
        fail()
    with opened(tmp_path) as work:
        assert work.noted("epoch", str) == "3"


def test_work_that_dvc_has_recorded_is_not_resumed(tmp_path: Path) -> None:
    with opened(tmp_path) as work:
        work.note("epoch", "3")
    asked = []

    def recorded(keys: Collection[str]) -> set[str]:
        asked.extend(keys)
        return set(keys)

    with opened(tmp_path, recorded=recorded) as work:
        assert list(work.folder.iterdir()) == []
    assert asked == [KEY]


def test_between_two_attempts_only_the_folder_is_left(tmp_path: Path) -> None:
    with opened(tmp_path):
        pass
    assert [path.name for path in (tmp_path / ".work").iterdir()] == [KEY]


def test_a_stage_without_a_key_gets_a_folder_that_vanishes(tmp_path: Path) -> None:
    with opened(tmp_path, None) as work:
        work.note("epoch", "3")
        assert work.noted("epoch", str) == "3"
        assert tmp_path not in work.folder.parents
    assert not work.folder.exists()
    assert list(tmp_path.iterdir()) == []


def test_only_what_is_recorded_is_cleared(tmp_path: Path) -> None:
    for key in (KEY, OTHER):
        with opened(tmp_path, key) as work:
            work.note("epoch", "3")
    downloads = tmp_path / ".work" / "downloads"
    downloads.mkdir()
    (tmp_path / ".work" / "mlflow.lock").touch()
    clear_recorded(tmp_path, lambda keys: {KEY} & set(keys))
    assert not (tmp_path / ".work" / KEY).exists()
    assert (tmp_path / ".work" / OTHER / "epoch.txt").read_text() == "3"
    clear_recorded(tmp_path, all_of_them)
    left = sorted(path.name for path in (tmp_path / ".work").iterdir())
    assert left == ["downloads", "mlflow.lock"]


def test_without_any_progress_there_is_nothing_to_clear(tmp_path: Path) -> None:
    clear_recorded(tmp_path, all_of_them)
    assert list(tmp_path.iterdir()) == []


def test_what_another_process_is_at_is_not_cleared(tmp_path: Path) -> None:
    with opened(tmp_path, OTHER) as work:
        work.note("epoch", "3")
    with holder(tmp_path) as (process, leave):
        clear_recorded(tmp_path, all_of_them)
        assert not (tmp_path / ".work" / OTHER).exists()
        leave.touch()
        process.join()
        assert process.exitcode == 0
    with opened(tmp_path) as work:
        assert work.noted("epoch", str) == "4"


def test_a_second_process_waits_until_the_first_has_ended(tmp_path: Path) -> None:
    waits = []
    with holder(tmp_path) as (process, leave):

        def on_wait() -> None:
            waits.append(process.is_alive())
            leave.touch()

        with opened(tmp_path, on_wait=on_wait) as work:
            assert work.noted("epoch", str) == "4"
    assert waits == [True]


def test_a_second_process_resumes_when_the_first_is_killed(tmp_path: Path) -> None:
    waits = []
    with holder(tmp_path) as (process, _):

        def on_wait() -> None:
            waits.append(process.is_alive())
            process.kill()

        with opened(tmp_path, on_wait=on_wait) as work:
            assert work.noted("epoch", str) == "3"
            process.join(timeout=600)
            assert not process.is_alive()
    assert waits == [True]


def test_a_wait_for_one_process_after_the_other_is_reported_once(tmp_path: Path) -> None:
    waits = []
    with holder(tmp_path) as (first, _):

        def on_wait() -> None:
            waits.append(True)
            if len(waits) > 1:
                return
            # What a process does that ends: it deletes the lock's file, and another makes it again.
            (tmp_path / ".work" / f"{KEY}.lock").unlink()
            second = _context.Process(
                target=_hold, args=(tmp_path, KEY, tmp_path / "b.inside", tmp_path / "b.leave")
            )
            second.start()
            wait_for(tmp_path / "b.inside")
            (tmp_path / "b.leave").touch()
            first.kill()

        with opened(tmp_path, on_wait=on_wait) as work:
            assert work.noted("epoch", str) == "4"
    assert waits == [True]


def test_two_keys_do_not_wait_for_each_other(tmp_path: Path) -> None:
    with holder(tmp_path), opened(tmp_path, OTHER) as work:
        work.note("epoch", "3")


def _count(root: Path, rounds: int) -> None:
    """Enter and leave one work folder, counting in it by reading and writing."""
    counter = root / "counter"
    wait_for(root / "start")
    for _ in range(rounds):
        with opened(root, on_wait=lambda: None):
            count = int(counter.read_bytes())
            os.sched_yield()
            counter.write_bytes(b"%d" % (count + 1))


def test_however_many_there_are_only_one_is_in_a_folder(tmp_path: Path) -> None:
    (tmp_path / "counter").write_bytes(b"0")
    run_together(tmp_path, [(_count, (tmp_path, 40))] * 8)
    assert int((tmp_path / "counter").read_bytes()) == 8 * 40


def _clear(root: Path, seconds: float) -> None:
    wait_for(root / "start")
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        clear_recorded(root, all_of_them)


def _note_and_read(root: Path, seconds: float) -> None:
    wait_for(root / "start")
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        with opened(root, on_wait=lambda: None) as work:
            work.note("epoch", "3")
            os.sched_yield()
            assert work.noted("epoch", str) == "3"


def test_clearing_never_reaches_a_folder_that_is_in_use(tmp_path: Path) -> None:
    targets = (_note_and_read, _note_and_read, _clear, _clear)
    run_together(tmp_path, [(target, (tmp_path, 1.0)) for target in targets])


@contextmanager
def unit_of(work: WorkFolder, key: str | None = OTHER) -> Iterator[Path]:
    folder = work.unit("setting-1/seed-2", key, alone)
    with unit_locked(folder, alone):
        yield folder


def test_a_unit_outlives_its_stage_and_serves_another(tmp_path: Path) -> None:
    with opened(tmp_path) as work, unit_of(work) as folder:
        (folder / "weights").touch()
    with opened(tmp_path, "ef" * 32) as work, unit_of(work) as folder:
        assert (folder / "weights").exists()
    with opened(tmp_path, "ef" * 32) as work, unit_of(work, "01" * 32) as folder:
        assert not list(folder.iterdir())


def test_a_unit_outside_dvc_goes_with_its_stage(tmp_path: Path) -> None:
    with opened(tmp_path, None) as work:
        with unit_of(work, None) as folder:
            (folder / "weights").touch()
        with unit_of(work, None) as folder:
            assert (folder / "weights").exists()
    assert not folder.exists()


def test_who_runs_a_recorded_stage_again_wants_its_units_anew(tmp_path: Path) -> None:
    with opened(tmp_path) as work, unit_of(work) as folder:
        (folder / "weights").touch()
    with opened(tmp_path, recorded=all_of_them) as work:
        with unit_of(work) as folder:
            assert not list(folder.iterdir())
            (folder / "weights").touch()
        # Cleared once: what this execution has trained stays.
        with unit_of(work) as folder:
            assert (folder / "weights").exists()


def test_units_that_nobody_has_asked_for_in_a_month_are_deleted(tmp_path: Path) -> None:
    with opened(tmp_path) as work:
        with unit_of(work, KEY) as old, unit_of(work, OTHER) as new:
            pass
        long_ago = time.time() - 40 * 24 * 3600
        os.utime(old, (long_ago, long_ago))
        with unit_of(work, "01" * 32) as busy:
            os.utime(busy, (long_ago, long_ago))
            clear_unused(tmp_path)
    assert (old.exists(), new.exists(), busy.exists()) == (False, True, True)


def age(folder: Path, days: float) -> None:
    then = time.time() - days * 24 * 3600
    os.utime(folder, (then, then))


def test_progress_of_a_stage_that_nobody_resumes_is_deleted_after_a_month(tmp_path: Path) -> None:
    for key, days in ((KEY, 40), (OTHER, 20)):
        with opened(tmp_path, key) as work:
            work.note("epoch", "3")
        age(work.folder, days)
    clear_unused(tmp_path)
    assert [work.folder.name for work in kept_work(tmp_path)] == [OTHER]


def before_locking(monkeypatch: pytest.MonkeyPatch, act: Callable[[], None]) -> None:
    """Have another process act after a folder is found and before it is locked."""
    lock = workdir.locked

    def locked(folder: Path, on_wait: None) -> AbstractContextManager[None]:
        act()
        return lock(folder, on_wait)

    monkeypatch.setattr(workdir, "locked", locked)


def test_a_unit_that_is_used_again_before_it_is_locked_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(tmp_path) as work, unit_of(work) as unit:
        pass
    age(unit, 40)
    before_locking(monkeypatch, lambda: os.utime(unit))
    clear_unused(tmp_path)
    assert unit.exists()


def test_a_unit_that_another_process_deletes_meanwhile_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(tmp_path) as work, unit_of(work) as unit:
        pass
    age(unit, 40)
    before_locking(monkeypatch, unit.rmdir)
    clear_unused(tmp_path)
    assert [path.name for path in (tmp_path / ".work/units").iterdir()] == []


def test_units_beyond_the_limit_are_deleted_oldest_first_but_not_those_of_a_week(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = [digit * 64 for digit in "123"]
    with opened(tmp_path) as work:
        for key, days in zip(keys, (20, 10, 1), strict=True):
            with unit_of(work, key) as unit:
                (unit / "weights").write_bytes(bytes(2**20))
            age(unit, days)

    def left(limit: int) -> list[str]:
        monkeypatch.setattr(workdir, "_MAX_BYTES", limit)
        clear_unused(tmp_path)
        return [one.folder.name for one in kept_work(tmp_path) if one.is_unit]

    assert left(3 * 2**20) == keys
    assert left(2 * 2**20) == keys[1:]
    assert left(0) == keys[2:]


def test_what_also_has_a_name_elsewhere_frees_nothing(tmp_path: Path) -> None:
    with opened(tmp_path) as work, unit_of(work) as unit:
        (unit / "weights").write_bytes(bytes(2**20))
        (unit / "results").write_bytes(bytes(2**16))
    (found,) = (one for one in kept_work(tmp_path) if one.is_unit)
    assert found.num_bytes == 2**20 + 2**16
    (tmp_path / "models").hardlink_to(unit / "weights")
    (found,) = (one for one in kept_work(tmp_path) if one.is_unit)
    assert found.num_bytes == 2**16


def test_what_a_process_uses_is_not_deleted_by_hand_either(tmp_path: Path) -> None:
    with opened(tmp_path, OTHER):
        pass
    with holder(tmp_path):
        found = {work.folder.name: work for work in kept_work(tmp_path)}
        assert {name: in_use(work) for name, work in found.items()} == {KEY: True, OTHER: False}
        assert not delete_work(found[KEY])
        assert delete_work(found[OTHER])
    assert [work.folder.name for work in kept_work(tmp_path)] == [KEY]


def test_a_damaged_note_is_as_if_it_did_not_exist(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    work = WorkFolder(tmp_path)
    for content in (b"\0\0\0", b"", b"\xff", b"soon"):
        (tmp_path / "seconds.txt").write_bytes(content)
        assert work.noted("seconds", float) is None
        assert "seconds.txt: damaged (" in capsys.readouterr().err
    work.note("seconds", "1.5")
    assert work.noted("seconds", float) == 1.5
