"""Inputs of `ptune predict`: flat fields or official records, typed or in a CSV or JSONL file."""

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pipeline.errors import DataError
from pipeline.tasks import Example, Task

T = TypeVar("T")
Record = dict[str, Any]

# Maximum number of lines that an error names; in a file of another format all are invalid.
_MAX_SHOWN = 10

# Columns of integers; CSV itself has only text.
_INTEGER_COLUMNS = ("idx", "span2_index")


def read_example(task: Task, record: Mapping[str, Any], *, idx: int) -> list[Example]:
    """Read the examples of one input.

    The record has the fields of the task's schema, or is an official record, with or without
    labels; other keys and fields that are None are ignored. Without an `idx`, it gets this one.

    Returns:
        One example; for an official record of MultiRC, one per answer.

    Raises:
        DataError: a field is missing, empty or of another type.
    """
    schema = task.schema
    if schema.nested_key and isinstance(record.get(schema.nested_key), dict):
        official = schema.replace_labels({"idx": idx, **record})
    else:
        fields = {key: value for key, value in record.items() if value is not None}
        check_required(fields, schema.required)
        official = schema.record({"idx": idx, **fields})
    examples = list(task.examples(official))
    for example in examples:
        for name, value in example.values.items():
            check_encoding(name, value)
    return examples


def check_required(fields: Mapping[str, Any], required: Sequence[str]) -> None:
    """Check that no required field is missing or blank.

    Raises:
        DataError: names all fields that are.
    """
    missing = [name for name in required if name not in fields]
    if missing:
        found = f" (found {', '.join(map(str, fields))})" if fields else ""
        raise DataError(f"no {' and no '.join(missing)}{found}")
    blank = [
        name for name in required if isinstance(fields[name], str) and not fields[name].strip()
    ]
    if blank:
        raise DataError(f"{' and '.join(blank)} {'is' if len(blank) == 1 else 'are'} empty")


def check_encoding(name: str, value: str) -> None:
    """Check that a text can be encoded as UTF-8.

    Raises:
        DataError: it has an unpaired surrogate.
    """
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{name} has half a character at position {error.start + 1}; write it in UTF-8"
        ) from None


def read_file(
    path: Path, required: Sequence[str], read: Callable[[Record, int], list[T]]
) -> list[T]:
    """Read every line of a file of inputs, `.csv` with a header, or `.jsonl`.

    Args:
        path: of the file.
        required: columns that a CSV file must have.
        read: converts a record and the number of its line; raises DataError if it is invalid.

    Raises:
        DataError: the file is missing, empty, not UTF-8 or in another format, or lines are
            invalid; each of them is named.
    """
    suffix = path.suffix.lower()
    if suffix not in (".csv", ".jsonl"):
        raise DataError(f"{path}: not a .csv or .jsonl file; convert or rename it")
    try:
        data = path.read_bytes()
        text = data.decode("utf-8-sig")  # some spreadsheets write a byte order mark
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}: line {line}: not UTF-8 text; save the file as UTF-8") from None
    lines = _csv_lines(path, text, required) if suffix == ".csv" else _json_lines(text)
    results: list[T] = []
    errors: list[str] = []
    for number, record in lines:
        try:
            if isinstance(record, DataError):
                raise record
            results += read(record, number)
        except DataError as error:
            errors.append(f"line {number}: {error}")
    if errors:
        shown = errors[:_MAX_SHOWN]
        if len(errors) > _MAX_SHOWN:
            shown.append(f"and {len(errors) - _MAX_SHOWN} more")
        count = "1 invalid line" if len(errors) == 1 else f"{len(errors)} invalid lines"
        raise DataError(
            "\n  ".join([f"{path}: {count}; nothing was predicted; correct the file", *shown])
        )
    if not results:
        raise DataError(f"{path}: no inputs; write one per line")
    return results


def _json_lines(text: str) -> Iterator[tuple[int, Record | DataError]]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line, object_pairs_hook=_object)
        except DataError as error:
            yield number, error
            continue
        except (ValueError, RecursionError) as error:
            yield number, DataError(f"not JSON ({error})")
            continue
        if isinstance(record, dict):
            yield number, record
        else:
            yield number, DataError(f"a JSON {type(record).__name__}, not an object")


def _object(pairs: list[tuple[str, Any]]) -> Record:
    """The object of these keys and values.

    Raises:
        DataError: a key appears twice.
    """
    repeated = _repeated([key for key, _ in pairs])
    if repeated:
        raise DataError(f"key {', '.join(repeated)} appears twice; keep one")
    return dict(pairs)


def _repeated(names: Iterable[str]) -> list[str]:
    return [name for name, count in Counter(names).items() if count > 1]


def _csv_lines(
    path: Path, text: str, required: Sequence[str]
) -> Iterator[tuple[int, Record | DataError]]:
    rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    header: list[str] | None = None
    start = 1
    try:
        for row in rows:
            number, start = start, rows.line_num + 1
            if not row:
                continue
            if header is None:
                header = [name.strip() for name in row]
                if repeated := _repeated(filter(None, header)):
                    raise DataError(f"{path}: column {', '.join(repeated)} appears twice; keep one")
                missing = [name for name in required if name not in header]
                if missing:
                    raise DataError(
                        f"{path}: no column {', '.join(missing)}; the first line names the "
                        f"columns, and has {', '.join(header)}"
                    )
            elif len(row) != len(header):
                yield number, DataError(f"{len(row)} cells, but the header has {len(header)}")
            else:
                yield number, {key: _cell(key, v) for key, v in zip(header, row, strict=True)}
    except csv.Error as error:
        yield start, DataError(f"not CSV ({error})")


def _cell(column: str, value: str) -> str | int | None:
    """The value of a cell; None for an empty cell in a column of integers."""
    if column not in _INTEGER_COLUMNS:
        return value
    value = value.strip()
    return int(value) if re.fullmatch(r"\d{1,9}", value, re.ASCII) else value or None
