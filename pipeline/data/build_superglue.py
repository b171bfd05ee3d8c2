"""Raw folder -> splits of a SuperGLUE task, for each source and protocol."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.data.geonames.places import read_places
from pipeline.data.splits import (
    check_not_empty,
    holdout_split,
    multi_split,
    split_items,
    subsample,
)
from pipeline.data.superglue import Record, read_records
from pipeline.errors import DataError
from pipeline.seeding import make_random

if TYPE_CHECKING:
    from pipeline.config.schema import SuperGlueParams
    from pipeline.tasks import Task


def build_superglue(
    raw: Path, task: Task, params: SuperGlueParams, seed: int
) -> dict[str, list[Record]]:
    """Build the splits of a task from the raw folder of `params.source`.

    Returns:
        `test`, and `1/train`, `1/dev`, `2/train`, ... -> records in the official schema. The
        protocol `multi-split` has several pairs of train and dev, the others one.

    Raises:
        DataError: a file is damaged, a split would be empty, or the task has no generated records.
    """
    read = _from_geonames if params.source == "geonames" else _from_superglue
    records = read(raw, task, params, seed)
    splits = {"test": records["test"]}
    for number, pair in enumerate(_pairs(records, task, params, seed), 1):
        splits |= {f"{number}/{name}": pair[name] for name in ("train", "dev")}
    check_not_empty(f"superglue.splits: {task.name}", "examples", splits)
    return splits


def _from_geonames(
    raw: Path, task: Task, params: SuperGlueParams, seed: int
) -> dict[str, list[Record]]:
    """Split the records that are generated from GeoNames."""
    if task.from_geonames is None:
        raise DataError(
            f"{task.name} has no examples generated from GeoNames; set superglue.source to "
            "superglue, or remove the task from superglue.tasks"
        )
    records = list(task.from_geonames(read_places(raw), make_random(seed, "examples", task.name)))
    return split_items(
        records,
        sizes=_sizes(params),
        group=task.group,
        rng=make_random(seed, "splits", "superglue", task.name),
    )


def _from_superglue(
    raw: Path, task: Task, params: SuperGlueParams, seed: int
) -> dict[str, list[Record]]:
    """Use SuperGLUE's records as the protocol does; see `superglue.protocol`."""

    def read(name: str) -> list[Record]:
        return [record for record, _ in read_records(raw / f"{name}.jsonl", task.examples)]

    if params.protocol in ("few-shot-32", "multi-split"):
        splits = {"train": read("fewglue/train"), "dev": read("fewglue/dev32")}
    elif params.protocol == "full-paper":
        splits = {"train": read("train"), "dev": read("val")}
    else:
        splits = holdout_split(
            read("train"),
            fraction=params.splits.held_out,
            group=task.group,
            rng=make_random(seed, "held out", task.name),
        )
    splits["test"] = read("val")
    return {
        split: subsample(splits[split], size, make_random(seed, "splits", task.name, split))
        for split, size in _sizes(params).items()
    }


def _pairs(
    records: dict[str, list[Record]], task: Task, params: SuperGlueParams, seed: int
) -> list[dict[str, list[Record]]]:
    """The train and dev sets of the protocol."""
    if params.protocol != "multi-split":
        return [records]
    return multi_split(
        [*records["train"], *records["dev"]],
        train_fraction=params.splits.train_share,
        group=task.group,
        rngs=[
            make_random(seed, "multi-split", task.name, str(number))
            for number in range(1, params.splits.count + 1)
        ],
    )


def _sizes(params: SuperGlueParams) -> dict[str, int | None]:
    sizes = params.splits
    return {"train": sizes.train_examples, "dev": sizes.dev_examples, "test": sizes.test_examples}
