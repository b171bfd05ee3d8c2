"""SuperGLUE's official JSONL schema, one file a split: `train.jsonl`, `val.jsonl`, ...

The pipeline's own splits are called `train`, `dev` and `test` in every benchmark.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.errors import DataError
from pipeline.files import read_jsonl

Record = dict[str, Any]


def read_splits(
    folder: Path, names: Sequence[str], *, fields: Sequence[str], labels: Sequence[str]
) -> dict[str, list[Record]]:
    """Read `<name>.jsonl` of each named split (see `read_examples`)."""
    return {
        name: read_examples(folder / f"{name}.jsonl", fields=fields, labels=labels)
        for name in names
    }


def read_examples(path: Path, *, fields: Sequence[str], labels: Sequence[str]) -> list[Record]:
    """Read the examples of one split and check them.

    Args:
        path: the file.
        fields: keys that must hold text.
        labels: what `label` may be.

    Returns:
        Objects in the official schema.

    Raises:
        DataError: the file is missing or empty, a line is cut, a field is missing or no text, or
            a label is unknown.
    """
    records = read_jsonl(path, [*fields, "label"])
    if not records:
        raise DataError(f"{path}: no examples; delete the file and run `dvc repro`")
    for number, record in enumerate(records, 1):
        for field in fields:
            if not isinstance(record[field], str):
                raise DataError(f"{path}: example {number}: {field} is {record[field]!r}, not text")
        if record["label"] not in labels:
            choices = ", ".join(labels)
            raise DataError(
                f"{path}: example {number}: label {record['label']!r} is not one of {choices}"
            )
    return records
