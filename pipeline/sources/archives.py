"""Unpack chosen files of an archive that nobody vouches for: those files, inside, or nothing."""

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

# Far above any archive of the pipeline, far below what fills a disk.
MAX_MEMBERS = 200_000
MAX_BYTES = 8 << 30

# What reading a damaged archive may raise. RuntimeError and NotImplementedError: encryption, and
# compressions that Python does not know. The last three: a name that is both file and folder.
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
    """Unpack the chosen regular files of a .zip or .tar.gz file.

    All of them are unpacked before the first one appears in `target`.

    Args:
        archive: the file; which kind it is, its first bytes tell.
        target: an existing folder.
        select: name of a member -> path in `target` with slashes, or None to leave it out. It is
            not asked about folders.
        max_members: bound of the archive's members, chosen or not.
        max_bytes: bound of the unpacked bytes; in a .tar.gz of all, in a .zip of the chosen.

    Returns:
        The paths in `target`, in the archive's order.

    Raises:
        ChecksumError: the archive is damaged or too large, or a chosen member is no regular file,
            has a name that leads outside, or the same path as another.
    """
    with tempfile.TemporaryDirectory(dir=target, prefix=".unpacking-") as folder:
        paths: list[PurePosixPath] = []
        taken: set[str] = set()
        size = 0
        try:
            for count, member in enumerate(_members(archive, max_bytes), 1):
                if count > max_members:
                    raise ChecksumError(f"{archive}: more than {max_members} members; not unpacked")
                chosen = None if member.is_folder else select(member.name)
                if chosen is None:
                    continue
                if not member.is_file:
                    raise ChecksumError(f"{archive}: {member.name!r} is a link or device, no file")
                for name in (member.name, chosen):
                    if not _leads_inside(name):
                        raise ChecksumError(f"{archive}: {name!r} leads outside the folder")
                path = PurePosixPath(chosen)
                # Some file systems do not tell upper from lower case.
                if str(path).casefold() in taken:
                    raise ChecksumError(f"{archive}: {path} stands there twice")
                taken.add(str(path).casefold())
                size += member.size
                if size > max_bytes:
                    raise ChecksumError(_too_large(archive, max_bytes))
                _unpack(archive, member, Path(folder, path))
                paths.append(path)
        except _DAMAGE as error:
            raise ChecksumError(f"{archive}: cut or altered ({error})") from error
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
            kind = stat.S_IFMT(info.external_attr >> 16)  # 0 where the packer names none
            yield _Member(
                name=info.filename,
                size=info.file_size,
                is_folder=info.is_dir(),
                is_file=kind in (0, stat.S_IFREG),
                open=lambda info=info: packed.open(info),  # type: ignore[misc]
            )


def _tar_members(archive: Path, max_bytes: int) -> Iterator[_Member]:
    with gzip.open(archive) as unzipped:
        bounded = _Bounded(unzipped, max_bytes, _too_large(archive, max_bytes))
        # As a stream: tarfile seeks otherwise, and gzip goes back by unpacking anew.
        with tarfile.open(fileobj=bounded, mode="r|") as packed:
            for info in packed:
                yield _Member(
                    name=info.name,
                    size=info.size,
                    is_folder=info.isdir(),
                    is_file=info.isreg() and not info.issparse(),
                    open=lambda info=info: packed.extractfile(info),  # type: ignore[misc]
                )
        # tarfile stops at its own end mark; gzip's checksum comes behind it.
        while bounded.read(1 << 20):
            pass


class _Bounded(io.RawIOBase):
    """Reads on until more than so many bytes came: a small file may hold terabytes."""

    def __init__(self, file: gzip.GzipFile, max_bytes: int, message: str) -> None:
        self._file = file
        self._left = max_bytes
        self._message = message

    def read(self, size: int = -1, /) -> bytes:
        found = self._file.read(size)
        self._left -= len(found)
        if self._left < 0:
            raise ChecksumError(self._message)
        return found


def _too_large(archive: Path, max_bytes: int) -> str:
    return f"{archive}: unpacks to more than {max_bytes} bytes; not unpacked"


def _unpack(archive: Path, member: _Member, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    packed = member.open()
    assert packed is not None  # only of links and devices
    with packed, path.open("xb") as file:
        shutil.copyfileobj(packed, file, 1 << 20)
    if path.stat().st_size != member.size:
        raise ChecksumError(f"{archive}: {member.name} is cut")


def _leads_inside(name: str) -> bool:
    return (
        PurePosixPath(name).name not in ("", "..")
        and ".." not in PurePosixPath(name).parts
        and not PurePosixPath(name).is_absolute()
        and "\\" not in name
        and "\0" not in name
        and not re.match("[A-Za-z]:", name)
    )
