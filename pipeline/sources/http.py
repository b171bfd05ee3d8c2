"""Download one file over HTTP, complete or not at all, resuming after an interruption."""

import contextlib
import hashlib
import itertools
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

import requests
import urllib3
from filelock import FileLock
from tqdm import tqdm

from pipeline import files
from pipeline.errors import ChecksumError, DataError, DownloadError
from pipeline.sources.base import SET_MIRROR, check_sha256

T = TypeVar("T")

_CHUNK_BYTES = 1 << 16
ATTEMPTS = 5
# Before the second attempt; doubled before each further one.
BACKOFF_SECONDS = 1.0
# Of each wait, also of one that the server asks for.
MAX_WAIT_SECONDS = 60.0
# Without any data; then a connection counts as dead.
READ_TIMEOUT_SECONDS = 30.0
# As does one that brings less than this in a window of time.
WINDOW_SECONDS = 60.0
MIN_BYTES_PER_SECOND = 100


def download_to_cache(url: str, cache: Path, *, sha256: str | None = None) -> Path:
    """Download into a cache folder (see `download`) and return the file's path.

    The path depends on the URL, so a file from a previous address is never used for a new one.
    """
    key = hashlib.sha256(url.encode()).hexdigest()[:12]
    target = cache / key / (Path(urlsplit(url).path).name or "file")
    download(url, target, sha256=sha256)
    return target


def download(url: str, target: Path, *, sha256: str | None = None) -> None:
    """Download a file to `target`, unless it exists.

    Bytes go to `<target>.partial`, which is renamed when complete. After an interruption the
    download resumes, if the server confirms that the file has not changed. Proxies and certificates
    are those of the environment, as `requests` reads it.

    Raises:
        DownloadError: the file could not be downloaded completely.
        ChecksumError: it has another digest; nothing is kept.
    """
    if not re.match("https?://[^/]", url):
        raise DownloadError(
            f"{url or 'an empty address'}: not an address of http or https; {SET_MIRROR}"
        )
    for path in (target, target.with_name(f"{target.name}.partial")):
        if path.exists() and not path.is_file():
            raise DownloadError(f"{path}: there is a folder in the file's place; move it away")
    target.parent.mkdir(parents=True, exist_ok=True)
    # `dvc queue` runs stages side by side, which may need the same file.
    with FileLock(target.with_name(f".{target.name}.lock")):
        if target.is_file() and (sha256 is None or files.sha256(target) == sha256):
            return
        unfinished = _Partial(url, target)
        unfinished.complete()
        if sha256 is not None:
            try:
                advice = f"Nothing was kept. Run again, and if it repeats, {SET_MIRROR}"
                check_sha256(unfinished.data, sha256, url, advice)
            except ChecksumError:
                unfinished.delete()
                raise
        unfinished.data.replace(target)
        unfinished.delete()


@dataclass(frozen=True)
class _RemoteFile:
    """The version of a remote file that a partial file belongs to.

    `validator` identifies it; None if the server sends none. `length` is in bytes; None if unknown.
    """

    url: str
    validator: str | None
    length: int | None


class _Retryable(Exception):
    """An attempt failed in a way that another may not."""

    def __init__(self, reason: str, retry_after: float = 0) -> None:
        super().__init__(reason)
        self.retry_after = retry_after


class _Partial:
    """The bytes received so far, with a description of the remote file that they belong to."""

    def __init__(self, url: str, target: Path) -> None:
        self.data = target.with_name(f"{target.name}.partial")
        self._url = url
        self._name = target.name
        self._description = target.with_name(f"{target.name}.partial.json")

    def delete(self) -> None:
        self.data.unlink(missing_ok=True)
        self._description.unlink(missing_ok=True)

    def complete(self) -> None:
        """Request what is missing until nothing is."""
        for attempt in itertools.count(1):
            try:
                with _clear_errors(self._url, self.data):
                    self._request()
                return
            except _Retryable as error:
                if attempt >= ATTEMPTS:
                    resumes = " (the download resumes)" if self._remote() else ""
                    raise DownloadError(
                        f"{self._url}: {error}; gave up after {attempt} attempts.\n"
                        f"Check the network and its proxy settings and run again{resumes}, or "
                        f"{SET_MIRROR}"
                    ) from error
                seconds = max(BACKOFF_SECONDS * 2.0 ** (attempt - 1), error.retry_after)
                time.sleep(min(seconds, MAX_WAIT_SECONDS))

    def _size(self) -> int:
        return self.data.stat().st_size if self.data.exists() else 0

    def _remote(self) -> _RemoteFile | None:
        """The remote file that the bytes belong to; None if the download cannot resume."""
        try:
            remote = _RemoteFile(**files.read_json(self._description))
        except (DataError, TypeError):
            return None
        resumable = remote.url == self._url and remote.validator is not None and self._size() > 0
        return remote if resumable else None

    def _request(self) -> None:
        remote, start = self._remote(), self._size()
        if remote is not None and start == remote.length:
            return  # killed before the final rename
        headers = {"Accept-Encoding": "identity"}
        if remote is not None:
            headers |= {"Range": f"bytes={start}-", "If-Range": str(remote.validator)}
        with requests.get(
            self._url, headers=headers, stream=True, timeout=READ_TIMEOUT_SECONDS
        ) as response:
            if response.headers.get("Content-Encoding", "identity") != "identity":
                raise DownloadError(
                    f"{self._url}: sent compressed, though not requested: its length cannot be "
                    f"checked.\nCheck the proxy, or {SET_MIRROR}"
                )
            if remote is not None and response.status_code == HTTPStatus.PARTIAL_CONTENT:
                sent = response.headers.get("Content-Range", "")
                if not _continues(response, sent, start, remote):
                    self.delete()
                    raise _Retryable(f"expected the bytes from {start}, got {sent or 'no range'!r}")
            elif response.status_code == HTTPStatus.OK:
                sent = response.headers.get("Content-Length", "")
                if sent and not sent.isdecimal():
                    raise DownloadError(
                        f"{self._url}: sent with the length {sent!r}, so it cannot be checked.\n"
                        f"Check the proxy, or {SET_MIRROR}"
                    )
                length = int(sent) if sent else None
                remote = _RemoteFile(self._url, _validator(response), length)
                # In this order, a kill never leaves bytes with the description of another file.
                self.data.unlink(missing_ok=True)
                files.write_json(self._description, asdict(remote))
            elif response.status_code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                self.delete()
                raise _Retryable(_status(response))
            else:
                raise _status_error(self._url, response)
            bar = tqdm(
                total=remote.length, initial=self._size(), desc=self._name, unit="B",
                unit_scale=True, unit_divisor=1024, disable=None,
            )  # fmt: skip
            with self.data.open("ab") as file, bar:
                window, received = time.monotonic(), 0
                # What has come, however little: a server may drip without end.
                for chunk in iter(partial(response.raw.read1, _CHUNK_BYTES), b""):
                    bar.update(file.write(chunk))
                    received += len(chunk)
                    if (seconds := time.monotonic() - window) > WINDOW_SECONDS:
                        if received / seconds < MIN_BYTES_PER_SECOND:
                            raise _Retryable(f"only {received} bytes came in {seconds:.0f} seconds")
                        window, received = time.monotonic(), 0
        if remote.length not in (None, size := self._size()):
            if size > (remote.length or 0):
                self.delete()
            raise _Retryable(f"received {size} of {remote.length} bytes")


@contextlib.contextmanager
def _clear_errors(url: str, partial: Path) -> Iterator[None]:
    """Turn every error either into a retryable one or into one for the user."""
    try:
        yield
    except (
        requests.ConnectionError,
        requests.Timeout,
        requests.exceptions.ChunkedEncodingError,
        urllib3.exceptions.HTTPError,
    ) as error:
        reason = _innermost(error)
        if "CERTIFICATE_VERIFY_FAILED" in reason:
            raise DownloadError(
                f"{url}: {reason}\nSet REQUESTS_CA_BUNDLE to the certificates of your network, "
                f"or {SET_MIRROR}"
            ) from error
        raise _Retryable(reason) from error
    except requests.RequestException as error:
        raise DownloadError(
            f"{url}: {_innermost(error)}.\nTo do without it, {SET_MIRROR}"
        ) from error
    except OSError as error:
        raise DownloadError(
            f"{partial}: {error.strerror or error}\nFree some space or check the permissions, "
            "then run again"
        ) from error


def _continues(response: requests.Response, sent: str, start: int, remote: _RemoteFile) -> bool:
    match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", sent)
    return (
        match is not None
        and int(match[1]) == start
        and (match[2] == "*" or remote.length in (None, int(match[2])))
        and _validator(response) in (None, remote.validator)
    )


def _status(response: requests.Response) -> str:
    return f"the server answered {response.status_code} {response.reason}".rstrip()


def _status_error(url: str, response: requests.Response) -> Exception:
    status = response.status_code
    if status in (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS) or status >= 500:
        retry_after = response.headers.get("Retry-After", "")
        return _Retryable(_status(response), float(retry_after) if retry_after.isdecimal() else 0)
    return DownloadError(
        f"{url}: {_status(response)}.\nThe file no longer exists or access is denied; {SET_MIRROR}"
    )


def _validator(response: requests.Response) -> str | None:
    """Value for If-Range: not a weak ETag, which different bytes may share."""
    etag = response.headers.get("ETag")
    if etag is not None and not etag.startswith("W/"):
        return etag
    return response.headers.get("Last-Modified")


def _innermost(error: BaseException) -> str:
    """The reason without the layers around it, which name connection pools and retries."""
    while True:
        if isinstance(error, urllib3.exceptions.NameResolutionError):
            return "no such host; check its name and the network"
        if isinstance(error, OSError) and error.strerror:
            return error.strerror
        layers = [getattr(error, "reason", None), *error.args]
        inner = next((e for e in layers if isinstance(e, BaseException)), None)
        if inner is None:
            return str(error).rstrip(".") or type(error).__name__
        error = inner


def probe_hosts(
    urls: Iterable[str], seconds: float, others: Mapping[str, Callable[[], None]] | None = None
) -> str:
    """Ask several hosts side by side and return that all of them answer.

    Args:
        urls: the first of each host is requested.
        seconds: timeout of each host.
        others: host -> function that asks it, and raises a DownloadError.

    Raises:
        DownloadError: with the hosts that do not answer.
    """
    probes: dict[str, Callable[[], None]] = {}
    for url in urls:
        probes.setdefault(urlsplit(url).netloc, partial(_probe, url, seconds))
    probes |= others or {}
    calls = {host: partial(_failure, probe) for host, probe in probes.items()}
    answers = run_side_by_side(calls, seconds + 1)
    failures = {host: answers.get(host, f"no answer within {seconds:g} seconds") for host in probes}
    if reasons := "; ".join(f"{host}: {reason}" for host, reason in failures.items() if reason):
        advice = f"Check the network and its proxy settings, or {SET_MIRROR}"
        raise DownloadError(f"{reasons}\n{advice}")
    return f"not fetched yet; {', '.join(probes)} answer"


def run_side_by_side(calls: Mapping[str, Callable[[], T]], seconds: float) -> dict[str, T]:
    """Run functions in threads, and return the results of those that end within some seconds."""
    results: dict[str, T] = {}

    def run(name: str, call: Callable[[], T]) -> None:
        results[name] = call()

    # As daemons, so that one that hangs, as in a name's resolution, does not keep the process.
    threads = [threading.Thread(target=run, args=item, daemon=True) for item in calls.items()]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + seconds
    for thread in threads:
        thread.join(max(0, deadline - time.monotonic()))
    return dict(results)


def _failure(probe: Callable[[], None]) -> str:
    try:
        probe()
    except DownloadError as error:
        return str(error).partition("\n")[0]
    return ""


def _probe(url: str, seconds: float) -> None:
    try:
        with requests.get(url, stream=True, timeout=seconds) as response:
            status = response.status_code
    except requests.Timeout as error:
        raise DownloadError(f"no answer within {seconds:g} seconds") from error
    except requests.exceptions.SSLError as error:
        raise DownloadError("its certificate is not trusted (REQUESTS_CA_BUNDLE)") from error
    except requests.exceptions.ProxyError as error:
        raise DownloadError("the proxy refuses the connection") from error
    except requests.RequestException as error:
        raise DownloadError("cannot be reached") from error
    if status >= HTTPStatus.BAD_REQUEST:
        raise DownloadError(f"answers {status} for {url}")
