"""Folders pushed to a server of this machine that answers as the hub does, or misbehaves."""

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from pipeline.inference.push import PushError, check_access, push_folder

REPOSITORY = "someone/rte-p-tuning"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(ThreadingHTTPServer):
    """Takes one repository.

    Attributes:
        asked: path and JSON of each request.
        answers: a part of a path -> status to answer with, or `cut`, in place of a good answer.
        files: name -> content of what was committed.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: list[tuple[str, Any]] = []
        self.answers: dict[str, int | str] = {}
        self.files: dict[str, bytes] = {}
        self.token = ""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_POST(self) -> None:
        body = self._body()
        lines = [json.loads(line) for line in body.splitlines()] if body else []
        path = self.path.partition("?")[0]
        self.server.asked.append((path, lines))
        self.server.token = self.headers.get("Authorization", "")
        wrong = next((of for part, of in self.server.answers.items() if part in path), None)
        if wrong == "cut":
            self.close_connection = True
            self.connection.close()
            return
        if isinstance(wrong, int):
            url = f"{self.server.url}/{REPOSITORY}"
            self._send(wrong, {"error": "said by the hub", "url": url})
            return
        self._send(200, self._answer(path, lines))

    do_GET = do_POST

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        return b"".join(parts)

    def _answer(self, path: str, lines: list[Any]) -> Any:
        address = f"{self.server.url}/{REPOSITORY}"
        if path == "/api/repos/create":
            return {"url": address, "name": REPOSITORY, "id": "1"}
        if "/preupload/" in path:
            return {
                "files": [
                    {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                    for file in lines[0]["files"]
                ]
            }
        if "/commit/" in path:
            for line in lines:
                if line["key"] == "file":
                    content = base64.b64decode(line["value"]["content"])
                    self.server.files[line["value"]["path"]] = content
            return {"success": True, "commitOid": COMMIT, "commitUrl": f"{address}/commit/{COMMIT}"}
        return {"id": REPOSITORY, "sha": COMMIT, "private": False, "siblings": []}

    def _send(self, status: int, answer: Any) -> None:
        content = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)
    with Hub() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    files = {"README.md": b"# A card\n", "model.safetensors": b"\0weights", "a/config.json": b"{}"}
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    return tmp_path


@pytest.mark.parametrize("private", [True, False])
def test_a_folder_is_in_a_new_repository(hub: Hub, folder: Path, private: bool) -> None:
    url = push_folder(folder, REPOSITORY, private=private, add=False)
    assert url == f"{hub.url}/{REPOSITORY}"
    (created,) = dict(hub.asked)["/api/repos/create"]
    assert (created["organization"], created["name"]) == tuple(REPOSITORY.split("/"))
    assert created["visibility"] == ("private" if private else "public")
    assert hub.token == "Bearer hf_secret"
    assert hub.files == {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_repository_that_exists_is_added_to_only_if_this_is_asked_for(
    hub: Hub, folder: Path
) -> None:
    hub.answers = {"/repos/create": 409}
    with pytest.raises(PushError, match=f"{REPOSITORY}: the repository exists; name another, or"):
        push_folder(folder, REPOSITORY, private=False, add=False)
    assert not hub.files
    push_folder(folder, REPOSITORY, private=False, add=True)
    assert "README.md" in hub.files


@pytest.mark.parametrize("part", ["/repos/create", "/preupload/", "/commit/"])
@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (401, "the hub does not accept your token; run `hf auth login`"),
        (403, "your token may not write there"),
        (500, "the hub failed (.*); run again later"),
        ("cut", "the connection to http://127.0.0.1.* failed: "),
    ],
)
def test_each_failure_of_the_hub_ends_in_one_message(
    hub: Hub, folder: Path, part: str, answer: int | str, said: str
) -> None:
    hub.answers = {part: answer}
    with pytest.raises(PushError, match=said.replace("(.*)", r"\(.*\)")) as caught:
        push_folder(folder, REPOSITORY, private=False, add=False)
    message = str(caught.value)
    assert message.startswith(f"{REPOSITORY}: ")
    assert "\n" not in message
    assert "hf_secret" not in message
    assert not hub.files
    created = part != "/repos/create"
    if answer in (500, "cut"):
        assert ("--add" in message) == created


def test_what_is_known_without_the_hub_is_checked_first(
    monkeypatch: pytest.MonkeyPatch, hub: Hub
) -> None:
    check_access(REPOSITORY)
    for name in ("rte", "someone/rte@main", "a/b/c", "someone/..", "gpt2"):
        with pytest.raises(PushError, match="is not the name of a repository"):
            check_access(name)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    with pytest.raises(PushError, match="no token of the Hugging Face hub; run `hf auth login`"):
        check_access(REPOSITORY)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(PushError, match="HF_HUB_OFFLINE is set"):
        check_access(REPOSITORY)
    assert not hub.asked
