"""Safely extract selected files of an untrusted archive."""

import gzip
import io
import lzma
import re
import shutil
import stat
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from pipeline.errors import ChecksumError

# Far above any archive of the pipeline, and far too small to fill a disk.
MAX_MEMBERS = 200_000
MAX_BYTES = 8 << 30

# Exceptions when reading a damaged archive. RuntimeError and NotImplementedError: encryption, and
# unknown compressions. The last three: a name that is both file and folder.
_DAMAGE = (
    zipfile.BadZipFile,
    tarfile.TarError,
    gzip.BadGzipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    RuntimeError,
    NotImplementedError,
    UnicodeDecodeError,
    FileExistsError,
    IsADirectoryError,
    NotADirectoryError,
)


def extract_members(
    archive: Path,
    target: Path,
    select: Callable[[str], str | None],
    *,
    max_members: int = MAX_MEMBERS,
    max_bytes: int = MAX_BYTES,
) -> list[str]:
    """Extract selected regular files of a .zip or .tar.gz file.

    All of them are extracted before the first one appears in `target`.

    Args:
        archive: the file; its first bytes identify the format.
        target: an existing folder.
        select: name of a member -> path in `target` with slashes, or None to skip it. It is not
            called for folders.
        max_members: maximum number of members, selected or not.
        max_bytes: maximum of extracted bytes: of all members in a .tar.gz, of selected in a .zip.

    Returns:
        The paths in `target`, in the archive's order.

    Raises:
        ChecksumError: the archive is damaged or too large, or a selected member is not a regular
            file, has a name that leads outside, or the same path as another.
    """
    with tempfile.TemporaryDirectory(dir=target, prefix=".unpacking-") as folder:
        paths: list[PurePosixPath] = []
        used: set[str] = set()
        size = 0
        try:
            for count, member in enumerate(_members(archive, max_bytes), 1):
                if count > max_members:
                    raise ChecksumError(f"{archive}: more than {max_members} members; not unpacked")
                selected = None if member.is_folder else select(member.name)
                if selected is None:
                    continue
                if not member.is_file:
                    raise ChecksumError(
                        f"{archive}: {member.name!r} is a link or device, not a file"
                    )
                for name in (member.name, selected):
                    if not _leads_inside(name):
                        raise ChecksumError(f"{archive}: {name!r} leads outside the folder")
                path = PurePosixPath(selected)
                # Some file systems ignore case.
                if str(path).casefold() in used:
                    raise ChecksumError(f"{archive}: contains {path} twice")
                used.add(str(path).casefold())
                size += member.size
                if size > max_bytes:
                    raise ChecksumError(_too_large(archive, max_bytes))
                _unpack(archive, member, Path(folder, path))
                paths.append(path)
        except _DAMAGE as error:
            raise ChecksumError(f"{archive}: truncated or altered ({error})") from error
        for path in paths:
            (target / path).parent.mkdir(parents=True, exist_ok=True)
            Path(folder, path).replace(target / path)
    return [str(path) for path in paths]


@dataclass(frozen=True)
class _Member:
    name: str
    size: int
    is_folder: bool
    is_file: bool
    open: Callable[[], IO[bytes] | None]


def _members(archive: Path, max_bytes: int) -> Iterator[_Member]:
    with archive.open("rb") as file:
        start = file.read(4)
    if start[:2] == b"\x1f\x8b":
        return _tar_members(archive, max_bytes)
    if start[:2] == b"PK":
        return _zip_members(archive)
    raise ChecksumError(f"{archive}: neither a zip nor a gzip file; it begins with {start!r}")


def _zip_members(archive: Path) -> Iterator[_Member]:
    with zipfile.ZipFile(archive) as packed:
        for info in packed.infolist():
            file_type = stat.S_IFMT(info.external_attr >> 16)  # 0 if not recorded
            yield _Member(
                name=info.filename,
                size=info.file_size,
                is_folder=info.is_dir(),
                is_file=file_type in (0, stat.S_IFREG),
                open=lambda info=info: packed.open(info),  # type: ignore[misc]
            )


def _tar_members(archive: Path, max_bytes: int) -> Iterator[_Member]:
    with gzip.open(archive) as unzipped:
        bounded = _Bounded(unzipped, max_bytes, _too_large(archive, max_bytes))
        # As a stream: tarfile would seek, and gzip seeks backward by decompressing again.
        with tarfile.open(fileobj=bounded, mode="r|") as packed:
            for info in packed:
                yield _Member(
                    name=info.name,
                    size=info.size,
                    is_folder=info.isdir(),
                    is_file=info.isreg() and not info.issparse(),
                    open=lambda info=info: packed.extractfile(info),  # type: ignore[misc]
                )
        # tarfile stops at its end mark; gzip's checksum follows it.
        while bounded.read(1 << 20):
            pass


class _Bounded(io.RawIOBase):
    """Raises after a maximum of bytes: a small archive may expand to terabytes."""

    def __init__(self, file: gzip.GzipFile, max_bytes: int, message: str) -> None:
        self._file = file
        self._left = max_bytes
        self._message = message

    def read(self, size: int = -1, /) -> bytes:
        data = self._file.read(size)
        self._left -= len(data)
        if self._left < 0:
            raise ChecksumError(self._message)
        return data


def _too_large(archive: Path, max_bytes: int) -> str:
    return f"{archive}: unpacks to more than {max_bytes} bytes; not unpacked"


def _unpack(archive: Path, member: _Member, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    packed = member.open()
    assert packed is not None  # None only for links and devices
    with packed, path.open("xb") as file:
        shutil.copyfileobj(packed, file, 1 << 20)
    if path.stat().st_size != member.size:
        raise ChecksumError(f"{archive}: {member.name} is truncated")


def _leads_inside(name: str) -> bool:
    return (
        PurePosixPath(name).name not in ("", "..")
        and ".." not in PurePosixPath(name).parts
        and not PurePosixPath(name).is_absolute()
        and "\\" not in name
        and "\0" not in name
        and not re.match("[A-Za-z]:", name)
    )
