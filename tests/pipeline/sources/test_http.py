"""Downloads, from a server on this machine that can misbehave."""

import hashlib
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.errors import ChecksumError, DownloadError
from pipeline.sources import http as module
from pipeline.sources.http import download, download_to_cache
from tests.server import Server, etag, serving

PROJECT = Path(__file__).parents[3]
CONTENT = random.Random(1).randbytes(400_000)
DIGEST = hashlib.sha256(CONTENT).hexdigest()
HALF = 200_000


def _set(patch: pytest.MonkeyPatch, **values: float) -> None:
    for name, value in values.items():
        patch.setattr(module, name, value)


@pytest.fixture(autouse=True)
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    _set(monkeypatch, ATTEMPTS=3, BACKOFF_SECONDS=0.001, READ_TIMEOUT_SECONDS=600)


def _download_once(url: str, target: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        _set(patch, ATTEMPTS=1)
        download(url, target)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in list(os.environ):
        if name.upper().endswith("_PROXY"):
            monkeypatch.delenv(name)
    with serving() as server:
        yield server


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "data.bin"


def _left_of(target: Path) -> set[str]:
    return {path.name for path in target.parent.iterdir() if not path.name.endswith(".lock")}


def _resumed_from(server: Server) -> list[int]:
    """First byte of each request."""
    return [int((asked.partition(" from ")[2]) or 0) for asked in server.asked]


@pytest.mark.parametrize("how", ["well", "chunked", "packed", "-> /moved"])
def test_a_file_comes_whole_and_nothing_else_stays(server, target, how):
    server.put("/moved", CONTENT)
    download(server.put("/data.bin", CONTENT, how), target, sha256=DIGEST)
    assert target.read_bytes() == CONTENT
    assert _left_of(target) == {"data.bin"}


def test_an_empty_file_is_a_file(server, target):
    download(server.put("/data.bin", b""), target)
    assert target.read_bytes() == b""


def test_what_is_there_is_not_fetched_again(server, target):
    url = server.put("/data.bin", CONTENT)
    target.parent.mkdir()
    target.write_bytes(b"here")
    download(url, target)
    assert target.read_bytes() == b"here"
    assert server.asked == []
    download(url, target, sha256=DIGEST)
    assert target.read_bytes() == CONTENT


def test_two_addresses_never_share_a_kept_file(server, tmp_path):
    first = download_to_cache(server.put("/1/data.bin", b"first"), tmp_path)
    second = download_to_cache(server.put("/2/data.bin", b"second"), tmp_path)
    assert (first.read_bytes(), second.read_bytes()) == (b"first", b"second")
    assert first.name == second.name == "data.bin"


@pytest.mark.parametrize("how", ["cut", "silent"])
@pytest.mark.parametrize("validators", [{}, {"ETag": None}, {"ETag": 'W/"weak"'}])
def test_after_a_cut_the_rest_is_fetched(server, target, monkeypatch, how, validators):
    url = server.put("/data.bin", CONTENT, how, **validators)
    if how == "silent":
        _set(monkeypatch, READ_TIMEOUT_SECONDS=1)
    download(url, target, sha256=DIGEST)
    first, second = _resumed_from(server)
    assert first == 0
    # Up to a chunk is lost in the client's buffer.
    assert HALF - 70_000 <= second <= HALF


def test_a_length_that_was_too_long_is_not_believed_forever(server, target):
    url = server.put("/data.bin", CONTENT, "long")
    download(url, target, sha256=DIGEST)
    # The rest tells another length than the first answer did.
    assert _resumed_from(server)[0] == _resumed_from(server)[2] == 0


def test_cut_again_and_again_it_resumes_each_time(server, target):
    url = server.put("/data.bin", CONTENT, "cut", "cut", "well")
    download(url, target, sha256=DIGEST)
    starts = _resumed_from(server)
    assert starts == sorted(set(starts))
    assert len(starts) == 3


def test_without_a_validator_it_starts_anew(server, target):
    unversioned = {"ETag": 'W/"weak"', "Last_Modified": None}
    url = server.put("/data.bin", CONTENT, "cut", **unversioned)
    download(url, target, sha256=DIGEST)
    assert _resumed_from(server) == [0, 0]


def test_a_server_that_always_sends_all_is_heard_from_the_start(server, target):
    url = server.put("/data.bin", CONTENT, "cut", "all")
    download(url, target)
    assert target.read_bytes() == CONTENT


def test_a_smaller_part_than_asked_for_is_taken_and_the_rest_is_asked_for(server, target):
    url = server.put("/data.bin", CONTENT, "cut", "less", "well")
    download(url, target, sha256=DIGEST)
    starts = _resumed_from(server)
    assert starts == sorted(set(starts))
    assert len(starts) == 3


def test_a_part_that_was_not_asked_for_is_not_taken(server, target):
    url = server.put("/data.bin", CONTENT, "cut", "shifted", "well")
    download(url, target)
    assert target.read_bytes() == CONTENT
    assert _resumed_from(server)[2] == 0


def test_a_file_that_changed_in_between_is_not_glued_together(server, target):
    url = server.put("/data.bin", CONTENT, "cut", ...)
    with pytest.raises(DownloadError):
        _download_once(url, target)
    changed = CONTENT[::-1]
    server.put("/data.bin", changed)
    download(url, target)
    assert target.read_bytes() == changed


def test_nor_by_a_server_that_knows_no_if_range(server, target):
    url = server.put("/data.bin", CONTENT, "cut", ...)
    with pytest.raises(DownloadError):
        _download_once(url, target)
    changed = CONTENT[::-1]
    # It answers If-Range as if the file were the old one, but names the new one's tag.
    server.put("/data.bin", changed, Last_Modified=etag(CONTENT))
    download(url, target)
    assert target.read_bytes() == changed


def test_a_longer_file_of_another_address_is_not_continued(server, target):
    first = server.put("/first", CONTENT, "cut", ...)
    with pytest.raises(DownloadError):
        _download_once(first, target)
    download(server.put("/second", CONTENT[::-1]), target)
    assert target.read_bytes() == CONTENT[::-1]
    assert server.asked[-1] == "GET /second"


def test_a_partial_file_longer_than_the_whole_starts_anew(server, target):
    url = server.put("/data.bin", CONTENT, "cut", ...)
    with pytest.raises(DownloadError):
        _download_once(url, target)
    partial = target.with_name("data.bin.partial")
    partial.write_bytes(CONTENT + b"more")
    server.put("/data.bin", CONTENT)
    download(url, target)
    assert target.read_bytes() == CONTENT


@pytest.mark.parametrize("about", [b"", b"[]", b'{"url": 1}', b"\xff"])
def test_a_damaged_note_on_the_partial_file_starts_anew(server, target, about):
    target.parent.mkdir()
    target.with_name("data.bin.partial").write_bytes(b"?" * 100)
    target.with_name("data.bin.partial.json").write_bytes(about)
    download(server.put("/data.bin", CONTENT), target)
    assert target.read_bytes() == CONTENT
    assert _left_of(target) == {"data.bin"}


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_an_error_that_may_pass_is_waited_out(server, target, status):
    download(server.put("/data.bin", CONTENT, status, status), target)
    assert target.read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("how", "said"),
    [
        (503, "503 Service Unavailable"),
        (429, "429"),
        ("silent", "timed out"),
        ("cut chunked", "InvalidChunkLength|IncompleteRead"),
    ],
)
def test_one_that_does_not_pass_is_reported_after_some_attempts(
    server, target, monkeypatch, how, said
):
    url = server.put("/data.bin", CONTENT, how, ..., ETag=None, Last_Modified=None)
    if how == "silent":
        _set(monkeypatch, READ_TIMEOUT_SECONDS=1)
    with pytest.raises(DownloadError, match=said) as caught:
        download(url, target)
    assert url in str(caught.value)
    assert "3 attempts" in str(caught.value)
    assert "data.mirror in params.yaml" in str(caught.value)
    assert len(server.asked) == 3
    assert not target.exists()


def test_a_cut_that_does_not_pass_says_that_the_next_run_resumes(server, target):
    url = server.put("/data.bin", CONTENT, "cut", 503, 503)
    with pytest.raises(DownloadError, match="the download resumes"):
        download(url, target)
    assert not target.exists()
    download(url, target, sha256=DIGEST)
    assert _resumed_from(server)[-1] > 0


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_an_error_that_stays_is_reported_at_once(server, target, status):
    url = server.put("/data.bin", CONTENT, status, ...)
    with pytest.raises(DownloadError, match=str(status)) as caught:
        download(url, target)
    assert url in str(caught.value)
    assert "data.mirror in params.yaml" in str(caught.value)
    assert len(server.asked) == 1
    assert _left_of(target) == set()


def test_a_refusal_leaves_what_came_before(server, target):
    url = server.put("/data.bin", CONTENT, "cut", 403)
    with pytest.raises(DownloadError, match="403"):
        download(url, target)
    download(url, target, sha256=DIGEST)
    assert _resumed_from(server)[-1] > 0


def test_the_waits_double_and_the_server_may_ask_for_longer_ones(server, target, monkeypatch):
    waits: list[float] = []
    monkeypatch.setattr(module.time, "sleep", waits.append)
    _set(monkeypatch, ATTEMPTS=4, BACKOFF_SECONDS=1, MAX_WAIT_SECONDS=20)
    url = server.put("/data.bin", CONTENT, 503, 503, 503)
    download(url, target)
    assert waits == [1, 2, 4]
    waits.clear()
    target.unlink()
    url = server.put("/data.bin", CONTENT, 503, 503, Retry_After="7")
    download(url, target)
    assert waits == [7, 7]
    waits.clear()
    target.unlink()
    url = server.put("/data.bin", CONTENT, 503, 503, Retry_After="3600")
    download(url, target)
    assert waits == [20, 20]


@pytest.mark.parametrize("how", ["altered", "short"])
def test_another_content_than_asked_for_is_not_kept(server, target, how):
    url = server.put("/data.bin", CONTENT, how)
    with pytest.raises(ChecksumError, match=DIGEST) as caught:
        download(url, target, sha256=DIGEST)
    assert url in str(caught.value)
    assert "data.mirror" in str(caught.value)
    assert _left_of(target) == set()
    download(url, target, sha256=DIGEST)
    assert target.read_bytes() == CONTENT


def test_what_is_compressed_on_the_way_is_refused(server, target):
    url = server.put("/data.bin", CONTENT, Content_Encoding="gzip")
    with pytest.raises(DownloadError, match="compressed"):
        download(url, target)
    assert not target.exists()


def test_nobody_listening_is_reported_in_plain_words(target):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/data.bin"
        with pytest.raises(DownloadError, match="refused") as caught:
            download(url, target)
    assert "Check the network" in str(caught.value)
    assert "HTTPConnectionPool" not in str(caught.value)


@pytest.mark.parametrize("url", ["data.bin", "ftp://127.0.0.1/data.bin", "http://"])
def test_what_is_no_address_is_reported_at_once(target, url):
    with pytest.raises(DownloadError) as caught:
        download(url, target)
    assert url in str(caught.value)
    assert "data.mirror" in str(caught.value)


def test_redirects_in_a_circle_end(server, target):
    url = server.put("/data.bin", CONTENT, "-> /data.bin", ...)
    with pytest.raises(DownloadError, match="redirects"):
        download(url, target)


def test_a_proxy_of_the_environment_is_used(server, target, monkeypatch):
    """The address leads nowhere; only the proxy can have answered."""
    server.put("http://data.invalid/data.bin", CONTENT)
    monkeypatch.setenv("http_proxy", server.url)
    download("http://data.invalid/data.bin", target)
    assert target.read_bytes() == CONTENT


def test_a_disk_that_cannot_be_written_is_no_error_of_the_network(server, target, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.tqdm, "update", full)
    url = server.put("/data.bin", CONTENT)
    with pytest.raises(DownloadError, match=r"data\.bin\.partial: No space left"):
        download(url, target)
    assert len(server.asked) == 1


_FETCH = """
import sys
from pathlib import Path
from pipeline.sources.http import download
download(sys.argv[1], Path(sys.argv[2]))
"""


def test_after_a_kill_the_rest_is_fetched(server, target):
    url = server.put("/data.bin", CONTENT, "silent")
    command = [sys.executable, "-c", _FETCH, url, str(target)]
    with subprocess.Popen(command, cwd=PROJECT) as child:
        came = server.silent.wait(600)
        partial = target.with_name("data.bin.partial")
        while child.poll() is None and not (partial.exists() and partial.stat().st_size):
            time.sleep(0.01)
        child.send_signal(signal.SIGKILL)
    assert came
    assert not target.exists()
    download(url, target, sha256=DIGEST)
    assert _resumed_from(server)[1] > 0


def test_a_kill_before_the_last_rename_costs_no_request(server, target, monkeypatch):
    url = server.put("/data.bin", CONTENT)
    with monkeypatch.context() as patch:
        patch.setattr(module.Path, "replace", _interrupted_at(target))
        with pytest.raises(KeyboardInterrupt):
            download(url, target)
    assert not target.exists()
    download(url, target, sha256=DIGEST)
    assert server.asked == ["GET /data.bin"]


def _interrupted_at(target: Path):
    replace = Path.replace

    def replace_or_end(self: Path, other: Path) -> Path:
        if other == target:
            raise KeyboardInterrupt
        return replace(self, other)

    return replace_or_end


def test_two_at_once_fetch_it_once(server, target):
    url = server.put("/data.bin", CONTENT)
    threads = [threading.Thread(target=download, args=(url, target)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert target.read_bytes() == CONTENT
    assert len(server.asked) == 1


def test_a_server_that_drips_forever_is_left(server, target, monkeypatch):
    _set(monkeypatch, ATTEMPTS=2, WINDOW_SECONDS=0.2)
    with pytest.raises(DownloadError, match=r"only .* bytes came in"):
        download(server.put("/data.bin", CONTENT, "drips", "drips"), target)
    assert not target.exists()


@pytest.mark.parametrize("name", ["data.bin", "data.bin.partial"])
def test_a_folder_in_the_files_place_is_named(server, target, name):
    place = target.with_name(name)
    place.mkdir(parents=True)
    with pytest.raises(DownloadError, match=re.escape(f"{place}: there is a folder")):
        download(server.put("/data.bin", CONTENT), target)


@pytest.mark.parametrize("length", ["-5", "many"])
def test_a_length_that_is_none_is_refused(server, target, length):
    with pytest.raises(DownloadError, match="with the length"):
        download(server.put("/data.bin", CONTENT, **{"Content-Length": length}), target)


def test_a_host_that_does_not_exist_is_named(target, monkeypatch):
    _set(monkeypatch, ATTEMPTS=1)
    with pytest.raises(DownloadError, match=r"nowhere\.invalid/x: no such host"):
        download("http://nowhere.invalid/x", target)
