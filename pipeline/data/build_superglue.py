"""Raw folder -> splits of a task of SuperGLUE or GLUE, for each source and protocol."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.data.geonames.places import read_places
from pipeline.data.glue import GLUE, read_glue
from pipeline.data.splits import (
    check_not_empty,
    few_shot_splits,
    holdout_split,
    multi_split,
    split_items,
    subsample,
)
from pipeline.data.superglue import Record, check_records, read_records
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
        protocol `multi-split` has several pairs of train and dev, and `lm-bff` one for each seed,
        which names it: `13/train`. The others have one.

    Raises:
        DataError: a file is damaged, a split would be empty, or the task has no generated records.
    """
    if params.source == "geonames":
        records = _from_geonames(raw, task, params, seed)
    else:
        read = _read_glue if params.source == "glue" else _read_superglue
        records = _official(partial(read, raw, task), task, params, seed)
    splits = {"test": records["test"]}
    for number, pair in _pairs(records, task, params, seed).items():
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


def _read_superglue(raw: Path, task: Task, name: str) -> list[Record]:
    return [record for record, _ in read_records(raw / f"{name}.jsonl", task.examples)]


def _read_glue(raw: Path, task: Task, name: str) -> list[Record]:
    """Read `train` or, under SuperGLUE's name for it, the dev set."""
    layout = GLUE[task.name]
    path = raw / ("train.tsv" if name == "train" else layout.dev)
    first_line = 1 if layout.header else 2
    checked = check_records(path, read_glue(path, layout), task.examples, first_line)
    return [record for record, _ in checked]


def _official(
    read: Callable[[str], list[Record]], task: Task, params: SuperGlueParams, seed: int
) -> dict[str, list[Record]]:
    """Use the official records as the protocol does; see `superglue.protocol`."""
    if params.protocol in ("few-shot-32", "multi-split"):
        splits = {"train": read("fewglue/train"), "dev": read("fewglue/dev32")}
    elif params.protocol == "full-paper":
        splits = {"train": read("train"), "dev": read("val")}
    elif params.protocol == "lm-bff":
        splits = {"train": read("train"), "dev": []}
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
) -> dict[int, dict[str, list[Record]]]:
    """The train and dev sets of the protocol, by the number of the split."""
    if params.protocol == "lm-bff" and params.source == "glue":
        return few_shot_splits(
            records["train"],
            label=lambda record: record["label"],
            per_class=params.splits.per_class,
            seeds=params.splits.seeds,
            in_place=GLUE[task.name].header is not None,
        )
    if params.protocol != "multi-split":
        return {1: records}
    pairs = multi_split(
        [*records["train"], *records["dev"]],
        train_fraction=params.splits.train_share,
        group=task.group,
        rngs=[
            make_random(seed, "multi-split", task.name, str(number))
            for number in range(1, params.splits.count + 1)
        ],
    )
    return dict(enumerate(pairs, 1))


def _sizes(params: SuperGlueParams) -> dict[str, int | None]:
    sizes = params.splits
    return {"train": sizes.train_examples, "dev": sizes.dev_examples, "test": sizes.test_examples}
