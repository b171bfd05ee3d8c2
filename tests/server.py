"""An HTTP server on this machine that sends what a test puts there, well or badly."""

import contextlib
import gzip
import hashlib
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class File:
    """What is at a path.

    Attributes:
        content: its bytes.
        headers: sent with it, in place of the usual ones of the same name; None leaves one out.
        plan: how the next requests are answered, one entry each; then, well. `...` repeats the
            entry before it without end. An entry is a status, `-> path` for a redirect, or one of
            `well`; `cut`: half of it; `silent`: half of it, then nothing; `long` and `short`: says
            that it is longer or shorter; `all`: the whole file, whatever part is asked for;
            `shifted`: a part that was not asked for; `less`: half of the part that was asked for;
            `altered`: other bytes of the same number; `packed`: compressed, for who can unpack it;
            `drips`: a byte now and then; `chunked`: without its length; `cut chunked`.
    """

    content: bytes
    headers: dict[str, str | None] = field(default_factory=dict)
    plan: list[object] = field(default_factory=list)

    def next_answer(self) -> object:
        if not self.plan:
            return "well"
        if self.plan[1:] == [...]:
            return self.plan[0]
        return self.plan.pop(0)


class Server(ThreadingHTTPServer):
    """Sends files, parts of files where asked, and remembers who asked for what.

    Attributes:
        files: path -> what is there.
        asked: method and path of each request, and the first byte if it was for the rest.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, File] = {}
        self.asked: list[str] = []
        self.silent = threading.Event()
        self.released = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def put(self, path: str, content: bytes, *plan: object, **headers: str | None) -> str:
        """Put a file at a path and return its address."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.files[path] = File(content, named, list(plan))
        return self.url + path


@contextlib.contextmanager
def serving() -> Iterator[Server]:
    """Run a server until the block ends."""
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield server
        finally:
            server.released.set()
            server.shutdown()
            thread.join()


def etag(content: bytes) -> str:
    return f'"{hashlib.sha256(content).hexdigest()[:16]}"'


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        rest = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        self.server.asked.append(
            f"{self.command} {path}" + (f" from {rest[1]}" if rest is not None else "")
        )
        file = self.server.files.get(path)
        answer = 404 if file is None else file.next_answer()
        if isinstance(answer, int):
            self._send(answer, b"", file.headers if file else {})
        elif str(answer).startswith("-> "):
            self._send(302, b"", {"Location": str(answer)[3:]})
        else:
            assert file is not None
            self._send_file(file, str(answer), int(rest[1]) if rest is not None else None)

    do_HEAD = do_GET

    def _send_file(self, file: File, how: str, start: int | None) -> None:
        whole = file.content
        headers: dict[str, str | None] = {
            "ETag": etag(whole),
            "Last-Modified": "Mon, 23 Nov 2026 10:00:00 GMT",
            "Content-Type": "application/octet-stream",
            **file.headers,
        }
        same = self.headers.get("If-Range") in (None, headers["ETag"], headers["Last-Modified"])
        status, body = 200, whole
        if start is not None and start >= len(whole) and same:
            self._send(416, b"", {"Content-Range": f"bytes */{len(whole)}"})
            return
        if start is not None and same and how != "all":
            start += 10 * (how == "shifted")
            end = (start + len(whole)) // 2 if how == "less" else len(whole)
            status, body = 206, whole[start:end]
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(whole)}"
        if how == "altered":
            body = bytes(byte ^ 1 for byte in body)
        if how == "packed" and "gzip" in self.headers.get("Accept-Encoding", ""):
            body = gzip.compress(body)
            headers["Content-Encoding"] = "gzip"
        length: int | None = len(body)
        if how == "long":
            length = len(body) + 100
        elif how == "short":
            length, body = len(body) // 2, body[: len(body) // 2]
        elif how == "drips":
            body = b""
        elif how in ("cut", "silent"):
            body = body[: len(body) // 2]
        if "chunked" in how:
            length = None
            headers["Transfer-Encoding"] = "chunked"
            body = b"".join(
                b"%x\r\n%b\r\n" % (len(part), part)
                for part in (body[at : at + 70_000] for at in range(0, len(body), 70_000))
            )
            body = body[: len(body) // 2] if "cut" in how else body + b"0\r\n\r\n"
        self._send(status, body, headers, length)
        if how == "drips":
            with contextlib.suppress(ConnectionError):
                for _ in range(100):
                    self.wfile.write(b"x")
                    time.sleep(0.05)
        if how == "silent":
            self.wfile.flush()
            self.server.silent.set()
            self.server.released.wait(600)

    def _send(
        self,
        status: int,
        body: bytes,
        headers: dict[str, str | None],
        length: int | None = 0,
    ) -> None:
        # Chunks are of HTTP/1.1; each connection still ends with its answer.
        self.protocol_version = "HTTP/1.1"
        self.close_connection = True
        self.send_response(status)
        for name, value in headers.items():
            if value is not None:
                self.send_header(name, value)
        if length is not None and headers.get("Content-Length", "") == "":
            self.send_header("Content-Length", str(length))
        self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            with contextlib.suppress(ConnectionError):  # the client may have left
                self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass
