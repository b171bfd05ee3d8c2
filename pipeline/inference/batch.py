"""Questions in a file: one a line, as CSV or as JSON objects."""

import csv
import io
import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pipeline.errors import DataError

Read = TypeVar("Read")
Record = dict[str, Any]

# Lines that an error names; a file of another form is wrong in all of them.
_SHOWN = 10

# Columns that hold whole numbers; CSV has nothing but text.
_NUMBERS = ("idx", "span2_index")


def read_questions(
    path: Path, needed: Sequence[str], read: Callable[[Record, int], list[Read]]
) -> list[Read]:
    """Read every line of a file of questions, or say of each that is wrong why it is.

    Args:
        path: `.csv` with a header, or `.jsonl`.
        needed: columns that a CSV file must have.
        read: makes what is wanted of a record and its line; raises DataError where it cannot.

    Returns:
        What the lines gave, in their order.

    Raises:
        DataError: the file is missing, empty, not UTF-8 or of another kind, or a line is wrong.
    """
    kind = path.suffix.lower()
    if kind not in (".csv", ".jsonl"):
        raise DataError(f"{path}: a file of questions is .csv or .jsonl; name and write it so")
    text = _text(path)
    lines = _csv_lines(path, text, needed) if kind == ".csv" else _json_lines(text)
    found: list[Read] = []
    wrong: list[str] = []
    for number, record in lines:
        try:
            if isinstance(record, DataError):
                raise record
            found += read(record, number)
        except DataError as error:
            wrong.append(f"line {number}: {error}")
    if wrong:
        shown = wrong[:_SHOWN]
        if len(wrong) > _SHOWN:
            shown.append(f"and {len(wrong) - _SHOWN} more")
        many = "1 line" if len(wrong) == 1 else f"{len(wrong)} lines"
        raise DataError(
            "\n  ".join([f"{path}: {many} cannot be asked, so nothing was; mend the file", *shown])
        )
    if not found:
        raise DataError(f"{path}: no questions; write one a line")
    return found


def _text(path: Path) -> str:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    try:
        return data.decode("utf-8-sig")  # some spreadsheets put a mark in front
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}: line {line}: not UTF-8 text; save the file as UTF-8") from None


def _json_lines(text: str) -> Iterator[tuple[int, Record | DataError]]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield number, DataError(f"not JSON ({error})")
            continue
        if isinstance(record, dict):
            yield number, record
        else:
            yield number, DataError(f"a JSON {type(record).__name__}, not an object")


def _csv_lines(
    path: Path, text: str, needed: Sequence[str]
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
                _check_header(path, header, needed)
            elif len(row) != len(header):
                yield number, DataError(f"{len(row)} cells, but the header has {len(header)}")
            else:
                yield number, {key: _cell(key, v) for key, v in zip(header, row, strict=True)}
    except csv.Error as error:
        yield start, DataError(f"not CSV ({error})")


def _check_header(path: Path, header: Sequence[str], needed: Sequence[str]) -> None:
    missing = [name for name in needed if name not in header]
    if missing:
        raise DataError(
            f"{path}: no column {', '.join(missing)}; the first line names the columns, and has "
            f"{', '.join(header)}"
        )


def _cell(column: str, value: str) -> str | int | None:
    """Return a cell's value; a number that is left open is not there."""
    if column not in _NUMBERS:
        return value
    value = value.strip()
    return int(value) if re.fullmatch(r"\d{1,9}", value, re.ASCII) else value or None
