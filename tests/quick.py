"""Libraries do in a test run once what they do in each process or for each store otherwise."""

import hashlib
import io
import pickle
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

# The folder, in the environment of what a test run starts.
PARSED_YAML = "PTUNE_TESTS_YAML"


def remember_yaml(folder: Path) -> None:
    """Have `YAML(typ="safe").load` return a copy of what it returned for the same text before.

    ruamel.yaml takes a second for a long `dvc.lock`, and DVC reads that file, `dvc.yaml`, and
    `params.yaml` several times in each process.

    Args:
        folder: keeps the parsed values, under a hash of their text, for all processes.
    """
    parse = YAML.load

    @cache
    def parsed(text: str | bytes, version: Any, duplicates: Any) -> bytes:
        data = text.encode() if isinstance(text, str) else text
        key = hashlib.sha256(repr((version, duplicates, data)).encode()).hexdigest()
        return (folder / key).read_bytes()

    def load(self: YAML, stream: Any) -> Any:
        if self.typ != ["safe"]:
            return parse(self, stream)
        if isinstance(stream, Path):
            with stream.open("rb") as file:
                return load(self, file)
        text = stream if isinstance(stream, str | bytes) else stream.read()
        about = (text, self.version, self.allow_duplicate_keys)
        try:
            return pickle.loads(parsed(*about))
        except FileNotFoundError as missing:
            value = parse(self, text if text is stream else _named(text, stream))
            _write(Path(missing.filename), pickle.dumps(value))
            return value

    YAML.load = load


def open_stores_quickly() -> None:
    """Have MLflow look up its newest schema once, and SQLite not wait for the disk."""
    from mlflow.store.db import utils
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    utils._get_latest_schema_revision = cache(utils._get_latest_schema_revision)

    @event.listens_for(Engine, "connect")
    def _(connection: Any, _: Any) -> None:
        if "sqlite" in type(connection).__module__:
            connection.execute("PRAGMA synchronous = OFF")


def _named(text: str | bytes, stream: Any) -> Any:
    """Return a stream of a text that errors call as they call another."""

    class Named(io.StringIO if isinstance(text, str) else io.BytesIO):  # type: ignore[misc]
        name = getattr(stream, "name", "<file>")

    return Named(text)


def _write(path: Path, data: bytes) -> None:
    """Write a file that no other process finds half written."""
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        file.write(data)
    Path(file.name).replace(path)
