"""SuperGLUE from the Hugging Face hub, written as the official files: byte for byte the same.

The hub has the examples as tables with numbered labels, MultiRC's as one row an answer.
"""

import json
import tempfile
from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

from pipeline.errors import ChecksumError
from pipeline.files import write_text
from pipeline.sources.hub import fetch_from_hub

REPOSITORY = "aps/super_glue@3de24cf8022e94f4ee4b9d55a6f539891524d646"

Row = dict[str, Any]

# File of the official archive -> split of the hub.
_SPLITS = {"train.jsonl": "train", "val.jsonl": "validation"}
_Records = Callable[[Iterable[Row]], Iterator[Row]]

_BOOLEAN = {"False": False, "True": True}
# The official files say it of each record of WiC and MultiRC.
_VERSION = {"version": 1.1}


def fetch_official(task: str, target: Path, *, cache: Path, instead: str) -> None:
    """Write `train.jsonl` and `val.jsonl` of a task as the official archive has them.

    Args:
        task: as in `params.yaml`.
        target: an existing folder.
        cache: see `fetch_from_hub`.
        instead: see `fetch_from_hub`.

    Raises:
        DownloadError: see `fetch_from_hub`.
        ChecksumError: a file is missing or altered, or no table of this task's examples.
    """
    tables = {name: f"{task}/{split}-00000-of-00001.parquet" for name, split in _SPLITS.items()}
    folder = fetch_from_hub(
        REPOSITORY, list(tables.values()), kind="dataset", cache=cache, instead=instead
    )
    for name, table in tables.items():
        try:
            lines = [json.dumps(record) for record in _RECORDS[task](_read(folder / table))]
        except Exception as error:  # of pyarrow's and datasets' many
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            raise ChecksumError(
                f"{REPOSITORY}: {table} is no table of examples of {task} ({reason}). {instead}"
            ) from error
        write_text(target / name, "".join(f"{line}\n" for line in lines))


def _read(path: Path) -> list[Row]:
    """Return the rows of a table, their labels by name."""
    from datasets import Dataset, disable_progress_bars  # an import of seconds

    if not path.is_file():
        raise FileNotFoundError("the hub has no such file")
    disable_progress_bars()
    with tempfile.TemporaryDirectory() as cache:
        table = Dataset.from_parquet(str(path), cache_dir=cache, keep_in_memory=True)
        label = table.features["label"]
        return [{**row, "label": label.int2str(row["label"])} for row in table]


def _as_they_are(*keys: str, labels: dict[str, Any] | None = None, **more: Any) -> _Records:
    """Return a reading of rows that hold the record's own fields; labels as the files have them."""

    def records(rows: Iterable[Row]) -> Iterator[Row]:
        for row in rows:
            record = {key: row[key] for key in keys}
            if labels is not None:
                record["label"] = labels[row["label"]]
            yield record | more

    return records


def _wsc(rows: Iterable[Row]) -> Iterator[Row]:
    for row in rows:
        keys = ("span2_index", "span1_index", "span1_text", "span2_text")
        target = {key: row[key] for key in keys}
        label = _BOOLEAN[row["label"]]
        yield {"text": row["text"], "target": target, "idx": row["idx"], "label": label}


def _multirc(rows: Iterable[Row]) -> Iterator[Row]:
    for passage, of_passage in groupby(rows, key=lambda row: row["idx"]["paragraph"]):
        own = list(of_passage)
        questions = [
            _question(number, list(of_question))
            for number, of_question in groupby(own, key=lambda row: row["idx"]["question"])
        ]
        text = _same(own, "paragraph")
        yield {"idx": passage, **_VERSION, "passage": {"text": text, "questions": questions}}


def _question(number: int, rows: list[Row]) -> Row:
    answers = [
        {
            "text": row["answer"],
            "idx": row["idx"]["answer"],
            "label": int(_BOOLEAN[row["label"]]),
        }
        for row in rows
    ]
    return {"question": _same(rows, "question"), "answers": answers, "idx": number}


def _same(rows: list[Row], column: str) -> str:
    """Return what rows have in common, as the hub repeats it in each."""
    (value,) = {row[column] for row in rows}
    return str(value)


# Task -> rows of the hub -> official records, their keys in the official order.
_RECORDS: dict[str, _Records] = {
    "boolq": _as_they_are("question", "passage", "idx", "label", labels=_BOOLEAN),
    "cb": _as_they_are("premise", "hypothesis", "label", "idx"),
    "copa": _as_they_are(
        "premise", "choice1", "choice2", "question", "label", "idx",
        labels={"choice1": 0, "choice2": 1},
    ),
    "multirc": _multirc,
    "rte": _as_they_are("premise", "hypothesis", "label", "idx"),
    "wic": _as_they_are(
        "word", "sentence1", "sentence2", "idx", "label", "start1", "start2", "end1", "end2",
        labels=_BOOLEAN, **_VERSION,
    ),
    "wsc": _wsc,
}  # fmt: skip
