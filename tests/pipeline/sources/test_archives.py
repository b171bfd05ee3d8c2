"""Archives, good, damaged and hostile."""

import gzip
import io
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.errors import ChecksumError
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


def _below_top(name: str) -> str | None:
    return name.removeprefix("top/")


def _all_but(left_out: str) -> Callable[[str], str | None]:
    return lambda name: None if name == left_out else name


def _content(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture
def target(tmp_path: Path) -> Path:
    (tmp_path / "target").mkdir()
    return tmp_path / "target"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    # Its name tells nothing, as that of a commit's archive.
    return tmp_path / "archive"


def _refused(
    archive: Path, target: Path, select: Callable[[str], str | None], **limits: int
) -> str:
    with pytest.raises(ChecksumError) as caught:
        extract_members(archive, target, select, **limits)
    assert str(archive) in str(caught.value)
    assert list(target.iterdir()) == []
    return str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
def test_the_chosen_files_are_unpacked_under_their_new_names(kind, path, target):
    def select(name: str) -> str | None:
        return {"top/a.txt": "new/x.txt", "top/c.bin": "c"}.get(name)

    assert extract_members(_pack(kind, path, FILES), target, select) == ["new/x.txt", "c"]
    assert _content(target) == {"new/x.txt": FILES["top/a.txt"], "c": b""}
    assert {entry.name for entry in target.iterdir()} == {"new", "c"}


@pytest.mark.parametrize("kind", KINDS)
def test_folders_are_no_members_and_dots_before_a_name_are_no_harm(kind, path, target):
    if kind == "zip":
        _zip(path, {"top/": b"", **FILES})
    else:
        with tarfile.open(path, "w:gz") as archive:
            folder = tarfile.TarInfo("./top")
            folder.type = tarfile.DIRTYPE
            archive.addfile(folder)
            info = tarfile.TarInfo("./top/a.txt")
            info.size = 3
            archive.addfile(info, io.BytesIO(b"abc"))
    extract_members(path, target, lambda name: name.removeprefix("./"))
    assert "top/a.txt" in _content(target)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "name", ["../out.txt", "top/../../out.txt", "/out.txt", "C:/out.txt", "top\\out.txt", "c:out"]
)
def test_a_chosen_name_that_leads_outside_is_refused(kind, path, target, name):
    # A good file comes first: it must not stay.
    archive = _pack(kind, path, {"good": b"1", name: b"2"})
    assert "outside" in _refused(archive, target, lambda name: name)
    assert "outside" in _refused(archive, target, {"good": "good", name: "fine"}.get)
    assert not (target.parent / "out.txt").exists()
    assert extract_members(archive, target, _all_but(name)) == ["good"]


@pytest.mark.parametrize("name", ["../out", "/out", ".", "", "a/..", "a\\b"])
def test_a_path_that_leads_outside_is_refused_whoever_chose_it(path, target, name):
    archive = _zip(path, {"good": b"1"})
    assert "outside" in _refused(archive, target, lambda _: name)


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE]
)
def test_links_and_devices_in_a_tar_are_refused_if_chosen(path, target, kind):
    archive = _tar(path, {"odd": b""}, kind=kind)
    assert "'odd' is a link or device" in _refused(archive, target, lambda name: name)
    assert extract_members(archive, target, _all_but("odd")) == []


def test_links_in_a_zip_are_refused_if_chosen(path, target):
    archive = _zip(path, {"odd": b"/etc/passwd"}, mode=stat.S_IFLNK | 0o777)
    assert "'odd' is a link or device" in _refused(archive, target, lambda name: name)
    assert extract_members(archive, target, _all_but("odd")) == []


@pytest.mark.parametrize("kind", KINDS)
def test_two_members_of_one_path_are_refused(kind, path, target):
    archive = _pack(kind, path, {"a": b"1", "b": b"2"})
    assert "twice" in _refused(archive, target, lambda _: "same")
    assert "twice" in _refused(archive, target, {"a": "name", "b": "Name"}.get)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("names", [("a", "a/b"), ("a/b", "a")])
def test_a_name_that_is_file_and_folder_is_refused(kind, path, target, names):
    archive = _pack(kind, path, dict.fromkeys(names, b"1"))
    _refused(archive, target, lambda name: name)


@pytest.mark.parametrize("kind", KINDS)
def test_no_more_is_unpacked_than_allowed(kind, path, target):
    archive = _pack(kind, path, {"a": bytes(600_000), "b": bytes(600_000)})
    assert archive.stat().st_size < 10_000
    assert "1000000 bytes" in _refused(archive, target, lambda name: name, max_bytes=1_000_000)
    assert len(extract_members(archive, target, lambda name: name, max_bytes=2_000_000)) == 2


def test_a_tar_bomb_beside_the_chosen_file_is_not_unpacked_either(path, target):
    archive = _tar(path, {"bomb": bytes(5_000_000), "good": b"1"})
    _refused(archive, target, _all_but("bomb"), max_bytes=1_000_000)


def test_a_tar_header_that_is_a_bomb_is_refused(path, target):
    with tarfile.open(path, "w:gz", format=tarfile.PAX_FORMAT) as archive:
        info = tarfile.TarInfo("good")
        info.pax_headers = {"comment": "x" * 5_000_000}
        archive.addfile(info)
    _refused(path, target, lambda name: name, max_bytes=1_000_000)


@pytest.mark.parametrize("kind", KINDS)
def test_no_more_members_are_read_than_allowed(kind, path, target):
    archive = _pack(kind, path, {str(number): b"" for number in range(20)})
    assert "19 members" in _refused(archive, target, lambda name: name, max_members=19)
    assert "19 members" in _refused(archive, target, lambda _: None, max_members=19)
    assert len(extract_members(archive, target, lambda name: name, max_members=20)) == 20


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("kept", [0.98, 0.5, 0.2, 0])
def test_a_cut_archive_is_refused(kind, path, target, kept):
    content = _pack(kind, path, {"a": bytes(range(256)) * 400, "b": b"2"}).read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    _refused(path, target, lambda name: name)


@pytest.mark.parametrize("kind", KINDS)
def test_every_altered_byte_of_the_content_is_noticed(kind, path, target):
    """Whether it is in what was packed, its lengths or its checksum."""
    files = {"a.txt": b"some text, not long\n"}
    content = _pack(kind, path, files).read_bytes()
    # Names and dates in a zip, and gzip's own header, are under no checksum.
    start = 30 + len("a.txt") if kind == "zip" else 10
    end = content.index(b"PK\x01\x02") if kind == "zip" else len(content)
    for at in range(start, end):
        altered = bytearray(content)
        altered[at] ^= 0x55
        path.write_bytes(altered)
        try:
            extract_members(path, target, lambda name: name)
        except ChecksumError:
            assert list(target.iterdir()) == []
        else:
            assert _content(target) == files, f"byte {at}"
            (target / "a.txt").unlink()


def test_gzips_checksum_is_read_to_the_end(path, target):
    """tarfile itself stops before it."""
    content = _tar(path, {"a": b"1"}).read_bytes()
    path.write_bytes(content[:-6] + b"??" + content[-4:])
    assert "CRC" in _refused(path, target, lambda name: name)


@pytest.mark.parametrize(
    "content",
    [b"", b"<!DOCTYPE html>\n", b"PK is no zip", gzip.compress(b"no tar" * 500, mtime=0)],
    ids=["empty", "page", "no zip", "no tar"],
)
def test_what_is_no_archive_is_refused(path, target, content):
    path.write_bytes(content)
    _refused(path, target, lambda name: name)


def test_an_encrypted_zip_is_refused(path, target):
    content = bytearray(_zip(path, {"a": b"1"}).read_bytes())
    content[6] |= 1
    content[content.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)
    assert "encrypted" in _refused(path, target, lambda name: name)


def test_a_failing_choice_leaves_nothing(path, target):
    def select(name: str) -> str:
        return {"a": "a"}[name]

    with pytest.raises(KeyError):
        extract_members(_zip(path, {"a": b"1", "b": b"2"}), target, select)
    assert list(target.iterdir()) == []
