"""What the client of the Hugging Face hub asks for, on a server of this machine."""

import contextlib
import functools
import hashlib
import json
import os
from collections.abc import Iterator
from types import ModuleType

import pytest
from huggingface_hub import constants

from pipeline.sources.hub import fetch_from_hub
from tests.server import File, Server, serving

COMMIT = "0123456789abcdef0123456789abcdef01234567"
OLDER = "89abcdef0123456789abcdef0123456789abcdef"
_LARGE = (".safetensors", ".parquet")


class Hub:
    """One repository.

    Attributes:
        server: serves all of it.
        files: name -> content of the repository's files.
        commit: the newest.
    """

    def __init__(
        self,
        server: Server,
        name: str,
        files: dict[str, bytes],
        *,
        kind: str = "model",
        commit: str = COMMIT,
    ) -> None:
        self.server = server
        self.files = files
        self.commit = commit
        self._api = f"/api/{kind}s/{name}"
        self._folder = f"/{name}" if kind == "model" else f"/{kind}s/{name}"
        self._say("revision/main", {"id": name, "sha": commit})
        self._say("revision/v1", {"id": name, "sha": OLDER})
        for one in (commit, OLDER):
            self._say(f"tree/{one}", [self._entry(file) for file in files])
            for file, content in files.items():
                server.put(
                    f"{self._folder}/resolve/{one}/{file}",
                    content,
                    X_Repo_Commit=one,
                    ETag=f'"{self._etag(file)}"',
                )

    def __getitem__(self, file: str) -> File:
        return self.server.files[f"{self._folder}/resolve/{self.commit}/{file}"]

    def refuse(self, status: int, code: str | None, path: str = "revision/main") -> None:
        file = self.server.files[f"{self._api}/{path}"]
        file.plan = [status, ...]
        file.headers = {"X-Error-Code": code, "X-Error-Message": "said by the hub"}

    def _say(self, path: str, answer: object) -> None:
        content = json.dumps(answer).encode()
        self.server.put(f"{self._api}/{path}", content, Content_Type="application/json")

    def _etag(self, file: str) -> str:
        content = self.files[file]
        if file.endswith(_LARGE):
            return hashlib.sha256(content).hexdigest()
        return hashlib.sha1(b"blob %d\0%b" % (len(content), content)).hexdigest()

    def _entry(self, file: str) -> dict[str, object]:
        size = len(self.files[file])
        entry: dict[str, object] = {"type": "file", "path": file, "size": size}
        if file.endswith(_LARGE):
            large = {"oid": self._etag(file), "size": size, "pointerSize": 134}
            return {**entry, "oid": "0" * 40, "lfs": large}
        return {**entry, "oid": self._etag(file)}


@contextlib.contextmanager
def asking_here(monkeypatch: pytest.MonkeyPatch, module: ModuleType) -> Iterator[Server]:
    """Have the hub's client, as `module` uses it, ask a server of this machine and nobody else."""
    for name in list(os.environ):
        if name.upper().endswith("_PROXY") or name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
            monkeypatch.delenv(name)
    with serving() as server:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_IMPLICIT_TOKEN", True)
        monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.5)
        here = functools.partial(fetch_from_hub, endpoint=server.url)
        monkeypatch.setattr(module, "fetch_from_hub", here)
        monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda _: None)
        yield server
