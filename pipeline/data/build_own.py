"""The user's file -> splits of a task of the user."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.data.splits import check_not_empty, split_items
from pipeline.data.tables import Record, read_table, split_files
from pipeline.errors import DataError
from pipeline.seeding import make_random

if TYPE_CHECKING:
    from pipeline.config.schema import OwnData
    from pipeline.tasks import Task

_Splits = dict[str, list[Record]]


def build_own(task: Task, data: OwnData, seed: int) -> tuple[_Splits, dict[str, int]]:
    """Read the rows of a task and split them, stratified by label, in whole groups.

    Rows whose text or group is also in dev or test are dropped from train, and those of test from
    dev.

    Returns:
        `test`, `1/train` and `1/dev` -> records with `idx` (the line), `label`, the fields and, if
        there is a column of groups, `group`; and the numbers of dropped rows, such as
        `train/overlap`, and of texts that have several labels, `conflicting_texts`.

    Raises:
        DataError: a file or row is invalid, there are too few rows, or a label has none in train.
    """
    files = split_files(Path(data.file))
    rows = {split: read_records(path, task, data) for split, path in files.items()}
    splits, overlaps = _without_overlaps(_split(rows, task, data, seed), task)
    place = f"tasks.{task.name}.data"
    check_not_empty(f"{place}.splits", "rows", splits)
    labels = Counter(row["label"] for row in splits["train"])
    if missing := [label for label in task.labels if label not in labels]:
        raise DataError(
            f"{place}.labels: no row of train has the label {', '.join(missing)}; add rows, or "
            f"take the label out (train has {', '.join(f'{k}: {n}' for k, n in labels.items())})"
        )
    known: dict[Hashable, set[str]] = {}
    for row in (row for group in rows.values() for row in group):
        known.setdefault(_text(row, task), set()).add(row["label"])
    conflicting = sum(len(labels) > 1 for labels in known.values())
    return (
        {"test": splits["test"], "1/train": splits["train"], "1/dev": splits["dev"]},
        {**overlaps, "conflicting_texts": conflicting},
    )


def read_records(path: Path, task: Task, data: OwnData) -> list[Record]:
    """Read the rows of one file as records of the task.

    Raises:
        DataError: a row is invalid; each of them is named.
    """
    columns = {**data.fields, "label": data.label}
    if data.group is not None:
        columns["group"] = data.group

    def read(row: Record, number: int) -> list[Record]:
        missing = [column for column in columns.values() if row.get(column) is None]
        if missing:
            raise DataError(f"no {' and no '.join(missing)}")
        values = {name: as_text(row[column], column) for name, column in columns.items()}
        blank = [c for n, c in columns.items() if not values[n].strip()]
        if blank:
            raise DataError(f"{' and '.join(blank)} {'is' if len(blank) == 1 else 'are'} empty")
        record = {"idx": number, **values, "label": values["label"].strip()}
        for _ in task.examples(record):
            pass  # checks the record
        return [record]

    return read_table(path, list(columns.values()), read)


def as_text(value: Any, column: str) -> str:
    """A cell as text: true and false as in JSON, whole numbers without a point.

    Raises:
        DataError: it is a list or an object.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, int | float):
        return str(value)
    raise DataError(f"{column} is a nested value or of type {type(value).__name__}, not text")


def _split(rows: _Splits, task: Task, data: OwnData, seed: int) -> _Splits:
    """Draw the splits that have no file from the rows of train, and limit the others."""
    place = f"tasks.{task.name}.data.splits"
    wanted = data.splits.model_dump()
    drawn = [split for split in ("dev", "test") if split not in rows]
    pool = rows["train"]
    sizes = {}
    for split in drawn:
        if wanted[split] is None:
            raise DataError(
                f"{place}.{split}: null, but there is no file for {split}; write a number of rows, "
                "or a share such as 0.2"
            )
        sizes[split] = _count(wanted[split], len(pool))
    rest = len(pool) - sum(sizes.values())
    if rest < 1:
        needed = ", ".join(f"{split} {size}" for split, size in sizes.items())
        raise DataError(
            f"{place}: {len(pool)} rows are too few for {needed} and train; lower them or add rows"
        )
    sizes = {"train": min(_count(wanted["train"], len(pool)), rest), **sizes}
    parts = {"train": (pool, sizes)}
    parts |= {
        name: (own, {name: _count(wanted[name], len(own))})
        for name, own in rows.items()
        if name != "train"
    }
    splits: _Splits = {}
    for name, (items, counts) in parts.items():
        splits |= split_items(
            items,
            sizes=counts,
            group=task.group,
            rng=make_random(seed, "splits", "tasks", task.name, name),
            stratum=lambda record: record["label"],
        )
    return splits


def _count(size: float | None, total: int) -> int:
    """A number of rows as written, or a share or all of a total, at least one."""
    if size is None:
        return total
    return min(size, total) if isinstance(size, int) else max(1, round(size * total))


def _text(record: Record, task: Task) -> Hashable:
    return tuple(record[field] for field in task.fields)


def _without_overlaps(splits: _Splits, task: Task) -> tuple[_Splits, dict[str, int]]:
    seen: set[Hashable] = set()
    kept, counts = {}, {}
    for name in ("test", "dev", "train"):
        keys = [{_text(record, task), task.group(record)} for record in splits[name]]
        pairs = zip(splits[name], keys, strict=True)
        kept[name] = [record for record, own in pairs if not own & seen]
        seen = seen.union(*keys)
        counts[f"{name}/overlap"] = len(splits[name]) - len(kept[name])
    del counts["test/overlap"]
    return {name: kept[name] for name in ("train", "dev", "test")}, counts
