"""SuperGLUE's official JSONL schema, one file per split: `train.jsonl`, `val.jsonl`, ...

The pipeline's splits are called `train`, `dev` and `test` in every benchmark.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

from pipeline.errors import DataError
from pipeline.files import read_jsonl

Record = dict[str, Any]
Read = TypeVar("Read")


def read_records(
    path: Path, examples: Callable[[Record], Iterable[Read]]
) -> list[tuple[Record, list[Read]]]:
    """Read and check the records of one split: each, unchanged, with its examples.

    `examples` reads those of a record (see `Task.examples`).

    Raises:
        DataError: the file is missing or empty, a line is damaged, or a record does not follow
            the task's schema; the message names the line.
    """
    return check_records(path, read_jsonl(path), examples)


def check_records(
    path: Path,
    records: Iterable[Record],
    examples: Callable[[Record], Iterable[Read]],
    first_line: int = 1,
) -> list[tuple[Record, list[Read]]]:
    """Read the examples of a file's records, one a line from the first; see `read_records`."""
    checked = []
    for number, record in enumerate(records, first_line):
        try:
            checked.append((record, list(examples(record))))
        except DataError as error:
            raise DataError(f"{path}:{number}: {error}; fetch or make the file again") from None
    if not checked:
        raise DataError(f"{path}: no examples; delete the file and run `dvc repro`")
    return checked


def read_examples(path: Path, examples: Callable[[Record], Iterable[Read]]) -> list[Read]:
    """Read the examples of one split (see `read_records`)."""
    return [example for _, parsed in read_records(path, examples) for example in parsed]
