"""Inputs of `ptune predict`: flat fields or official records, typed or in a file."""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pipeline.data.tables import Record, read_table
from pipeline.errors import DataError
from pipeline.tasks import Example, Task

T = TypeVar("T")

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
    path: Path,
    required: Sequence[str],
    read: Callable[[Record, int], list[T]],
    columns: Mapping[str, str] | None = None,
) -> list[T]:
    """Read every row of a file of inputs (see `pipeline.data.tables.read_table`).

    Cells of a column of integers are integers where they can be, in CSV and TSV too.

    Args:
        path: the file.
        required: columns that it must have; with `columns`, `read` checks them.
        read: converts a record and its number.
        columns: field -> the column that has it in the file that a task of the user is made from.
            A row that lacks the field may have this column.
    """

    def read_row(record: Record, number: int) -> list[T]:
        cells = {key: _cell(key, value) for key, value in record.items()}
        fields = {f: cells[name] for f, name in (columns or {}).items() if name in cells}
        return read({**fields, **cells}, number)

    return read_table(path, [] if columns else required, read_row)


def _cell(column: str, value: Any) -> Any:
    """The value of a cell; None for an empty cell in a column of integers."""
    if column not in _INTEGER_COLUMNS or not isinstance(value, str):
        return value
    value = value.strip()
    return int(value) if re.fullmatch(r"\d{1,9}", value, re.ASCII) else value or None
