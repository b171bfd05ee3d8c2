"""Units on a machine that does not see the project's folder: inputs go there, progress comes back.

`ProjectFiles` is on the machine of the stage. A `Replica` is a temporary folder of the worker, in
which a unit finds its files under the same paths, relative to the current folder.
"""

import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.engine.units import Unit
from pipeline.errors import DataError
from pipeline.files import link_or_copy, replace_durably, sha256

# Files travel in pieces, so that neither side needs memory for a whole model.
_PIECE = 2**26
# Inputs that a machine has not used for so long are deleted there.
_CACHE_DAYS = 30

# Inode, size and time of the last change: a file with the same ones has not changed.
_Stamp = tuple[int, int, int]


class ProjectFiles:
    """Reads and writes the files of a project for workers; paths are relative to its folder."""

    def __init__(self, root: str) -> None:
        """Initialize with the current folder of the stage."""
        self._root = Path(root)
        self._digests: dict[Path, tuple[_Stamp, str]] = {}

    def digests(self, paths: Iterable[Path]) -> dict[str, str]:
        """Return path -> SHA-256 of each file at or below some paths."""
        return {
            str(path / file.relative_to(self._root / path)): self._digest(file)
            for path in paths
            for file in _files(self._root / path)
        }

    def read(self, path: str, offset: int) -> bytes:
        """Return a piece of a file; an empty one at its end."""
        with (self._root / path).open("rb") as file:
            file.seek(offset)
            return file.read(_PIECE)

    def write(self, path: str, offset: int, data: bytes, *, last: bool) -> None:
        """Write a piece of a file, which appears under its name with the last one."""
        target = self._root / path
        partial = target.with_name(f".{target.name}.partial")
        if offset == 0:
            target.parent.mkdir(parents=True, exist_ok=True)
            partial.write_bytes(b"")
        with partial.open("r+b") as file:
            file.seek(offset)
            file.write(data)
        if last:
            replace_durably(partial, target)

    def link(self, source: str, path: str) -> None:
        """Write a file that has the content of another."""
        target = self._root / path
        partial = target.with_name(f".{target.name}.partial")
        partial.unlink(missing_ok=True)
        link_or_copy(self._root / source, partial)
        partial.replace(target)
        partial.unlink(missing_ok=True)  # it stays where both names were links of one file

    def delete(self, path: str) -> None:
        """Delete a file, if it is there."""
        (self._root / path).unlink(missing_ok=True)

    def _digest(self, file: Path) -> str:
        stamp = _stamp(file)
        known = self._digests.get(file)
        if known is None or known[0] != stamp:
            known = self._digests[file] = (stamp, sha256(file))
        return known[1]


class Replica:
    """What one unit needs of the project, in a temporary folder.

    Attributes:
        root: for the unit, the current folder.
    """

    def __init__(self, unit: Unit, root: Path, call: Callable[..., Any]) -> None:
        """Initialize; see `replica_of`."""
        self._unit = unit
        self._call = call
        self.root = root
        self._sent: dict[str, _Stamp] = {}

    def fetch(self) -> None:
        """Fetch what the unit reads, and its progress."""
        self.root.mkdir(parents=True)
        for path in self._written:
            self._place(str(path)).parent.mkdir(parents=True, exist_ok=True)
        cache = _cache_folder()
        for name, digest in self._call("digests", self._unit.reads).items():
            self._place(name).parent.mkdir(parents=True, exist_ok=True)
            self._place(name).symlink_to(self._cached(cache, name, digest))
        folder = self._unit.folder
        for name in self._call("digests", [] if folder is None else [folder]):
            place = self._place(name)
            place.parent.mkdir(parents=True, exist_ok=True)
            self._fetch(name, place)
            self._sent[name] = _stamp(place)

    def send(self) -> None:
        """Send what has changed; a file arrives after those that were there when it was written."""
        with tempfile.TemporaryDirectory(dir=self.root) as folder:
            files = self._snapshot(Path(folder))
            for name, file in reversed(files.items()):
                stamp = _stamp(file)
                if self._sent.get(name) != stamp:
                    self._send(name, file, stamp)
        for name in self._sent.keys() - files.keys():
            self._call("delete", name)
            del self._sent[name]

    @property
    def _written(self) -> list[Path]:
        folder = self._unit.folder
        return [*([] if folder is None else [folder]), *self._unit.writes]

    def _place(self, name: str) -> Path:
        return Path(os.path.normpath(self.root / name))

    def _snapshot(self, folder: Path) -> dict[str, Path]:
        """Link the files aside, the newest first; name -> link.

        A process of the training may replace and delete them meanwhile. What a file needs is older
        and linked later, so it is there, or the file has been replaced too and all is repeated.
        """
        for attempt in range(1000):
            linked: dict[str, Path] = {}
            try:
                files = [(name, file, file.stat().st_mtime_ns) for name, file in self._present()]
                for name, file, _ in sorted(files, key=lambda one: one[2], reverse=True):
                    linked[name] = folder / f"{attempt}-{len(linked)}"
                    os.link(file, linked[name])
            except FileNotFoundError:
                continue
            return linked
        raise DataError(f"{self._unit.name}: its files change all the time; nothing was sent")

    def _present(self) -> Iterator[tuple[str, Path]]:
        for path in self._written:
            place = self._place(str(path))
            for file in _files(place):
                yield str(path / file.relative_to(place)), file

    def _send(self, name: str, file: Path, stamp: _Stamp) -> None:
        same = [other for other, sent in self._sent.items() if sent == stamp]
        if same:  # renamed or linked
            self._call("link", same[0], name)
        else:
            size = file.stat().st_size
            with file.open("rb") as opened:
                for offset in range(0, max(1, size), _PIECE):
                    data = opened.read(_PIECE)
                    self._call("write", name, offset, data, last=offset + len(data) == size)
        self._sent[name] = stamp

    def _fetch(self, name: str, target: Path) -> None:
        with target.open("wb") as file:
            while data := self._call("read", name, file.tell()):
                file.write(data)

    def _cached(self, cache: Path, name: str, digest: str) -> Path:
        """Return the file of this machine that has the content of an input."""
        kept = cache / digest
        if not kept.exists():
            with tempfile.TemporaryDirectory(dir=cache) as folder:
                partial = Path(folder) / digest
                self._fetch(name, partial)
                if sha256(partial) != digest:
                    raise DataError(f"{name}: changed while it was sent; run again")
                partial.replace(kept)
        os.utime(kept)
        return kept


@contextmanager
def replica_of(unit: Unit, root: str, call: Callable[..., Any]) -> Iterator[Replica]:
    """Yield a replica with the files of a unit; send what it has left, also if it has failed.

    Args:
        unit: what it reads, resumes and writes.
        root: the absolute path of the folder that the unit's paths are relative to.
        call: calls the method of `ProjectFiles` of a name, with arguments.
    """
    with tempfile.TemporaryDirectory(prefix="p-tuning-") as folder:
        # The whole path, as paths of units may have `..` in them.
        replica = Replica(unit, Path(folder, *Path(root).parts[1:]), call)
        replica.fetch()
        try:
            yield replica
        except Exception:
            replica.send()
            raise
        replica.send()


def _cache_folder() -> Path:
    """Return the folder of this machine's inputs, named by content; delete those not used."""
    caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(caches) / "p-tuning"
    folder.mkdir(parents=True, exist_ok=True)
    oldest = time.time() - _CACHE_DAYS * 24 * 3600
    for file in folder.iterdir():
        if file.is_file() and file.stat().st_mtime < oldest:
            file.unlink(missing_ok=True)
    return folder


def _files(path: Path) -> list[Path]:
    """Return the complete files at or below a path."""
    found = [path] if path.is_file() else sorted(path.rglob("*"))
    return [file for file in found if file.is_file() and not file.name.endswith(".partial")]


def _stamp(file: Path) -> _Stamp:
    status = file.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns
