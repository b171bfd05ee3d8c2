"""SuperGLUE's data: from a mirror, and from files laid out as upstream, on this machine."""

import hashlib
import io
import os
import re
import stat
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.errors import ChecksumError, DownloadError, ParamsError
from pipeline.sources import http
from pipeline.sources.geonames import GEONAMES
from pipeline.sources.superglue import SUPERGLUE, URLS, SuperGlueSource, superglue_source
from tests.server import Server, serving

REAL_MIRROR = Path(__file__).parents[4] / "shared" / "mirror"
HASTY = {"ATTEMPTS": 2, "BACKOFF_SECONDS": 0.001, "READ_TIMEOUT_SECONDS": 600}

Files = dict[str, bytes]

# File in the target folder -> content.
FILES: Files = {
    "train.jsonl": '{"premise": "Zoë naps.", "label": "entailment", "idx": 0}\n'.encode() * 40,
    "val.jsonl": b'{"premise": "It rains.", "label": "neutral", "idx": 1}\n' * 20,
    "fewglue/train.jsonl": b'{"premise": "Few.", "label": "neutral", "idx": 2}\n' * 8,
    "fewglue/dev32.jsonl": b'{"premise": "More.", "label": "neutral", "idx": 3}\n' * 8,
}
OFFICIAL = ["train.jsonl", "val.jsonl"]


def _zip(files: Files) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return packed.getvalue()


def _members() -> Files:
    """The archive's files, with those that are not taken."""
    return {
        "CB/": b"",
        "CB/test.jsonl": b"?",
        **{f"CB/{name}": FILES[name] for name in OFFICIAL},
        "__MACOSX/CB/._train.jsonl": b"?",
    }


def _urls(server: Server) -> dict[str, str]:
    return {part: re.sub("^https://", f"{server.url}/", url) for part, url in URLS.items()}


def _path(part: str, name: str) -> str:
    """Return where the server has a file."""
    return URLS[part].removeprefix("https:/") + f"/{name}"


ZIP = _path("superglue", "CB.zip")
TRAIN, DEV32 = (_path("fewglue", f"CB/{name}.jsonl") for name in ("train", "dev32"))


@pytest.fixture(autouse=True)
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in HASTY.items():
        monkeypatch.setattr(http, name, value)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Serve everything well."""
    for name in list(os.environ):
        if name.upper().endswith("_PROXY"):
            monkeypatch.delenv(name)
    with serving() as server:
        server.put(ZIP, _zip(_members()))
        server.put(TRAIN, FILES["fewglue/train.jsonl"])
        server.put(DEV32, FILES["fewglue/dev32.jsonl"])
        yield server


@pytest.fixture
def source(server: Server) -> SuperGlueSource:
    digests: dict[str, dict[str, str]] = {"superglue": {}, "fewglue": {}}
    for name, content in FILES.items():
        part, _, file = name.rpartition("/")
        digests[part or "superglue"][file] = hashlib.sha256(content).hexdigest()
    return SuperGlueSource("CB", digests=digests, urls=_urls(server))


def _digest(source: SuperGlueSource, name: str) -> str:
    """The expected digest of a file in the target folder."""
    part, _, file = name.rpartition("/")
    return source.digests[part or "superglue"][file]


@pytest.fixture
def mirror(tmp_path: Path) -> Path:
    """A mirror without a list of digests."""
    for name, content in FILES.items():
        path = tmp_path / "mirror" / _mirrored("CB", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return tmp_path / "mirror"


def _mirrored(task: str, name: str) -> str:
    """Return where a mirror has a file of the target folder."""
    part, _, own = name.rpartition("/")
    return f"{part or 'superglue'}/{task}/{own}"


def _content(folder: Path) -> Files:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


# From upstream


def test_the_folder_has_the_four_files_and_no_others(server, source, target, cache):
    source.fetch(target, cache=cache, mirror=None)
    assert _content(target) == FILES
    assert {path.name for path in target.iterdir()} == {*OFFICIAL, "fewglue"}


def test_each_file_is_fetched_once_and_kept(server, source, target, cache, tmp_path):
    source.fetch(target, cache=cache, mirror=None)
    (tmp_path / "again").mkdir()
    source.fetch(tmp_path / "again", cache=cache, mirror=None)
    assert server.asked == [f"GET {path}" for path in (TRAIN, DEV32, ZIP)]
    assert _content(tmp_path / "again") == FILES


def test_a_cut_and_a_busy_server_are_overcome(server, source, target, cache):
    server.files[ZIP].plan = ["cut"]
    server.files[TRAIN].plan = ["cut chunked"]
    server.files[DEV32].plan = [503]
    source.fetch(target, cache=cache, mirror=None)
    assert _content(target) == FILES
    assert len(server.asked) == 6


@pytest.mark.parametrize("how", [404, "cut"])
@pytest.mark.parametrize("path", [ZIP, TRAIN, DEV32])
def test_a_file_that_does_not_come_is_named(server, source, target, cache, path, how):
    if how == "cut":
        server.files[path].headers["ETag"] = server.files[path].headers["Last-Modified"] = None
    server.files[path].plan = [how, ...]
    with pytest.raises(DownloadError) as caught:
        source.fetch(target, cache=cache, mirror=None)
    assert server.url + path in str(caught.value)
    assert "data.mirror in params.yaml" in str(caught.value)
    server.files[path].plan = []
    source.fetch(target, cache=cache, mirror=None)
    assert _content(target) == FILES


@pytest.mark.parametrize("page", [b"<!DOCTYPE html>\n<title>Log in to this network</title>\n", b""])
@pytest.mark.parametrize("path", [ZIP, TRAIN, DEV32])
def test_a_page_in_place_of_a_file_is_noticed_and_not_kept(
    server, source, target, cache, path, page
):
    right = server.files[path].content
    server.files[path].content = page
    with pytest.raises(ChecksumError, match="Run again") as caught:
        source.fetch(target, cache=cache, mirror=None)
    assert server.url + path in str(caught.value)
    assert "data.mirror in params.yaml" in str(caught.value)
    server.files[path].content = right
    source.fetch(target, cache=cache, mirror=None)
    assert _content(target) == FILES


@pytest.mark.parametrize("path", [ZIP, TRAIN, DEV32])
def test_altered_bytes_are_noticed_and_not_kept(server, source, target, cache, path):
    server.files[path].plan = ["altered"]
    with pytest.raises(ChecksumError, match=re.escape(path)):
        source.fetch(target, cache=cache, mirror=None)
    source.fetch(target, cache=cache, mirror=None)
    assert _content(target) == FILES


@pytest.mark.parametrize("name", OFFICIAL)
def test_a_whole_archive_with_another_content_is_reported(server, source, target, cache, name):
    server.put(ZIP, _zip({**_members(), f"CB/{name}": FILES[name] + b"\n"}))
    with pytest.raises(ChecksumError, match=f"CB/{name} in .*: sha256 is") as caught:
        source.fetch(target, cache=cache, mirror=None)
    assert _digest(source, name) in str(caught.value)
    assert "fewglue/CB/: train.jsonl and dev32.jsonl" in str(caught.value)
    server.put(ZIP, _zip(_members()))
    source.fetch(target, cache=cache, mirror=None)
    assert _content(target) == FILES


@pytest.mark.parametrize("instead", ["CB/{}.bak", "{}", "cb/{}"])
@pytest.mark.parametrize("name", OFFICIAL)
def test_a_file_that_the_archive_lacks_is_named(
    server, source, target, cache, tmp_path, name, instead
):
    members = _members()
    members[instead.format(name)] = members.pop(f"CB/{name}")
    server.put(ZIP, _zip(members))
    with pytest.raises(ChecksumError, match=f"no CB/{name} in this archive") as caught:
        source.fetch(target, cache=cache, mirror=None)
    assert server.url + ZIP in str(caught.value)
    assert {path.name for path in tmp_path.iterdir()} == {"target", "cache"}


def test_a_link_in_the_archive_is_not_followed(server, source, target, cache):
    members = _members()
    del members["CB/train.jsonl"]
    packed = io.BytesIO(_zip(members))
    with zipfile.ZipFile(packed, "a") as archive:
        link = zipfile.ZipInfo("CB/train.jsonl")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/hostname")
    server.put(ZIP, packed.getvalue())
    with pytest.raises(ChecksumError, match=r"no CB/train\.jsonl in this archive"):
        source.fetch(target, cache=cache, mirror=None)
    assert not _content(target).keys() & set(OFFICIAL)


# From a mirror


def test_a_mirror_gives_the_same_bytes_without_any_request(server, source, target, cache, mirror):
    (mirror / "fewglue" / "CB" / "unlabeled.jsonl").write_text("not part of it")
    source.fetch(target, cache=cache, mirror=mirror)
    assert _content(target) == FILES
    assert server.asked == []
    assert not cache.exists()


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_the_mirror_lacks_is_named(server, source, target, cache, mirror, name):
    missing = mirror / _mirrored("CB", name)
    missing.unlink()
    with pytest.raises(DownloadError, match="not in the mirror") as caught:
        source.fetch(target, cache=cache, mirror=mirror)
    assert str(missing) in str(caught.value)
    assert "data.mirror to null" in str(caught.value)
    assert server.asked == []


@pytest.mark.parametrize("listed", [False, True])
@pytest.mark.parametrize("name", FILES)
def test_a_file_of_the_mirror_with_another_content_is_named(
    source, target, cache, mirror, name, listed
):
    """Whatever the mirror's own list says of it."""
    path = mirror / _mirrored("CB", name)
    path.write_bytes(FILES[name] + b"\n")
    if listed:
        line = f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {_mirrored('CB', name)}\n"
        (mirror / "SHA256SUMS").write_text(line)
    with pytest.raises(ChecksumError, match=r"Copy (it|the file) .* again") as caught:
        source.fetch(target, cache=cache, mirror=mirror)
    assert str(path) in str(caught.value)
    assert _digest(source, name) in str(caught.value)


# The real data


def test_the_table_has_the_four_files_of_seven_tasks():
    assert {name: source.task for name, source in SUPERGLUE.items()} == {
        "boolq": "BoolQ",
        "cb": "CB",
        "copa": "COPA",
        "multirc": "MultiRC",
        "rte": "RTE",
        "wic": "WiC",
        "wsc": "WSC",
    }
    digests = [_digest(source, name) for source in SUPERGLUE.values() for name in FILES]
    assert all(
        {part: list(files) for part, files in source.digests.items()}
        == {"superglue": OFFICIAL, "fewglue": ["train.jsonl", "dev32.jsonl"]}
        for source in SUPERGLUE.values()
    )
    assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in digests)
    assert len(set(digests)) == 28
    assert all(source.urls == URLS for source in SUPERGLUE.values())


@pytest.mark.parametrize("where", ["archive", "hub"])
def test_params_choose_the_source(where):
    assert superglue_source("rte", "geonames", where) is GEONAMES
    source = superglue_source("rte", "superglue", where)
    assert source == replace(SUPERGLUE["rte"], from_hub=where == "hub")
    assert source.name == {"archive": "superglue/rte", "hub": "superglue-hub/rte"}[where]


def test_a_task_without_official_files_has_made_examples_only():
    assert superglue_source("new", "geonames", "archive") is GEONAMES
    with pytest.raises(ParamsError, match="new has no official SuperGLUE files; set "):
        superglue_source("new", "superglue", "archive")


needs_mirror = pytest.mark.skipif(
    not (REAL_MIRROR / "superglue").is_dir(), reason="no mirror at ../shared/mirror"
)


def _real(source: SuperGlueSource) -> Files:
    return {n: (REAL_MIRROR / _mirrored(source.task, n)).read_bytes() for n in FILES}


@needs_mirror
@pytest.mark.parametrize("name", SUPERGLUE)
def test_the_real_mirror_is_taken_as_it_is(target, cache, name):
    SUPERGLUE[name].fetch(target, cache=cache, mirror=REAL_MIRROR)
    assert _content(target) == _real(SUPERGLUE[name])


@needs_mirror
@pytest.mark.parametrize("name", SUPERGLUE)
def test_the_real_data_in_upstreams_layout_becomes_the_same_folder(server, target, cache, name):
    source = replace(SUPERGLUE[name], urls=_urls(server))
    real = _real(source)
    packed = _zip({f"{source.task}/{own}": real[own] for own in OFFICIAL})
    server.put(_path("superglue", f"{source.task}.zip"), packed)
    for own in ("train.jsonl", "dev32.jsonl"):
        server.put(_path("fewglue", f"{source.task}/{own}"), real[f"fewglue/{own}"])
    source.fetch(target, cache=cache, mirror=None)
    assert _content(target) == real
