"""Archives, good, damaged and hostile."""

import contextlib
import gzip
import io
import stat
import tarfile
import zipfile
from collections.abc import Collection
from pathlib import Path

import pytest

from pipeline.errors import ChecksumError
from pipeline.sources import archives
from pipeline.sources.archives import extract_members

FILES = {"top/a.txt": b"first\n" * 1000, "top/in/b.txt": b"second\n", "top/c.bin": b""}
KINDS = ["zip", "tar"]


def _zip(path: Path, files: dict[str, bytes], *, mode: int = 0) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            info = zipfile.ZipInfo(name)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = mode << 16
            archive.writestr(info, content)
    return path


def _tar(path: Path, files: dict[str, bytes], *, kind: bytes = tarfile.REGTYPE) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.type = kind
            info.linkname = "/etc/passwd"
            info.size = len(content) if kind == tarfile.REGTYPE else 0
            archive.addfile(info, io.BytesIO(content))
    return path


def _pack(kind: str, path: Path, files: dict[str, bytes]) -> Path:
    return {"zip": _zip, "tar": _tar}[kind](path, files)


def _content(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture
def path(tmp_path: Path) -> Path:
    # Its name tells nothing, as that of a commit's archive.
    return tmp_path / "archive"


def _refused(archive: Path, target: Path, paths: Collection[str], **limits: int) -> str:
    with pytest.raises(ChecksumError) as caught:
        extract_members(archive, target, paths, **limits)
    assert str(archive) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
def test_selected_files_are_extracted_by_the_end_of_their_names(kind, path, target):
    archive = _pack(kind, path, FILES)
    extract_members(archive, target, ["in/b.txt", "c.bin"])
    assert _content(target) == {"in/b.txt": FILES["top/in/b.txt"], "c.bin": b""}
    assert {entry.name for entry in target.iterdir()} == {"in", "c.bin"}


@pytest.mark.parametrize("kind", KINDS)
def test_a_missing_file_is_named(kind, path, target):
    archive = _pack(kind, path, FILES)
    assert "no top/x.txt" in _refused(archive, target, ["top/x.txt", "top/c.bin"])
    # Only whole parts of a path count.
    assert "no b.tx" in _refused(archive, target, ["b.tx"], incomplete=True)


@pytest.mark.parametrize("kind", KINDS)
def test_of_an_incomplete_archive_some_are_enough(kind, path, target):
    extract_members(_pack(kind, path, FILES), target, ["x.txt", "c.bin"], incomplete=True)
    assert _content(target) == {"c.bin": b""}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["../a", "top/../../a", "/a", "/../a", "./a"])
def test_a_name_that_leads_outside_is_extracted_inside(kind, path, target, name):
    extract_members(_pack(kind, path, {name: b"2"}), target, ["a"])
    assert _content(target.parent) == {"archive": path.read_bytes(), "target/a": b"2"}


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.DIRTYPE]
)
def test_what_is_not_a_file_in_a_tar_is_not_extracted(path, target, kind):
    assert "no odd" in _refused(_tar(path, {"odd": b""}, kind=kind), target, ["odd"])
    assert _content(target) == {}


def test_a_link_in_a_zip_is_not_extracted(path, target):
    archive = _zip(path, {"odd": b"/etc/passwd"}, mode=stat.S_IFLNK | 0o777)
    assert "no odd" in _refused(archive, target, ["odd"])
    assert _content(target) == {}


@pytest.mark.parametrize("kind", KINDS)
def test_two_members_of_one_path_are_refused(kind, path, target):
    archive = _pack(kind, path, {"a": b"1", "top/a": b"2"})
    assert "contains a twice" in _refused(archive, target, ["a"])


@pytest.mark.parametrize("kind", KINDS)
def test_no_more_is_unpacked_than_allowed(kind, path, target, monkeypatch):
    monkeypatch.setattr(archives, "MAX_BYTES", 1_000_000)
    archive = _pack(kind, path, {"a": bytes(600_000), "b": bytes(600_000)})
    assert archive.stat().st_size < 10_000
    assert "1000000 bytes" in _refused(archive, target, ["a", "b"])
    if kind == "tar":
        assert "1000000 bytes" in _refused(archive, target, ["a"])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.98, 0.5, 0.2, 0])
def test_a_truncated_archive_is_refused(kind, path, target, share):
    content = _pack(kind, path, {"a": bytes(range(256)) * 400, "b": b"2"}).read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    _refused(path, target, ["a", "b"])


@pytest.mark.parametrize("kind", KINDS)
def test_every_altered_byte_of_the_content_is_noticed(kind, path, target):
    """Whether it is in what was packed, its lengths or its checksum."""
    files = {"a.txt": b"some text, not long\n"}
    content = _pack(kind, path, files).read_bytes()
    # Names and dates in a zip, and gzip's header, are under no checksum.
    start = 30 + len("a.txt") if kind == "zip" else 10
    end = content.index(b"PK\x01\x02") if kind == "zip" else len(content)
    for at in range(start, end):
        altered = bytearray(content)
        altered[at] ^= 0x55
        path.write_bytes(altered)
        with contextlib.suppress(ChecksumError):
            extract_members(path, target, ["a.txt"])
            assert _content(target) == files, f"byte {at}"
        (target / "a.txt").unlink(missing_ok=True)


def test_gzips_checksum_is_read_to_the_end(path, target):
    """tarfile itself stops before it."""
    content = _tar(path, {"a": b"1"}).read_bytes()
    path.write_bytes(content[:-6] + b"??" + content[-4:])
    assert "CRC" in _refused(path, target, ["a"])


@pytest.mark.parametrize(
    "content",
    [b"", b"<!DOCTYPE html>\n", b"PK is no zip", gzip.compress(b"no tar" * 500, mtime=0)],
    ids=["empty", "page", "no zip", "no tar"],
)
def test_what_is_no_archive_is_refused(path, target, content):
    path.write_bytes(content)
    _refused(path, target, ["a"])


def test_an_encrypted_zip_is_refused(path, target):
    content = bytearray(_zip(path, {"a": b"1"}).read_bytes())
    content[6] |= 1
    content[content.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)
    assert "encrypted" in _refused(path, target, ["a"])


def test_a_name_longer_than_the_file_system_takes_is_refused(tmp_path):
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("x" * 300, "hello")
    with pytest.raises(ChecksumError, match=r"a\.zip: cannot be unpacked .*File name too long"):
        extract_members(archive, tmp_path, ["x" * 300])
