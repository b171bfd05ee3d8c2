"""SuperGLUE's tasks and their few-shot examples: the same bytes from every source.

The Hugging Face hub has the examples as tables with numbered labels, MultiRC's as one row an
answer; they are written as the official files.
"""

import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from pipeline.errors import ChecksumError, ParamsError
from pipeline.sources.archives import extract_checked
from pipeline.sources.base import SET_MIRROR, Source, check_sha256
from pipeline.sources.geonames import GEONAMES
from pipeline.sources.glue import glue_source
from pipeline.sources.http import download_to_cache, probe_hosts
from pipeline.sources.hub import Row, fetch_tables, probe_hub
from pipeline.sources.mirror import copy_from_mirror, probe_mirror, read_digests

# Part -> folder with an archive, or with a folder, of each task.
URLS: dict[str, str] = {
    "superglue": "https://dl.fbaipublicfiles.com/glue/superglue/data/v2",
    "fewglue": (
        "https://raw.githubusercontent.com/THUDM/P-tuning/"
        "f4225d4d8003868b31ed659dfe9732a351ad42d9/FewGLUE_32dev"
    ),
}
REPOSITORY = "aps/super_glue@3de24cf8022e94f4ee4b9d55a6f539891524d646"

# Digests of the files, as in a mirror. Those of the archives are not known.
_DIGESTS = Path(__file__).with_suffix(".sha256")


@dataclass(frozen=True)
class SuperGlueSource:
    """A task's official examples, and those of FewGLUE_32dev, in P-tuning's release; see `Source`.

    Attributes:
        task: its name, spelled as upstream.
        digests: part -> file -> sha256. Files of the part `superglue` are written into the target
            folder, files of `fewglue` into its folder of that name.
        urls: part -> address; the keys of `URLS`.
        from_hub: whether the official examples come from the Hugging Face hub, not the archive.
    """

    task: str
    digests: Mapping[str, Mapping[str, str]]
    urls: Mapping[str, str]
    from_hub: bool = False
    license: str = "its authors', different for each SuperGLUE task; FewGLUE_32dev: MIT, P-tuning"

    @property
    def name(self) -> str:
        """`superglue/rte`, or `superglue-hub/rte`."""
        return f"superglue{'-hub' if self.from_hub else ''}/{self.task.lower()}"

    def fetch(self, target: Path, *, cache: Path, mirror: Path | None) -> None:
        """Write the files of `digests`."""
        few_target = target / "fewglue"
        few_target.mkdir(exist_ok=True)
        if mirror is not None:
            for part, folder in (("superglue", target), ("fewglue", few_target)):
                copy_from_mirror(mirror, f"{part}/{self.task}", self.digests[part], folder)
            return
        for name, digest in self.digests["fewglue"].items():
            url = f"{self.urls['fewglue']}/{self.task}/{name}"
            path = download_to_cache(url, cache / "fewglue", sha256=digest)
            shutil.copyfile(path, few_target / name)
        instead = f"{SET_MIRROR}: " + ", and ".join(
            f"{part}/{self.task}/: {' and '.join(files)}" for part, files in self.digests.items()
        )
        official = self.digests["superglue"]
        if self.from_hub:
            instead = f"Or set data.superglue_from to archive, or {instead}"
            fetch_official(self.task.lower(), target, cache=cache / "hub", instead=instead)
            for name, digest in official.items():
                what = f"{REPOSITORY}: its {self.task} differs from the official one ({name})"
                check_sha256(target / name, digest, what, instead)
            return
        url = self._archive_url()
        archive = download_to_cache(url, cache / "superglue")
        members = {f"{self.task}/{name}": digest for name, digest in official.items()}
        try:
            extract_checked(archive, target, members, "It may be a new version")
        except ChecksumError as error:
            archive.unlink(missing_ok=True)
            raise ChecksumError(
                f"{error}\nIt came from {url} and is deleted. "
                f"Run again, and if it repeats, {instead}"
            ) from error

    def probe(self, *, cache: Path, mirror: Path | None, seconds: float) -> str:  # noqa: ARG002
        """Check the mirror, or ask each host."""
        if mirror is not None:
            return probe_mirror(self, mirror)
        urls = [f"{self.urls['fewglue']}/{self.task}/train.jsonl"]
        if self.from_hub:
            hub = {"the hub": lambda: probe_hub(REPOSITORY, "dataset", seconds)}
            return probe_hosts(urls, seconds, hub)
        return probe_hosts([*urls, self._archive_url()], seconds)

    def _archive_url(self) -> str:
        return f"{self.urls['superglue']}/{self.task}.zip"


def _sources() -> dict[str, SuperGlueSource]:
    """Task -> source, for each task with digests."""
    digests: dict[str, dict[str, dict[str, str]]] = {}
    for path, digest in read_digests(_DIGESTS).items():
        part, task, name = path.split("/")
        digests.setdefault(task, {}).setdefault(part, {})[name] = digest
    return {task.lower(): SuperGlueSource(task, parts, URLS) for task, parts in digests.items()}


# Tasks with official files; any other has only examples made from GeoNames.
SUPERGLUE = _sources()


def superglue_source(task: str, source: str, superglue_from: str) -> Source:
    """The raw data of a task, by `superglue.source` and `data.superglue_from` of params.yaml.

    Raises:
        ParamsError: the task has no official files.
    """
    if source == "geonames":
        return GEONAMES
    if source == "glue":
        return glue_source(task, superglue_from)
    if task not in SUPERGLUE:
        raise ParamsError(
            f"{task} has no official SuperGLUE files; set superglue.source to geonames, or take it "
            f"out of superglue.tasks. With files: {', '.join(SUPERGLUE)}"
        )
    return replace(SUPERGLUE[task], from_hub=superglue_from == "hub")


# The hub's tables

# File of the official archive -> split of the hub.
_SPLITS = {"train.jsonl": "train", "val.jsonl": "validation"}
_Records = Callable[[Iterable[Row]], Iterator[Row]]

_BOOLEAN = {"False": False, "True": True}
# A field of each official record of WiC and MultiRC.
_VERSION = {"version": 1.1}


def fetch_official(task: str, target: Path, *, cache: Path, instead: str) -> None:
    """Write `train.jsonl` and `val.jsonl` of a task as the official archive has them.

    See `fetch_tables` for `cache`, `instead` and the errors.
    """
    tables = {name: f"{task}/{split}-00000-of-00001.parquet" for name, split in _SPLITS.items()}

    def lines(rows: Iterable[Row]) -> list[str]:
        return [json.dumps(record) for record in _RECORDS[task](rows)]

    fetch_tables(REPOSITORY, tables, lines, target, what=task, cache=cache, instead=instead)


def _unchanged(*keys: str, labels: dict[str, Any] | None = None, **more: Any) -> _Records:
    """Reader of rows that have the official fields; labels are mapped to those of the files."""

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
    """One record a passage; the hub repeats passage and question in the row of each answer."""
    for passage, of_passage in groupby(rows, key=lambda row: row["idx"]["paragraph"]):
        passage_rows = list(of_passage)
        questions = []
        for number, of_question in groupby(passage_rows, key=lambda row: row["idx"]["question"]):
            texts, answers = set(), []
            for row in of_question:
                texts.add(row["question"])
                label = int(_BOOLEAN[row["label"]])
                answers.append({"text": row["answer"], "idx": row["idx"]["answer"], "label": label})
            (question,) = texts
            questions.append({"question": question, "answers": answers, "idx": number})
        (text,) = {row["paragraph"] for row in passage_rows}
        yield {"idx": passage, **_VERSION, "passage": {"text": text, "questions": questions}}


# Task -> rows of the hub -> official records, their keys in the official order.
_RECORDS: dict[str, _Records] = {
    "boolq": _unchanged("question", "passage", "idx", "label", labels=_BOOLEAN),
    "cb": _unchanged("premise", "hypothesis", "label", "idx"),
    "copa": _unchanged(
        "premise", "choice1", "choice2", "question", "label", "idx",
        labels={"choice1": 0, "choice2": 1},
    ),
    "multirc": _multirc,
    "rte": _unchanged("premise", "hypothesis", "label", "idx"),
    "wic": _unchanged(
        "word", "sentence1", "sentence2", "idx", "label", "start1", "start2", "end1", "end2",
        labels=_BOOLEAN, **_VERSION,
    ),
    "wsc": _wsc,
}  # fmt: skip
