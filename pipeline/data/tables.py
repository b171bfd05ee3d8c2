"""Rows of a person's files: CSV, TSV, JSON Lines or Parquet, each row with its number."""

import codecs
import csv
import io
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pipeline.errors import DataError

T = TypeVar("T")
Record = dict[str, Any]

SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")
_DELIMITERS = {".csv": ",", ".tsv": "\t"}

# Maximum number of rows that an error names; in a file of another format all are invalid.
_MAX_SHOWN = 10


def read_table(
    path: Path, required: Sequence[str], read: Callable[[Record, int], list[T]]
) -> list[T]:
    """Read every row of a file.

    Args:
        path: `.csv` or `.tsv` with a header, `.jsonl`, or `.parquet`. Text is UTF-8, or UTF-16
            with a byte order mark. Cells of CSV are separated by commas, or by semicolons if the
            header has these and no comma.
        required: columns that the file must have; in JSON Lines, `read` checks them.
        read: converts a record and its number, that of its line or, in Parquet, of its row from 1;
            raises DataError if the record is invalid. A value of CSV and TSV is text.

    Raises:
        DataError: the file is missing, empty, in another encoding or format, or rows are invalid;
            each of them is named.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        *others, last = SUFFIXES
        raise DataError(f"{path}: not a {', '.join(others)} or {last} file; convert or rename it")
    results: list[T] = []
    errors: list[str] = []
    unit = "row" if suffix == ".parquet" else "line"
    for number, record in _rows(path, suffix, required):
        try:
            if isinstance(record, DataError):
                raise record
            results += read(record, number)
        except DataError as error:
            errors.append(f"{unit} {number}: {error}")
    if errors:
        shown = errors[:_MAX_SHOWN]
        if len(errors) > _MAX_SHOWN:
            shown.append(f"and {len(errors) - _MAX_SHOWN} more")
        count = f"1 invalid {unit}" if len(errors) == 1 else f"{len(errors)} invalid {unit}s"
        raise DataError(
            "\n  ".join([f"{path}: {count}; nothing was read; correct the file", *shown])
        )
    if not results:
        raise DataError(f"{path}: no rows; write one per line, below the names of the columns")
    return results


def _rows(
    path: Path, suffix: str, required: Sequence[str]
) -> Iterator[tuple[int, Record | DataError]]:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}; check the path and its permissions") from None
    if suffix == ".parquet":
        return _parquet_rows(path, data, required)
    text = _decoded(path, data)
    if suffix == ".jsonl":
        return _json_lines(text)
    return _csv_lines(path, text, _delimiter(text, suffix), required)


def _delimiter(text: str, suffix: str) -> str:
    """The delimiter of the cells; in many countries, spreadsheets write a semicolon in CSV."""
    header = text.lstrip("\r\n").partition("\n")[0]
    if suffix == ".csv" and ";" in header and "," not in header:
        return ";"
    return _DELIMITERS[suffix]


def _decoded(path: Path, data: bytes) -> str:
    """The text of a file, without a byte order mark, which some spreadsheets write.

    Raises:
        DataError: the file has another encoding, or a NUL character.
    """
    wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = data.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}: line {line}: not UTF-8 text; save the file as UTF-8") from None
    if (place := text.find("\0")) >= 0:
        line = text.count("\n", 0, place) + 1
        raise DataError(
            f"{path}: line {line}: a NUL character; the file is damaged, or is not UTF-8 text: "
            "save it as UTF-8"
        )
    return text


def _json_lines(text: str) -> Iterator[tuple[int, Record | DataError]]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line, object_pairs_hook=_object)
            if "\\ud" in line.lower():
                json.dumps(record, ensure_ascii=False).encode()
        except DataError as error:
            yield number, error
            continue
        except UnicodeEncodeError:
            yield number, DataError("half a character (one \\u escape of two); write it in UTF-8")
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


def _check_columns(path: Path, names: Sequence[str], required: Sequence[str], where: str) -> None:
    """Check that no column appears twice and none is missing.

    Raises:
        DataError: `where` says where the names are.
    """
    if repeated := _repeated(filter(None, names)):
        raise DataError(f"{path}: column {', '.join(repeated)} appears twice; keep one")
    missing = [name for name in required if name not in names]
    if missing:
        raise DataError(
            f"{path}: no column {', '.join(missing)}; {where} the columns, and has "
            f"{', '.join(names)}"
        )


def _csv_lines(
    path: Path, text: str, delimiter: str, required: Sequence[str]
) -> Iterator[tuple[int, Record | DataError]]:
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    start = 1
    try:
        for row in rows:
            number, start = start, rows.line_num + 1
            if not row:
                continue
            if header is None:
                header = [name.strip() for name in row]
                _check_columns(path, header, required, "the first line names")
            elif len(row) != len(header):
                yield number, DataError(f"{len(row)} cells, but the header has {len(header)}")
            else:
                yield number, dict(zip(header, row, strict=True))
    except csv.Error as error:
        yield start, DataError(f"not CSV ({error}); is a quotation mark unbalanced?")


def _parquet_rows(
    path: Path, data: bytes, required: Sequence[str]
) -> Iterator[tuple[int, Record | DataError]]:
    import pyarrow
    from pyarrow import parquet  # takes a second to import

    try:
        table = parquet.read_table(pyarrow.BufferReader(data))
    except (pyarrow.ArrowException, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise DataError(f"{path}: not Parquet ({reason}); convert or rename it") from None
    _check_columns(path, table.column_names, required, "the schema names")
    try:
        rows = table.to_pylist()
    except (ValueError, OverflowError) as error:  # such as text that is not UTF-8
        raise DataError(
            f"{path}: a value cannot be read ({error}); write the file again, or without its column"
        ) from None
    yield from enumerate(rows, 1)


def split_files(path: Path) -> dict[str, Path]:
    """The files of a data set: split -> file. A single file is that of `train`.

    A folder has a file for each split, such as `train.csv`, `dev.csv` and `test.csv`; `dev` and
    `test` may be missing.

    Raises:
        DataError: the path is missing, or the folder has no file for train or two for a split.
    """
    if not path.is_dir():
        if not path.exists():
            raise DataError(f"{path}: no such file or folder; paths start at the checkout's root")
        return {"train": path}
    files = {}
    for split in ("train", "dev", "test"):
        found = [path / f"{split}{suffix}" for suffix in SUFFIXES]
        existing = [file for file in found if file.exists()]
        if len(existing) > 1:
            raise DataError(f"{path}: {' and '.join(f.name for f in existing)}; keep one of them")
        if existing:
            files[split] = existing[0]
    if "train" not in files:
        raise DataError(f"{path}: no train.csv, or {', '.join(f'train{s}' for s in SUFFIXES[1:])}")
    return files
