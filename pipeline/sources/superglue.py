"""SuperGLUE's tasks and their few-shot examples: the same bytes from every source.

The Hugging Face hub has the examples as tables with numbered labels, MultiRC's as one row an
answer; they are written as the official files.
"""

import json
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from pipeline.errors import ChecksumError, ParamsError
from pipeline.files import write_text
from pipeline.sources.archives import extract_members
from pipeline.sources.base import SET_MIRROR, Source, check_sha256
from pipeline.sources.geonames import GEONAMES
from pipeline.sources.http import RETRY, RetryPolicy, download_to_cache, probe_hosts, url_probes
from pipeline.sources.hub import fetch_from_hub, probe_hub
from pipeline.sources.mirror import copy_from_mirror, probe_mirror

# Part -> folder with an archive, or with a folder, of each task.
URLS: dict[str, str] = {
    "superglue": "https://dl.fbaipublicfiles.com/glue/superglue/data/v2",
    "fewglue": (
        "https://raw.githubusercontent.com/THUDM/P-tuning/"
        "f4225d4d8003868b31ed659dfe9732a351ad42d9/FewGLUE_32dev"
    ),
}
REPOSITORY = "aps/super_glue@3de24cf8022e94f4ee4b9d55a6f539891524d646"

# sha256 and path, as in the SHA256SUMS of a mirror. The digests of the archives are not known.
_SHA256SUMS = """
5a0cc1d6cb971a7a177b74bde27b8355de4b0f0e4d86d0a8435ec92cfeb63ba6  superglue/BoolQ/train.jsonl
0c86a5045886e5795fe9052003873f7d94b88ed3028a33007c51d99e44fd66d9  superglue/BoolQ/val.jsonl
317245ba0842129234a368274701dfc196139aa627eff44aefc827c6888935e1  fewglue/BoolQ/train.jsonl
0af324b658a72fdd7767aa3c27c1dfafbc03e8e987a148b29e42a72d84b9f9e3  fewglue/BoolQ/dev32.jsonl
32017480d3a10508646e3efd64502c639f13d4d15077f278d2fd0992c33a3126  superglue/CB/train.jsonl
c6125587e9601560cb16ea223c33964c5a915568d2af68a81f651b6ef25395ec  superglue/CB/val.jsonl
e6f446e5f117cbfbcd156d8221d163cc370924fa594a1d67f44a151ce5c171b2  fewglue/CB/train.jsonl
ec7e1bfe37a7ea4514fc2335bfa3b35be77bfe084aae2e7ca55f765aaee41337  fewglue/CB/dev32.jsonl
e74ed25f36119fff954d90900ebbaae277e2cc4864be4b961e7a46c8f67d11a9  superglue/COPA/train.jsonl
fa61467cc251010178ed72f8ca82a0fceefc4ca9a85f87ec3b6102955e1a1f1a  superglue/COPA/val.jsonl
9955ae6e0ee109c96c00c0957d5873c0cb4ea9aced83b6a15b15258bb64b7dd5  fewglue/COPA/train.jsonl
eb43b015d061738467f284c60049ef0afcaf707ec8e528ab3c5c4285a5f5618a  fewglue/COPA/dev32.jsonl
bb73d0838618f8269190a2533fead3140607558975ea0df6511fa534e8d3535c  superglue/MultiRC/train.jsonl
d2b480195b15574ac00d52c4479f630bc161a7ab2de77e970fd00652846953ee  superglue/MultiRC/val.jsonl
e584db1b55f7da7c1e6a2d0a6b56eb6edcaff26e69393d628390e70c39ccb561  fewglue/MultiRC/train.jsonl
3734d2cac8d1e8d13e2f5e13bec727be7576b45453e9fd765e2075e163f9653d  fewglue/MultiRC/dev32.jsonl
fdfb03443abe3ec0424b7fc5d1a8863361719bc061338b7a63e56b94d615f201  superglue/RTE/train.jsonl
ab990507bf5f35dc176cba7770a72bfa2c50a88ed72b8cc95cfbf9db95ab1af1  superglue/RTE/val.jsonl
91a83197e3a286a8bf102e483646f87cd8b1e4c9c5ccd893bc0b9dba0643d580  fewglue/RTE/train.jsonl
a3ba6200d2f27691d927ab97d387292b045316956f877fbfccc9a4658af2b351  fewglue/RTE/dev32.jsonl
ce301970aaf361ade6c1d218fe15c50b185b14a4bcb618c5785a8484a46f9943  superglue/WiC/train.jsonl
9f7207c88beba42cbc139de4c62ce05b23bffc189b3d561594b160e0c3920c0b  superglue/WiC/val.jsonl
b82c0c3f79d2f19bdd3c894f90f9deff0ebff787822a99ff6420db733c2a88f0  fewglue/WiC/train.jsonl
3df4ca565f109be9476caa51884ba13c5f2a33c939898cf80bb53e09fdc73062  fewglue/WiC/dev32.jsonl
0ffaa3fd8d21e58a0805962565d1619aa4819bc3d034255777f606f801ae5a42  superglue/WSC/train.jsonl
e5c685ea4bdc347354036a28176459f6feeb0b6870375ecfb3d6ddb1f0e28bef  superglue/WSC/val.jsonl
e814e1a9a781c1e4b1ad98151f09f2e9326a3db51f9c52639cb0f8b1f428ad47  fewglue/WSC/train.jsonl
2bbaca5c995778e7e14f389f1fe9a4be9a58d99e66db0d73d868ab66564b9da7  fewglue/WSC/dev32.jsonl
"""


@dataclass(frozen=True)
class SuperGlueSource:
    """A task's official examples, and those of FewGLUE_32dev, in P-tuning's release.

    See `Source`.

    Attributes:
        task: its name, spelled as upstream.
        digests: part -> file -> sha256. Files of the part `superglue` are written into the target
            folder, files of `fewglue` into its folder of that name.
        urls: part -> address; the keys of `URLS`.
        from_hub: whether the official examples come from the Hugging Face hub, not the archive.
        retry: number of attempts, and timeouts.
        license: of the content.
    """

    task: str
    digests: Mapping[str, Mapping[str, str]]
    urls: Mapping[str, str]
    from_hub: bool = False
    retry: RetryPolicy = RETRY
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
            self._copy("superglue", mirror, target)
            self._copy("fewglue", mirror, few_target)
            return
        few = {
            name: download_to_cache(
                f"{self.urls['fewglue']}/{self.task}/{name}",
                cache / "fewglue",
                sha256=digest,
                retry=self.retry,
            )
            for name, digest in self.digests["fewglue"].items()
        }
        if self.from_hub:
            self._fetch_from_hub(target, cache)
        else:
            self._fetch_archive(target, cache)
        for name, path in few.items():
            shutil.copyfile(path, few_target / name)

    def probe(self, *, cache: Path, mirror: Path | None, seconds: float) -> str:  # noqa: ARG002
        """Check the mirror, or ask each host."""
        if mirror is not None:
            return probe_mirror(self, mirror)
        urls = [f"{self.urls['fewglue']}/{self.task}/train.jsonl"]
        if not self.from_hub:
            return probe_hosts(url_probes([*urls, self._archive_url()], seconds), seconds)
        probes = {"the hub": lambda: probe_hub(REPOSITORY, "dataset", seconds)}
        return probe_hosts({**url_probes(urls, seconds), **probes}, seconds)

    def _fetch_from_hub(self, target: Path, cache: Path) -> None:
        instead = f"Or set data.superglue_from to archive, or {self._mirror_advice()}"
        fetch_official(self.task.lower(), target, cache=cache / "hub", instead=instead)
        for name, digest in self.digests["superglue"].items():
            what = f"{REPOSITORY}: its {self.task} differs from the official one ({name})"
            check_sha256(target / name, digest, what, instead)

    def _fetch_archive(self, target: Path, cache: Path) -> None:
        url = self._archive_url()
        archive = download_to_cache(url, cache / "superglue", retry=self.retry)
        try:
            self._unpack(archive, target)
        except ChecksumError as error:
            archive.unlink(missing_ok=True)
            raise ChecksumError(
                f"{error}\nIt came from {url} and is deleted. Run again, and if it repeats, "
                f"{self._mirror_advice()}"
            ) from error

    def _archive_url(self) -> str:
        return f"{self.urls['superglue']}/{self.task}.zip"

    def _mirror_advice(self) -> str:
        return (
            f"{SET_MIRROR}: superglue/{self.task}/: {_listed(self.digests['superglue'])}, and "
            f"fewglue/{self.task}/: {_listed(self.digests['fewglue'])}"
        )

    def _copy(self, part: str, mirror: Path, target: Path) -> None:
        folder, digests = f"{part}/{self.task}", self.digests[part]
        copy_from_mirror(mirror, folder, digests, target, layout=_listed(digests))
        for name, digest in digests.items():
            what = f"{mirror / folder / name}: not the file of {part}"
            check_sha256(target / name, digest, what, "Copy it there again")

    def _unpack(self, archive: Path, target: Path) -> None:
        digests = self.digests["superglue"]
        with tempfile.TemporaryDirectory(dir=target, prefix=".unpacked-") as folder:
            extract_members(archive, Path(folder), [f"{self.task}/{name}" for name in digests])
            for name, digest in digests.items():
                unpacked = Path(folder, self.task, name)
                what = f"{archive}: another {self.task}/{name} than expected"
                check_sha256(unpacked, digest, what, "It may be a new version")
                unpacked.replace(target / name)


def _listed(names: Mapping[str, object]) -> str:
    return " and ".join(names)


def _sources() -> dict[str, SuperGlueSource]:
    """Task -> source, for each task of the table."""
    digests: dict[str, dict[str, dict[str, str]]] = {}
    for line in _SHA256SUMS.strip().splitlines():
        digest, path = line.split()
        part, task, name = path.split("/")
        digests.setdefault(task, {}).setdefault(part, {})[name] = digest
    return {task.lower(): SuperGlueSource(task, parts, URLS) for task, parts in digests.items()}


# Tasks with official files; any other has only examples made from GeoNames.
SUPERGLUE = _sources()


def superglue_source(task: str, source: str, superglue_from: str) -> Source:
    """The source of a task's raw data.

    Args:
        task: name of the task.
        source: `superglue.source` of params.yaml: `superglue` or `geonames`.
        superglue_from: `data.superglue_from` of params.yaml: `archive` or `hub`.

    Raises:
        ParamsError: the task has no official files.
    """
    if source == "geonames":
        return GEONAMES
    if task not in SUPERGLUE:
        raise ParamsError(
            f"{task} has no official SuperGLUE files; set superglue.source to geonames, or take it "
            f"out of superglue.tasks. With files: {', '.join(SUPERGLUE)}"
        )
    return replace(SUPERGLUE[task], from_hub=superglue_from == "hub")


# The hub's tables

Row = dict[str, Any]

# File of the official archive -> split of the hub.
_SPLITS = {"train.jsonl": "train", "val.jsonl": "validation"}
_Records = Callable[[Iterable[Row]], Iterator[Row]]

_BOOLEAN = {"False": False, "True": True}
# A field of each official record of WiC and MultiRC.
_VERSION = {"version": 1.1}


def fetch_official(task: str, target: Path, *, cache: Path, instead: str) -> None:
    """Write `train.jsonl` and `val.jsonl` of a task as the official archive has them.

    Args:
        task: name of the task.
        target: an existing folder.
        cache: see `fetch_from_hub`.
        instead: see `fetch_from_hub`.

    Raises:
        DownloadError: see `fetch_from_hub`.
        ChecksumError: a file is missing or altered, or not a table of this task's examples.
    """
    tables = {name: f"{task}/{split}-00000-of-00001.parquet" for name, split in _SPLITS.items()}
    folder = fetch_from_hub(
        REPOSITORY, list(tables.values()), repo_type="dataset", cache=cache, instead=instead
    )
    for name, table in tables.items():
        try:
            lines = [json.dumps(record) for record in _RECORDS[task](_read(folder / table))]
        except Exception as error:  # pyarrow and datasets raise many kinds
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            raise ChecksumError(
                f"{REPOSITORY}: {table} is not a table of examples of {task} ({reason}).\n{instead}"
            ) from error
        write_text(target / name, "".join(f"{line}\n" for line in lines))


def _read(path: Path) -> list[Row]:
    """The rows of a table, with labels by name."""
    from datasets import Dataset, disable_progress_bars  # takes seconds to import

    if not path.is_file():
        raise FileNotFoundError("the hub has no such file")
    disable_progress_bars()
    with tempfile.TemporaryDirectory() as cache:
        table = Dataset.from_parquet(str(path), cache_dir=cache, keep_in_memory=True)
        label = table.features["label"]
        return [{**row, "label": label.int2str(row["label"])} for row in table]


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
    for passage, of_passage in groupby(rows, key=lambda row: row["idx"]["paragraph"]):
        passage_rows = list(of_passage)
        questions = [
            _question(number, list(of_question))
            for number, of_question in groupby(passage_rows, key=lambda row: row["idx"]["question"])
        ]
        text = _same(passage_rows, "paragraph")
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
    """The one value of a column that the hub repeats in each row."""
    (value,) = {row[column] for row in rows}
    return str(value)


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
