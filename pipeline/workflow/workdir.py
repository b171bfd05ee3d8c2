"""Progress of stages: `.work/<run key>/`, outside their outputs, locked while a stage runs.

The run key is the hash of everything that the stage depends on, so an existing folder was left by
the same work after a kill. It is kept until DVC has recorded the stage, as dvc may be killed after
the stage has ended.

A unit of work within a stage (a bank of prompts, or one tuned model) has a separate key, the hash
of what that unit depends on, and is kept in `.work/units/<unit key>/`: adding a seed trains only
the new one.

What no stage has used for 30 days is deleted. If units take more than 100 GB, those that no stage
has used for a week are deleted too, the oldest first, until they take less.
"""

import contextlib
import math
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from pipeline.files import Value, read_progress, write_text

_RUN_KEY = re.compile(r"[0-9a-f]{64}")
_UNITS = "units"
_DAY_SECONDS = 24 * 3600
_DAYS = 30
_MAX_BYTES = 100 * 10**9
_DAYS_BEYOND = 7


class WorkFolder:
    """The progress of one stage execution."""

    def __init__(self, folder: Path, *, forced: bool = False) -> None:
        """Initialize with an existing folder.

        `forced`: DVC has recorded this work, and the user runs it again, from the start.
        """
        self.folder = folder
        self._forced = forced
        self._started: set[str] = set()

    def unit(self, name: str, key: str | None, on_wait: Callable[[], None]) -> Path:
        """Return the folder of a unit, which may contain progress; use it with `unit_locked`.

        `name` is unique within the stage; `key`, the hash of everything that determines the unit's
        result, in 64 hexadecimal digits. None keeps the unit in the stage's folder. `on_wait`: see
        `locked`.
        """
        if key is None:
            return self.path("units", name)
        folder = self.folder.parent / _UNITS / key
        folder.parent.mkdir(exist_ok=True)
        if self._forced and key not in self._started:
            with locked(folder, on_wait):
                shutil.rmtree(folder, ignore_errors=True)
        self._started.add(key)
        return folder

    def path(self, *parts: str) -> Path:
        """A path in the folder; its parents are created."""
        path = self.folder.joinpath(*parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def note(self, name: str, value: str) -> None:
        """Save a short text for the next attempt."""
        write_text(self.path(f"{name}.txt"), value)

    def noted(self, name: str, parse: Callable[[str], Value]) -> Value | None:
        """The value that this or an earlier attempt saved under a name; None if there is none.

        `parse` reads the text; text that it refuses is damaged, and as if it did not exist.
        """
        path = self.path(f"{name}.txt")
        return read_progress(path, lambda file: parse(file.read_text(encoding="utf-8")))


@contextmanager
def work_folder(
    root: Path,
    run_key: str | None,
    *,
    recorded: Callable[[Collection[str]], set[str]],
    on_wait: Callable[[], None],
) -> Iterator[WorkFolder]:
    """Lock and yield the work folder of a run key.

    Args:
        root: root of the main checkout, so that all checkouts of `dvc exp` share the progress.
        run_key: None for a stage that DVC does not run: its folder is temporary.
        recorded: returns which of some run keys DVC has recorded. Recorded work is never resumed:
            rerunning a recorded stage starts from the beginning.
        on_wait: called once if another process holds the lock, before waiting for it.
    """
    if run_key is None:
        with tempfile.TemporaryDirectory(prefix="p-tuning-") as temporary:
            yield WorkFolder(Path(temporary))
        return
    folder = root / ".work" / run_key
    folder.parent.mkdir(exist_ok=True)
    with locked(folder, on_wait):
        forced = bool(recorded([run_key]))
        if forced:
            shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(exist_ok=True)
        yield WorkFolder(folder, forced=forced)


@contextmanager
def unit_locked(folder: Path, on_wait: Callable[[], None]) -> Iterator[None]:
    """Hold the lock of a unit's folder, in the process that runs the unit; see `locked`."""
    with locked(folder, on_wait):
        folder.mkdir(exist_ok=True)
        os.utime(folder)
        yield


def clear_recorded(root: Path, recorded: Callable[[Collection[str]], set[str]]) -> None:
    """Delete the progress of all work that DVC has recorded, unless a process uses it."""
    folders = {path.name: path for path in (root / ".work").glob("*") if _is_work(path)}
    _delete_unused(folders[key] for key in sorted(recorded(folders) if folders else []))


def clear_unused(root: Path) -> None:
    """Delete the progress and the units that no stage has used for long; see above."""
    now = time.time()
    everything = kept_work(root)
    oldest = now - _DAYS * _DAY_SECONDS
    _delete_unused((work.folder for work in everything if work.used < oldest), before=oldest)
    units = [work for work in everything if work.is_unit and work.used >= oldest]
    excess = sum(unit.num_bytes for unit in units) - _MAX_BYTES
    oldest = now - _DAYS_BEYOND * _DAY_SECONDS
    for unit in units:
        if excess > 0 and unit.used < oldest:
            _delete_unused([unit.folder], before=oldest)
            excess -= unit.num_bytes


@dataclass(frozen=True)
class KeptWork:
    """The folder of a stage's progress, or of a unit.

    Attributes:
        folder: `.work/<run key>` or `.work/units/<unit key>`.
        used: when a stage used it last, in seconds since 1970.
        num_bytes: what deleting it frees: files that also have a name elsewhere, as the weights in
            `models/`, do not count.
    """

    folder: Path
    used: float
    num_bytes: int

    @property
    def is_unit(self) -> bool:
        """Whether it belongs to a unit."""
        return self.folder.parent.name == _UNITS


def kept_work(root: Path) -> list[KeptWork]:
    """Return all progress and units, in use or not, the one that was used longest ago first.

    Raises:
        OSError: `.work` or `.work/units` cannot be read.
    """
    folders = [*entries(root / ".work"), *entries(root / ".work" / _UNITS)]
    found = []
    for folder in filter(_is_work, folders):
        with contextlib.suppress(FileNotFoundError):  # another process has deleted it
            found.append(KeptWork(folder, folder.stat().st_mtime, _freed_bytes(folder)))
    return sorted(found, key=lambda work: work.used)


def delete_work(work: KeptWork) -> bool:
    """Delete a folder unless a process uses it; return whether it is gone."""
    _delete_unused([work.folder])
    return not work.folder.exists()


def in_use(work: KeptWork) -> bool:
    """Whether a process uses a folder now."""
    try:
        with locked(work.folder, None):
            return False
    except BlockingIOError:
        return True


def entries(folder: Path) -> list[Path]:
    """Return what is in a folder, sorted; empty where there is none.

    Raises:
        OSError: it cannot be read.
    """
    try:
        return sorted(folder.iterdir())
    except FileNotFoundError:
        return []


def _freed_bytes(folder: Path) -> int:
    stats = [path.lstat() for path in folder.rglob("*") if path.is_file()]
    return sum(stat.st_blocks * 512 for stat in stats if stat.st_nlink == 1)


def _delete_unused(folders: Iterable[Path], *, before: float = math.inf) -> None:
    """Delete the folders that no process uses and none has used since `before`."""
    for folder in folders:
        # Its time is read under the lock: until then, a stage may have used it again.
        with contextlib.suppress(BlockingIOError, FileNotFoundError), locked(folder, None):
            if folder.stat().st_mtime < before:
                shutil.rmtree(folder, ignore_errors=True)


def _is_work(path: Path) -> bool:
    return path.is_dir() and _RUN_KEY.fullmatch(path.name) is not None


@contextmanager
def locked(folder: Path, on_wait: Callable[[], None] | None) -> Iterator[None]:
    """Hold the lock of a folder, which is a file next to it; the folder need not exist.

    If another process holds the lock, `on_wait` is called once before waiting for it.

    Raises:
        BlockingIOError: another process holds the lock, and `on_wait` is None.
    """
    lock = FileLock(folder.with_name(f"{folder.name}.lock"))
    try:
        lock.acquire(blocking=False)
    except Timeout as error:
        if on_wait is None:
            raise BlockingIOError(f"{folder} is locked by another process") from error
        on_wait()
        lock.acquire()
    try:
        yield
    finally:
        # While it is held: a process that waits for the deleted file starts over with a new one.
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()
