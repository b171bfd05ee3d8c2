"""Read and write files; a written file is complete or absent, also after a loss of power."""

import csv
import errno
import hashlib
import io
import json
import math
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from pipeline.errors import DataError, warn

Value = TypeVar("Value")

# What a formula begins with; and the quote that precedes such text.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "'")

# Of the parser; ValueError, of which the others of it are: numbers of thousands of digits.
_NO_JSON = (ValueError, RecursionError)
# What the system reports of a file that is damaged, not out of reach: a folder in its place, and
# a position before the start that a parser found in it.
_DAMAGE = (errno.EISDIR, errno.EINVAL)
# The end of an error of safetensors.
_RUST = re.compile(r"\(os error (\d+)\)")


@contextmanager
def atomic_dir(target: Path) -> Iterator[Path]:
    """Yield an empty folder that becomes `target` when the block ends without an exception.

    The folder is a hidden sibling, so a process killed at any moment, or a loss of power, leaves
    `target` absent or complete. Leftovers of a killed attempt are removed first.
    """
    partial = target.with_name(f".{target.name}.partial")
    old = target.with_name(f".{target.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        _sync(partial, *partial.rglob("*"))
        if target.exists():
            target.replace(old)
        partial.replace(target)
        _sync(target.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def replace_durably(written: Path, target: Path) -> None:
    """Rename a file into place; after a loss of power, the target is the old file or the new one.

    Without waiting for the disk, the name can be there before the content, and the file is empty.
    """
    _sync(written)
    written.replace(target)
    _sync(target.parent)


@contextmanager
def written_durably(path: Path) -> Iterator[Path]:
    """Yield a temporary name under which to write a file; it is renamed into place at the end.

    After a kill or a loss of power, `path` is the old file or the new one.

    Raises:
        OSError: the disk is full, for example, whatever a library made of that.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        yield partial
        replace_durably(partial, path)
    except Exception as error:
        if number := _system_error(error):
            raise OSError(number, os.strerror(number), str(path)) from error
        raise
    finally:
        partial.unlink(missing_ok=True)


def _system_error(error: BaseException) -> int | None:
    """The system's number of an error, also of one that a library has replaced by its own."""
    for cause in _chain(error):
        if isinstance(cause, OSError) and cause.errno:
            return cause.errno
        if match := _RUST.search(str(cause)):
            return int(match[1])
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error, and those in whose place it was raised."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _sync(*paths: Path) -> None:
    """Wait until the content of files, and the names in folders, are on the disk."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        except OSError as error:
            # Some network file systems do not offer it for folders.
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):
                raise OSError(error.errno, error.strerror, str(path)) from error
        finally:
            os.close(descriptor)


def link_or_copy(source: Path, target: Path) -> None:
    """Hard-link a large file, or copy it if the file system cannot link."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def write_text(path: Path, text: str, *, mode: int | None = None) -> None:
    """Write UTF-8 text under a temporary name, then rename it into place, with these permissions.

    By default, a new file's permissions are those of the process.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_durably(path) as partial:
        if mode is not None:  # before there is content
            partial.touch()
            partial.chmod(mode)
        partial.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: Path, value: Any) -> None:
    """Write one JSON value, indented, with keys in their order.

    Raises:
        DataError: it has a number that is not finite, which JSON lacks.
    """
    write_text(path, _to_json(path, value, indent=2))


def write_jsonl(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Write one JSON object a line.

    Raises:
        DataError: as for `write_json`.
    """
    write_text(path, "".join(_to_json(path, record) for record in records))


def _to_json(path: Path, value: Any, indent: int | None = None) -> str:
    try:
        return json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False) + "\n"
    except ValueError:
        place, number = next(_not_finite(value, ""))
        raise DataError(
            f"{path}: not written, as {place or 'its value'} is {number}, which is no number of "
            "JSON; the scores it comes from are wrong: check the model and its training"
        ) from None


def _not_finite(value: Any, place: str) -> Iterator[tuple[str, float]]:
    """Yield the place and value of each number that is not finite."""
    if isinstance(value, float) and not math.isfinite(value):
        yield place, value
    items: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, Mapping):
        items = value.items()
    elif isinstance(value, list | tuple):
        items = enumerate(value)
    for key, inner in items:
        yield from _not_finite(inner, f"{place}.{key}" if place else str(key))


def read_progress(path: Path, parse: Callable[[Path], Value]) -> Value | None:
    """Read a file that an earlier attempt left; None where there is none.

    One that was damaged (by a power loss or a full disk, for example) is set aside under another
    name and reported on standard error, and None is returned, so that the work restarts.

    Args:
        path: the file.
        parse: reads it; what it raises means that the file is damaged, unless the system refused
            to read it.

    Raises:
        DataError: the file may be whole, but cannot be read; it is left as it is.
    """
    try:
        if not path.exists():
            return None
        return parse(path)
    except Exception as error:  # parsers raise many types for damaged files
        if refusal := _refusal(error):
            raise DataError(
                f"{path}: {refusal}; it may be whole, so it is kept: check the file, its "
                "permissions and the disk, and run again"
            ) from error
        aside = path.with_name(f"{path.name}.damaged")
        if aside.is_dir():
            shutil.rmtree(aside)
        else:
            aside.unlink(missing_ok=True)
        path.replace(aside)
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        warn(f"{path}: damaged ({reason}); kept as {aside.name}; its work restarts")
        return None


def _refusal(error: BaseException) -> str:
    """Why the system did not let a file be read; empty if its content is at fault."""
    for cause in _chain(error):
        if isinstance(cause, MemoryError) or "can't allocate memory" in str(cause):  # torch's
            return "too little memory to read it"
        if isinstance(cause, OSError) and cause.errno not in (None, *_DAMAGE):
            return cause.strerror or type(cause).__name__
    return ""


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a table with a header line (see `csv_text`).

    Raises:
        ValueError: a row has a key that is not one of `columns`.
    """
    write_text(path, csv_text(columns, rows))


def csv_text(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """Return a table as CSV with a header line.

    No spreadsheet takes a cell for a formula: a quote precedes text that begins like one, or with a
    quote. `read_csv` removes it.

    Raises:
        ValueError: a row has a key that is not one of `columns`.

    Source: https://owasp.org/www-community/attacks/CSV_Injection
    """
    table = io.StringIO(newline="")
    writer = csv.DictWriter(table, columns, lineterminator="\n")
    writer.writerow({name: _inert(name) for name in columns})
    for row in rows:
        writer.writerow({key: _inert(value) for key, value in row.items()})
    return table.getvalue()


def _inert(cell: Any) -> Any:
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(_FORMULA) else cell


def read_object(path: Path, *keys: str) -> dict[str, Any]:
    """Read one JSON object, with some keys.

    Raises:
        DataError: as for `read_json`; or it is no object, or lacks a key.
    """
    value = read_json(path)
    if not isinstance(value, dict) or not all(key in value for key in keys):
        named = f" with {', '.join(keys)}" if keys else ""
        raise DataError(f"{path}: not a JSON object{named}; delete it and run again")
    return value


def read_csv(path: Path) -> list[dict[str, str]]:
    """Read a table that `write_csv` wrote; every value is text.

    Raises:
        DataError: the file is missing, or is not CSV in UTF-8.
    """
    with _opened(path) as file:
        try:
            rows = list(csv.DictReader(file))
        except (UnicodeDecodeError, csv.Error) as error:
            raise DataError(f"{path}: not CSV ({error}); delete it and run again") from error
    if any(None in row or None in row.values() for row in rows):
        raise DataError(
            f"{path}: a row has another number of cells than the header; delete it and run again"
        )
    return [{key: cell.removeprefix("'") for key, cell in row.items()} for row in rows]


def read_json(path: Path) -> Any:
    """Read one JSON value.

    Raises:
        DataError: the file is missing or is not JSON; NaN and Infinity are not.
    """

    def refuse(constant: str) -> None:
        raise DataError(f"{path}: has {constant} in place of a number; delete it and run again")

    with _opened(path) as file:
        try:
            return json.load(file, parse_constant=refuse)
        except _NO_JSON as error:
            raise DataError(f"{path}: not JSON ({error}); delete it and run again") from error


def read_lines(path: Path) -> list[str]:
    """Read the lines of a text file, without their ends.

    Raises:
        DataError: the file is missing or not UTF-8.
    """
    with _opened(path) as file:
        try:
            text: str = file.read()
        except UnicodeDecodeError as error:
            raise DataError(f"{path}: not UTF-8 text ({error}); fetch the file again") from error
    return text.split("\n")


def read_jsonl(path: Path, required: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Read one JSON object a line.

    Raises:
        DataError: the file is missing, or a line is truncated, not an object, or lacks a required
            key.
    """
    records = []
    for number, line in enumerate(read_lines(path), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except _NO_JSON as error:
            raise DataError(f"{path}:{number}: not JSON ({error}); fetch the file again") from error
        if not isinstance(record, dict):
            raise DataError(f"{path}:{number}: expected an object, found {type(record).__name__}")
        missing = [key for key in required if key not in record]
        if missing:
            raise DataError(f"{path}:{number}: no {', '.join(missing)} in this line")
        records.append(record)
    return records


def sha256(path: Path) -> str:
    """The file's SHA-256 as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        file = path.open(encoding="utf-8", newline="")
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file; `dvc repro` creates it") from error
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}; check it and its permissions") from error
    with file:
        yield file
