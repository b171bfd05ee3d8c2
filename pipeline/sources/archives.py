"""Safely extract selected files of an untrusted archive."""

import gzip
import lzma
import shutil
import stat
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import IO

from pipeline.errors import ChecksumError
from pipeline.sources.base import check_sha256

# Maximum of extracted bytes: of all members in a .tar.gz, of selected in a .zip. Far above any
# archive of the pipeline, and far too small to fill a disk.
MAX_BYTES = 8 << 30

# Exceptions when reading a damaged archive. RuntimeError, of which NotImplementedError is one:
# encryption, and unknown compressions.
_DAMAGE = (
    zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, zlib.error, lzma.LZMAError, EOFError,
    RuntimeError, UnicodeDecodeError,
)  # fmt: skip

# The name and size of a member that is a regular file, and a function that opens it.
_Member = tuple[str, int, Callable[[], IO[bytes] | None]]


def extract_members(
    archive: Path, target: Path, paths: Collection[str], *, incomplete: bool = False
) -> None:
    """Extract the regular files of a .zip or .tar.gz file whose names end with one of some paths.

    Each is written to its path in `target`; names in the archive are only compared, so that none
    can lead outside.

    Args:
        archive: the file; its first bytes identify the format.
        target: an existing folder without any of the paths. After an error, some may be there.
        paths: with slashes; none of them ends with another.
        incomplete: whether paths may be missing, though not all of them.

    Raises:
        ChecksumError: the archive is damaged or too large, or has no member, or two, for a path.
    """
    extracted: set[str] = set()
    size = 0
    try:
        for name, member_size, open_member in _members(archive):
            parts = name.split("/")
            endings = ("/".join(parts[start:]) for start in range(len(parts)))
            path = next((ending for ending in endings if ending in paths), None)
            if path is None:
                continue
            if path in extracted:
                raise ChecksumError(f"{archive}: contains {path} twice")
            size += member_size
            if size > MAX_BYTES:
                raise _too_large(archive)
            (target / path).parent.mkdir(parents=True, exist_ok=True)
            packed = open_member()
            assert packed is not None  # None only for links and devices
            with packed, (target / path).open("xb") as file:
                shutil.copyfileobj(packed, file, 1 << 20)
            extracted.add(path)
    except _DAMAGE as error:
        raise ChecksumError(f"{archive}: truncated or altered ({error})") from error
    except OSError as error:
        raise ChecksumError(
            f"{archive}: cannot be unpacked into {target}: {error.strerror}; free some space, or "
            "choose a file system that takes its names"
        ) from error
    missing = sorted(set(paths) - extracted)
    if missing and not (incomplete and extracted):
        raise ChecksumError(f"{archive}: no {missing[0]} in this archive")


def extract_checked(archive: Path, target: Path, digests: Mapping[str, str], advice: str) -> None:
    """Extract some files (path -> digest, see `extract_members`) into `target` by their names.

    Raises:
        ChecksumError: see `extract_members`; or a file has another digest: then with `advice`.
    """
    with tempfile.TemporaryDirectory(dir=target, prefix=".unpacked-") as folder:
        extract_members(archive, Path(folder), digests)
        for path, digest in digests.items():
            unpacked = Path(folder, path)
            check_sha256(unpacked, digest, f"{path} in {archive}", advice)
            unpacked.replace(target / unpacked.name)


def _members(archive: Path) -> Iterator[_Member]:
    with archive.open("rb") as file:
        start = file.read(4)
    if start[:2] == b"PK":
        with zipfile.ZipFile(archive) as packed:
            for info in packed.infolist():
                file_type = stat.S_IFMT(info.external_attr >> 16)  # 0 if not recorded
                if not info.is_dir() and file_type in (0, stat.S_IFREG):
                    yield info.filename, info.file_size, partial(packed.open, info)
    elif start[:2] == b"\x1f\x8b":
        with tempfile.TemporaryFile() as unzipped:
            # All of it, up to gzip's checksum at the end, which tarfile would not read.
            with gzip.open(archive) as packed:
                while chunk := packed.read(1 << 20):
                    unzipped.write(chunk)
                    # A small archive may expand to terabytes.
                    if unzipped.tell() > MAX_BYTES:
                        raise _too_large(archive)
            unzipped.seek(0)
            with tarfile.open(fileobj=unzipped) as tar:
                for member in tar:
                    if member.isreg() and not member.issparse():
                        yield member.name, member.size, partial(tar.extractfile, member)
    else:
        raise ChecksumError(f"{archive}: neither a zip nor a gzip file; it begins with {start!r}")


def _too_large(archive: Path) -> ChecksumError:
    return ChecksumError(f"{archive}: unpacks to more than {MAX_BYTES} bytes; not unpacked")
