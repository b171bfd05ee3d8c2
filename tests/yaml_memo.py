"""Each YAML text is parsed once: ruamel.yaml takes a second for a long `dvc.lock`.

DVC reads `dvc.yaml`, `params.yaml`, and `dvc.lock` several times in each process. What they hold is
kept in a folder, under a hash of the text, for all processes of a test run.
"""

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
    """Have `YAML(typ="safe").load` return a copy of what it returned for the same text before."""
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
