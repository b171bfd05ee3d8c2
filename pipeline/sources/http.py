"""Fetch one file over HTTP: whole, or one clear error. What was cut goes on where it stopped."""

import contextlib
import fcntl
import hashlib
import re
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from http import HTTPStatus
from pathlib import Path
from typing import NoReturn
from urllib.parse import urlsplit

import requests
from tqdm import tqdm

from pipeline import files
from pipeline.errors import ChecksumError, DataError, DownloadError

_CHUNK_BYTES = 1 << 16
_MIRROR = "set data.mirror in params.yaml to a folder with a local copy"


@dataclass(frozen=True)
class RetryPolicy:
    """How long a server is waited for.

    Attributes:
        attempts: how often a file is asked for before giving up.
        first_wait_seconds: before the second attempt; twice as long before each further one.
        longest_wait_seconds: bound of each wait, of one that the server asks for too.
        silence_seconds: a connection on which nothing comes for so long is dead.
    """

    attempts: int = 5
    first_wait_seconds: float = 1.0
    longest_wait_seconds: float = 60.0
    silence_seconds: float = 30.0

    def wait_seconds(self, attempt: int, asked_seconds: float | None) -> float:
        """Return how long to wait after the attempt of this number, the first being 1."""
        wait = self.first_wait_seconds * 2.0 ** (attempt - 1)
        return min(max(wait, asked_seconds or 0), self.longest_wait_seconds)


PATIENCE = RetryPolicy()


def download_kept(
    url: str, cache: Path, *, sha256: str | None = None, patience: RetryPolicy = PATIENCE
) -> Path:
    """Download into a cache folder (see `download`) and return the file's path.

    The path is the URL's own, so that a file of an older address is never taken for the new one.
    """
    key = hashlib.sha256(url.encode()).hexdigest()[:12]
    target = cache / key / (Path(urlsplit(url).path).name or "file")
    download(url, target, sha256=sha256, patience=patience)
    return target


def download(
    url: str, target: Path, *, sha256: str | None = None, patience: RetryPolicy = PATIENCE
) -> None:
    """Put a file from the web at `target`, unless it is there.

    Bytes go to `<target>.partial`, which becomes `target` when all came. After a cut or a kill it
    is continued, if the server says that the file is still the same. Proxies and certificates are
    those of the environment, as `requests` reads it.

    Args:
        url: an http or https address.
        target: where to put the file; its folder is made if absent.
        sha256: digest that it must have; None if it is not known.
        patience: how often to try, how long to wait.

    Raises:
        DownloadError: the file could not be had whole.
        ChecksumError: it has another digest; nothing is kept.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with _alone(target):
        if target.is_file() and (sha256 is None or files.sha256(target) == sha256):
            return
        partial = _Partial(target)
        _fetch(url, partial, patience)
        if sha256 is not None and (found := files.sha256(partial.data)) != sha256:
            partial.forget()
            raise ChecksumError(
                f"{url}: sha256 is {found}, expected {sha256}; nothing was kept.\n"
                f"Run again, and if it repeats, {_MIRROR}"
            )
        partial.data.replace(target)
        partial.forget()


@contextlib.contextmanager
def _alone(target: Path) -> Iterator[None]:
    """Let one process at a time fetch a file: `dvc queue` runs stages side by side."""
    # A file of its own: the partial file is renamed, and its lock would go with it.
    with target.with_name(f".{target.name}.lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@dataclass(frozen=True)
class _Whole:
    """What a partial file is a part of.

    Attributes:
        url: where it comes from.
        validator: tells one version of the file from another; None if the server names none.
        length: in bytes; None if the server does not say.
    """

    url: str
    validator: str | None
    length: int | None


class _Partial:
    """What came so far, and beside it what it is a part of."""

    def __init__(self, target: Path) -> None:
        self.name = target.name
        self.data = target.with_name(f"{target.name}.partial")
        self.about = target.with_name(f"{target.name}.partial.json")

    def size(self) -> int:
        return self.data.stat().st_size if self.data.exists() else 0

    def known(self, url: str) -> _Whole | None:
        """Return what the bytes here belong to; None if they cannot be continued."""
        try:
            whole = _Whole(**files.read_json(self.about))
        except (DataError, TypeError):
            return None
        continuable = whole.url == url and whole.validator is not None and self.size() > 0
        return whole if continuable else None

    def begin(self, whole: _Whole) -> None:
        # In this order, a kill never leaves bytes beside the description of another file.
        self.data.unlink(missing_ok=True)
        files.write_json(self.about, asdict(whole))

    def append(self, response: requests.Response, length: int | None) -> None:
        with (
            self.data.open("ab") as file,
            tqdm.wrapattr(
                file,
                "write",
                total=length,
                initial=self.size(),
                desc=self.name,
                unit_divisor=1024,
                disable=None,
            ) as bar,
        ):
            for chunk in response.iter_content(_CHUNK_BYTES):
                bar.write(chunk)

    def forget(self) -> None:
        self.data.unlink(missing_ok=True)
        self.about.unlink(missing_ok=True)


class _Interrupted(Exception):
    """An attempt failed in a way that another may not."""

    def __init__(self, reason: str, asked_seconds: float | None = None) -> None:
        super().__init__(reason)
        self.asked_seconds = asked_seconds


def _fetch(url: str, partial: _Partial, patience: RetryPolicy) -> None:
    attempt = 1
    while True:
        try:
            _attempt(url, partial, patience)
            return
        except _Interrupted as error:
            if attempt >= patience.attempts:
                kept = "; it goes on where it stopped" if partial.known(url) else ""
                raise DownloadError(
                    f"{url}: {error}; gave up after {attempt} attempts.\n"
                    f"Check the network and its proxy settings and run again{kept}; or {_MIRROR}"
                ) from error
            time.sleep(patience.wait_seconds(attempt, error.asked_seconds))
            attempt += 1


def _attempt(url: str, partial: _Partial, patience: RetryPolicy) -> None:
    try:
        _fetch_rest(url, partial, patience.silence_seconds)
    except (
        requests.ConnectionError,
        requests.Timeout,
        requests.exceptions.ChunkedEncodingError,
    ) as error:
        reason = _innermost(error)
        if "CERTIFICATE_VERIFY_FAILED" in reason:
            raise DownloadError(
                f"{url}: {reason}\nSet REQUESTS_CA_BUNDLE to the certificates of your network, "
                f"or {_MIRROR}"
            ) from error
        raise _Interrupted(reason) from error
    except requests.RequestException as error:
        raise DownloadError(f"{url}: {_innermost(error)}.\nTo do without it, {_MIRROR}") from error
    except OSError as error:
        raise DownloadError(
            f"{partial.data}: {error.strerror or error}; make room or check the permissions, then "
            "run again"
        ) from error


def _fetch_rest(url: str, partial: _Partial, silence_seconds: float) -> None:
    whole = partial.known(url)
    if whole is not None and partial.size() == whole.length:
        return  # killed before the last rename
    headers = {"Accept-Encoding": "identity"}
    if whole is not None and whole.validator is not None:
        headers |= {"Range": f"bytes={partial.size()}-", "If-Range": whole.validator}
    with requests.get(url, headers=headers, stream=True, timeout=silence_seconds) as response:
        if response.headers.get("Content-Encoding", "identity") != "identity":
            raise DownloadError(
                f"{url}: sent compressed, though asked not to be: its length cannot be checked. "
                f"Check the proxy, or {_MIRROR}"
            )
        if whole is not None and response.status_code == HTTPStatus.PARTIAL_CONTENT:
            _check_continues(response, partial, whole)
        elif response.status_code == HTTPStatus.OK:
            whole = _Whole(url, _validator(response), _content_length(response))
            partial.begin(whole)
        else:
            _refuse(url, partial, response)
        partial.append(response, whole.length if whole else None)
    if whole is not None and whole.length not in (None, partial.size()):
        reason = f"{partial.size()} of {whole.length} bytes came"
        if partial.size() > (whole.length or 0):
            partial.forget()
        raise _Interrupted(reason)


def _check_continues(response: requests.Response, partial: _Partial, whole: _Whole) -> None:
    said = response.headers.get("Content-Range", "")
    found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", said)
    if (
        found is None
        or int(found[1]) != partial.size()
        or found[2] not in ("*", str(whole.length))
        or _validator(response) not in (None, whole.validator)
    ):
        begun = partial.size()
        partial.forget()
        raise _Interrupted(f"asked for what follows byte {begun}, it sent {said or 'no range'!r}")


def _refuse(url: str, partial: _Partial, response: requests.Response) -> NoReturn:
    status = response.status_code
    reason = f"the server answered {status} {response.reason}".rstrip()
    if status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
        partial.forget()
        raise _Interrupted(reason)
    if status in (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS) or status >= 500:
        asked = response.headers.get("Retry-After", "")
        raise _Interrupted(reason, float(asked) if asked.isdecimal() else None)
    raise DownloadError(
        f"{url}: {reason}.\nThe file is gone, or the server lets nobody or not you have it; "
        f"{_MIRROR}"
    )


def _validator(response: requests.Response) -> str | None:
    """Return what If-Range takes: a weak ETag may stand for different bytes."""
    etag = response.headers.get("ETag")
    if etag is not None and not etag.startswith("W/"):
        return etag
    return response.headers.get("Last-Modified")


def _content_length(response: requests.Response) -> int | None:
    length = response.headers.get("Content-Length", "")
    return int(length) if length.isdecimal() else None


def _innermost(error: BaseException) -> str:
    """Return the reason without the layers around it, which name pools and retries."""
    while True:
        around = [getattr(error, "reason", None), *error.args]
        inner = next((e for e in around if isinstance(e, BaseException)), None)
        if inner is None:
            return str(error).rstrip(".") or type(error).__name__
        error = inner
