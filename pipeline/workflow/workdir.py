"""Where a stage keeps its progress: `.work/<run key>/`, outside its outputs, locked while it lives.

The run key is the content of all that the stage depends on, so a folder that is found there was
left by the same work, killed. It stays until DVC has recorded the stage: dvc may be killed between
the stage's end and its own.

A unit of work within a stage (one setting, one split, one seed) has a key of its own, of what that
unit depends on, and stays in `.work/units/<unit key>/`: a longer list of seeds trains the new ones.
"""

import contextlib
import fcntl
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from pipeline.files import write_text

_RUN_KEY = re.compile(r"[0-9a-f]{64}")
_UNITS = "units"
_UNIT_DAYS = 30


class WorkFolder:
    """The progress of one stage execution."""

    def __init__(self, folder: Path, *, forced: bool = False) -> None:
        """Take an existing folder; `forced`, if DVC has this work on record and runs it anew."""
        self.folder = folder
        self._forced = forced
        self._begun: set[str] = set()

    @contextmanager
    def unit(self, name: str, key: str | None, on_wait: Callable[[], None]) -> Iterator[Path]:
        """Lock and yield the folder of a unit's progress, which may hold some already.

        Args:
            name: tells the unit apart within the stage.
            key: 64 hexadecimal digits, of all that decides the unit's result; None keeps the unit
                with the stage.
            on_wait: called once if another process works on the same key; this one then waits.
        """
        if key is None:
            folder = self.path("units", name)
            folder.mkdir(exist_ok=True)
            yield folder
            return
        folder = self.folder.parent / _UNITS / key
        folder.parent.mkdir(exist_ok=True)
        with locked(folder, on_wait):
            if self._forced and key not in self._begun:
                shutil.rmtree(folder, ignore_errors=True)
            self._begun.add(key)
            folder.mkdir(exist_ok=True)
            os.utime(folder)
            yield folder

    def path(self, *parts: str) -> Path:
        """Return a path in the folder; the folders on the way to it are made."""
        path = self.folder.joinpath(*parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def note(self, name: str, value: str) -> None:
        """Keep a short text for the next attempt."""
        write_text(self.path(f"{name}.txt"), value)

    def noted(self, name: str) -> str | None:
        """Return what an earlier attempt, or this one, noted under a name."""
        path = self.path(f"{name}.txt")
        return path.read_text(encoding="utf-8") if path.exists() else None


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
        root: of the main checkout, so that all checkouts of `dvc exp` share the progress.
        run_key: None for a stage that DVC does not run: it gets a folder that is not kept.
        recorded: which of some run keys DVC has recorded as done. Work that is found under a
            recorded key is not gone on with: whoever runs the stage again wants it run.
        on_wait: called once if another process works on the same key; this one then waits.
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


def clear_recorded(root: Path, recorded: Callable[[Collection[str]], set[str]]) -> None:
    """Delete the progress of all work that DVC has recorded as done and nobody is at."""
    folders = {path.name: path for path in (root / ".work").glob("*") if _is_work(path)}
    for key in sorted(recorded(folders)) if folders else []:
        try:
            with locked(folders[key], None):
                shutil.rmtree(folders[key], ignore_errors=True)
        except BlockingIOError:
            continue


def clear_units(root: Path) -> None:
    """Delete the units that no stage has asked for in a month and nobody is at."""
    oldest = time.time() - _UNIT_DAYS * 24 * 3600
    for folder in sorted((root / ".work" / _UNITS).glob("*")):
        if _is_work(folder) and folder.stat().st_mtime < oldest:
            with contextlib.suppress(BlockingIOError), locked(folder, None):
                shutil.rmtree(folder, ignore_errors=True)


def _is_work(path: Path) -> bool:
    return path.is_dir() and _RUN_KEY.fullmatch(path.name) is not None


@contextmanager
def locked(folder: Path, on_wait: Callable[[], None] | None) -> Iterator[None]:
    """Hold the lock of a folder, which is a file beside it.

    Args:
        folder: need not be there.
        on_wait: called once if another process holds it; this one then waits.

    Raises:
        BlockingIOError: another process holds it, and there is nobody to tell of the wait.
    """
    path = folder.with_name(f"{folder.name}.lock")
    file = _open_locked(path, on_wait)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        file.close()


def _open_locked(path: Path, on_wait: Callable[[], None] | None) -> TextIO:
    told = False
    while True:
        file = path.open("w")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if on_wait is None:
                file.close()
                raise
            if not told:
                on_wait()
            told = True
            fcntl.flock(file, fcntl.LOCK_EX)
        if _is_at(file, path):
            return file
        file.close()


def _is_at(file: TextIO, path: Path) -> bool:
    """Whether the open file is still the one of this name: who held it may have deleted it."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
