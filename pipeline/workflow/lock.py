"""Read `dvc.lock`, DVC's record of the stages in the workspace, without importing dvc.

Run keys are computed from its entries as DVC's run cache computes them.
"""

import hashlib
import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from pipeline.errors import DataError


@dataclass(frozen=True)
class Execution:
    """One execution of a stage, identified by content.

    Attributes:
        stage: As in `dvc.yaml`, such as `train-lama@p-tuning`.
        command: What DVC ran; see `command_text`.
        run_key: 64 hexadecimal digits; None if the record has none.
        params: Dotted path -> value.
        inputs: Path -> DVC's hash of each dependency.
        outputs: Path -> DVC's hash of each output.
    """

    stage: str
    command: str
    run_key: str | None = None
    params: Mapping[str, Any] = field(default_factory=dict)
    inputs: Mapping[str, str] = field(default_factory=dict)
    outputs: Mapping[str, str] = field(default_factory=dict)


def read_lock(path: Path) -> dict[str, Execution]:
    """Return stage -> its execution in `dvc.lock`; empty if there is no such file.

    Raises:
        DataError: The file cannot be parsed.
    """
    if not path.is_file():
        return {}
    return parse_lock(path.read_bytes(), str(path))


def parse_lock(content: bytes, name: str) -> dict[str, Execution]:
    """Return stage -> its execution, from the content of a `dvc.lock`.

    Raises:
        DataError: The content cannot be parsed; the message begins with `name`.
    """
    try:
        stages = YAML(typ="safe").load(content.decode())["stages"]
        if not all(isinstance(stage, str) for stage in stages):
            raise TypeError("names of stages must be text")
        return {
            stage: Execution(
                stage=stage,
                command=command_text(entry["cmd"]),
                run_key=_run_key(entry),
                params={k: v for file in entry.get("params", {}).values() for k, v in file.items()},
                inputs={dep["path"]: _hash(dep) for dep in entry.get("deps", [])},
                outputs={out["path"]: _hash(out) for out in entry.get("outs", [])},
            )
            for stage, entry in stages.items()
        }
    except (YAMLError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{name}: cannot be parsed as a dvc.lock ({type(error).__name__}: "
            f"{' '.join(str(error).split())[:120]}); restore it with git, or delete it and run "
            "`dvc repro`"
        ) from error


def whole_entries(content: bytes) -> bytes | None:
    """Return what is whole of a `dvc.lock` that was cut: all but its last entry.

    dvc writes the file in place, so a kill or a full disk cuts it; NULs are what a loss of power
    leaves. None if it was not cut, but has other content, such as a conflict of git.
    """
    text, _, _ = content.partition(b"\0")
    last = max(text.rfind(b"\n  "), 0) if b"\nstages:" in text else 0
    while last and text[last + 3 : last + 4] in (b" ", b"-"):
        last = text.rfind(b"\n  ", 0, last)
    kept = text[: last + 1] if last > 0 else b""
    if kept.rstrip().endswith(b"stages:"):
        kept = b""
    try:
        parse_lock(kept or b"stages: {}", "dvc.lock")
    except DataError:
        return None
    return kept if kept or b"<<<<" not in text else None


def command_text(command: str | Sequence[str]) -> str:
    """Return a stage's `cmd` as text; a list of commands as one line each."""
    return command if isinstance(command, str) else "\n".join(command)


def outputs_within(lock: Mapping[str, Execution], folders: Collection[str]) -> dict[str, str]:
    """Return path -> hash of the outputs inside some folders."""
    return {
        path: digest
        for execution in lock.values()
        for path, digest in execution.outputs.items()
        if any(path.startswith(f"{folder}/") for folder in folders)
    }


def folder_hash(files: Iterable[tuple[str, str]]) -> str:
    """Return DVC's hash of a folder, from path (relative, with `/`) and MD5 of each file."""
    listing = [{"md5": digest, "relpath": name} for name, digest in sorted(files)]
    return f"{file_hash(json.dumps(listing, sort_keys=True).encode())}.dir"


def file_hashes(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield path (relative, with `/`) and MD5 of each file in a folder."""
    for file in folder.rglob("*"):
        if file.is_file():
            yield file.relative_to(folder).as_posix(), file_hash(file.read_bytes())


def content_hash(path: Path) -> str | None:
    """Return DVC's hash of a file or folder on disk; None if it does not exist."""
    if path.is_dir():
        return folder_hash(file_hashes(path))
    return file_hash(path.read_bytes()) if path.exists() else None


def file_hash(content: bytes) -> str:
    """Return DVC's hash of a file."""
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def _hash(entry: Mapping[str, Any]) -> str:
    """Return the hash of a file or folder, or the server's checksum of an external one."""
    key = next((key for key in ("md5", "checksum", "etag") if key in entry), "md5")
    return str(entry[key])


def _run_key(entry: Mapping[str, Any]) -> str | None:
    """Return the key as in `dvc.stage.cache`; None for stages that the run cache excludes."""
    deps, outs = entry.get("deps"), entry.get("outs")
    if not deps or not outs or any("://" in part["path"] for part in [*deps, *outs]):
        return None
    sizes = ("size", "nfiles")
    content = {
        **entry,
        "deps": [{key: dep[key] for key in dep if key not in sizes} for dep in deps],
        "outs": [out["path"] for out in outs],
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
