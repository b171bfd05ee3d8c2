"""GLUE's official train and dev files, from its archives, the Hugging Face hub or a mirror.

MRPC's are made from Microsoft's file, as GLUE's download script does. The hub has the examples as
tables; they are written with the columns that are read, in the same order.
"""

import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.data.glue import GLUE, GlueFiles, read_glue
from pipeline.errors import ChecksumError, DataError
from pipeline.files import write_text
from pipeline.sources.archives import extract_members
from pipeline.sources.base import SET_MIRROR
from pipeline.sources.http import download_to_cache, probe_hosts
from pipeline.sources.hub import Row, fetch_tables, probe_hub
from pipeline.sources.mirror import copy_from_mirror, probe_mirror

URL = "https://dl.fbaipublicfiles.com"
REPOSITORY = "nyu-mll/glue@bcdcba79d07bc864c1c254ccfcedcce55bcc9a8c"

# Task -> its files below URL, with the digests that Hugging Face's `datasets` publishes for them
# (`dataset_infos.json` of glue).
_ARCHIVES: dict[str, dict[str, str]] = {
    "cola": {
        "glue/data/CoLA.zip": "f212fcd832b8f7b435fb991f101abf89f96b933ab400603bf198960dfc32cbff"
    },
    "glue_rte": {
        "glue/data/RTE.zip": "6bf86de103ecd335f3441bd43574d23fef87ecc695977a63b82d5efb206556ee"
    },
    "mnli": {
        "glue/data/MNLI.zip": "e7c1d896d26ed6caf700110645df426cc2d8ebf02a5ab743d5a5c68ac1c83633"
    },
    "mrpc": {
        "senteval/senteval_data/msr_paraphrase_train.txt": (
            "60a9b09084528f0673eedee2b69cb941920f0b8cd0eeccefc464a98768457f89"
        ),
        "glue/data/mrpc_dev_ids.tsv": (
            "971d7767d81b997fd9060ade0ec23c4fc31cbb226a55d1bd4a1bac474eb81dc7"
        ),
    },
    "qnli": {
        "glue/data/QNLIv2.zip": "e634e78627a29adaecd4f955359b22bf5e70f2cbd93b493f2d624138a0c0e5f5"
    },
    "sst2": {
        "glue/data/SST-2.zip": "d67e16fb55739c1b32cdce9877596db1c127dc322d93c082281f64057c16deaa"
    },
}

# Task -> numbers of train rows that a mirror may have besides the official one. Copies of MRPC
# with 3,667 rows circulate: one pair is lost, and nothing else differs. The test set is whole.
_KNOWN_LOSSES = {"mrpc": (3667,)}

# Name of a label on the hub -> in the official files, where they differ.
_LABELS = {
    "sst2": {"negative": "0", "positive": "1"},
    "mrpc": {"not_equivalent": "0", "equivalent": "1"},
    "cola": {"unacceptable": "0", "acceptable": "1"},
}


@dataclass(frozen=True)
class GlueSource:
    """The official train and dev files of a task; see `Source`.

    Attributes:
        task: its name here.
        layout: its files.
        archives: address below `url` -> sha256.
        url: the host of the archives.
        from_hub: whether the examples come from the Hugging Face hub, not the archives.
    """

    task: str
    layout: GlueFiles
    archives: dict[str, str]
    url: str = URL
    from_hub: bool = False
    license: str = "its authors', different for each GLUE task"

    @property
    def name(self) -> str:
        """`glue/sst-2`, or `glue-hub/sst-2`."""
        return f"glue{'-hub' if self.from_hub else ''}/{self.layout.folder.lower()}"

    def fetch(self, target: Path, *, cache: Path, mirror: Path | None) -> None:
        """Write `train.tsv` and the dev file, with the official numbers of rows."""
        folder, files = self.layout.folder, self.layout.files
        instead = f"{SET_MIRROR}: glue/{folder}/: {' and '.join(files)}"
        known: tuple[int, ...] = ()
        if mirror is not None:
            copy_from_mirror(mirror, f"glue/{folder}", list(files), target)
            known = _KNOWN_LOSSES.get(self.task, ())
        elif self.from_hub:
            instead = f"Or set data.superglue_from to archive, or {instead}"
            self._fetch_from_hub(target, cache / "hub", instead)
        else:
            paths = [
                download_to_cache(f"{self.url}/{name}", cache / "glue", sha256=digest)
                for name, digest in self.archives.items()
            ]
            if self.task == "mrpc":
                pairs, dev_ids = paths
                _split_msr(pairs, dev_ids, target)
            else:
                _extract(paths[0], target, [f"{folder}/{name}" for name in files])
        origin = REPOSITORY if self.from_hub else self.url
        for name, official in files.items():
            self._check(
                target / name,
                (official, *(known if name == "train.tsv" else ())),
                f"{mirror / 'glue' / folder / name if mirror else f'{origin}: {folder}/{name}'}",
                "Copy the official file into the mirror" if mirror else instead,
            )

    def probe(self, *, cache: Path, mirror: Path | None, seconds: float) -> str:  # noqa: ARG002
        """Check the mirror, or ask each host."""
        if mirror is not None:
            return probe_mirror(self, mirror)
        if self.from_hub:
            hub = {"the hub": lambda: probe_hub(REPOSITORY, "dataset", seconds)}
            return probe_hosts([], seconds, hub)
        return probe_hosts([f"{self.url}/{name}" for name in self.archives], seconds)

    def _fetch_from_hub(self, target: Path, cache: Path, instead: str) -> None:
        config = self.task.removeprefix("glue_")
        splits = ("train", "validation" + self.layout.dev.removeprefix("dev").removesuffix(".tsv"))
        tables = {
            name: f"{config}/{split}-00000-of-00001.parquet"
            for name, split in zip(self.layout.files, splits, strict=True)
        }
        fetch_tables(
            REPOSITORY, tables, self._lines, target, what=config, cache=cache, instead=instead
        )

    def _lines(self, rows: Iterable[Row]) -> list[str]:
        """The lines of an official file, with the columns that are read; others are empty."""
        layout, labels = self.layout, _LABELS.get(self.task, {})
        header = layout.header or tuple(layout.columns.values())
        lines = [] if layout.header else ["\t".join(header)]
        for row in rows:
            values = {column: row[field] for field, column in layout.columns.items()}
            of_label = layout.columns["label"]
            values[of_label] = labels.get(values[of_label], values[of_label])
            if any(set(text) & {"\t", "\n"} for text in values.values()):
                raise ValueError("a tab or line feed within a text")
            lines.append("\t".join(values.get(column, "") for column in header))
        return lines

    def _check(self, path: Path, expected: tuple[int, ...], what: str, advice: str) -> None:
        try:
            count = len(read_glue(path, self.layout))
        except DataError as error:
            raise ChecksumError(f"{what}: {error}\n{advice}") from error
        if count not in expected:
            raise ChecksumError(f"{what}: {count:,} rows, expected {expected[0]:,}.\n{advice}")


def glue_source(task: str, superglue_from: str) -> GlueSource:
    """The source of a task of `GLUE`, by `data.superglue_from` of params.yaml."""
    return replace(_SOURCES[task], from_hub=superglue_from == "hub")


_SOURCES = {task: GlueSource(task, GLUE[task], archives) for task, archives in _ARCHIVES.items()}


def _extract(archive: Path, target: Path, members: list[str]) -> None:
    with tempfile.TemporaryDirectory(dir=target, prefix=".unpacked-") as folder:
        extract_members(archive, Path(folder), members)
        for member in members:
            shutil.move(Path(folder, member), target / Path(member).name)


def _split_msr(pairs: Path, dev_ids: Path, target: Path) -> None:
    """Write MRPC's train and dev files from Microsoft's pairs and GLUE's list of dev pairs.

    Source: nyu-mll/GLUE-baselines, download_glue_data.py, format_mrpc.
    """
    dev = {tuple(line.split("\t")) for line in dev_ids.read_text("utf-8").splitlines()}
    header, *lines = pairs.read_text("utf-8").removesuffix("\n").split("\n")
    chosen: dict[bool, list[str]] = {False: [], True: []}
    for line in lines:
        _, first, second, *_ = columns = line.strip().split("\t")
        chosen[(first, second) in dev].append("\t".join(columns))
    for name, rows in (("train.tsv", chosen[False]), ("dev.tsv", chosen[True])):
        write_text(target / name, "".join(f"{row}\n" for row in (header.rstrip("\r"), *rows)))
