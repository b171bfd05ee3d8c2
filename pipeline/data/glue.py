"""GLUE's official files: tab-separated, with different columns for each task.

Quotes are literal, a byte-order mark may precede the header, and lines may end with CRLF. CoLA's
files have no header, and MNLI's dev files have more columns than its train file.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import DataError

Record = dict[str, Any]


@dataclass(frozen=True)
class GlueFiles:
    """The official train and dev files of a task.

    Attributes:
        folder: name of the task upstream, and of its folder in an archive or a mirror.
        columns: field of the records, `label` among them -> column.
        rows: numbers of examples of train and dev.
        dev: name of the dev file.
        header: the columns of a file without a header; None if the files have one.
    """

    folder: str
    columns: Mapping[str, str]
    rows: tuple[int, int]
    dev: str = "dev.tsv"
    header: tuple[str, ...] | None = None

    @property
    def files(self) -> dict[str, int]:
        """Name of a file -> its number of examples, train first."""
        return dict(zip(("train.tsv", self.dev), self.rows, strict=True))


# Numbers of examples: GLUE (arXiv 1804.07461), Table 1, exact as in the files. MNLI's dev set is
# the matched one, as in LM-BFF.
GLUE: dict[str, GlueFiles] = {
    "cola": GlueFiles(
        "CoLA", {"sentence": "sentence", "label": "label"}, (8551, 1043),
        header=("source", "label", "mark", "sentence"),
    ),
    "glue_rte": GlueFiles(
        "RTE", {name: name for name in ("sentence1", "sentence2", "label")}, (2490, 277)
    ),
    "mnli": GlueFiles(
        "MNLI", {"premise": "sentence1", "hypothesis": "sentence2", "label": "gold_label"},
        (392702, 9815), dev="dev_matched.tsv",
    ),
    "mrpc": GlueFiles(
        "MRPC", {"sentence1": "#1 String", "sentence2": "#2 String", "label": "Quality"},
        (3668, 408),
    ),
    "qnli": GlueFiles(
        "QNLI", {name: name for name in ("question", "sentence", "label")}, (104743, 5463)
    ),
    "sst2": GlueFiles("SST-2", {"sentence": "sentence", "label": "label"}, (67349, 872)),
}  # fmt: skip


def read_glue(path: Path, layout: GlueFiles) -> list[Record]:
    """Read the rows of an official file as records: `idx` from 0, the fields, and `label` as text.

    Raises:
        DataError: the file is missing, is not UTF-8, lacks a column, or a row is damaged; the
            message names the line.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file; run `dvc repro` to fetch it") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text ({error}); fetch the file again") from error
    # Not splitlines, which also ends lines at characters that occur within sentences.
    rows = [line.removesuffix("\r").split("\t") for line in text.removesuffix("\n").split("\n")]
    header = list(layout.header or rows[0])
    missing = [column for column in layout.columns.values() if column not in header]
    if missing:
        raise DataError(
            f"{path}: no column {missing[0]!r}, but {', '.join(header)}; it has to be an official "
            "train or dev file of GLUE (test files have no labels)"
        )
    first = 0 if layout.header else 1
    places = {name: header.index(column) for name, column in layout.columns.items()}
    records = []
    for number, row in enumerate(rows[first:]):
        if len(row) != len(header):
            raise DataError(
                f"{path}:{number + first + 1}: {len(row)} columns instead of {len(header)}; fetch "
                "the file again"
            )
        records.append({"idx": number, **{name: row[place] for name, place in places.items()}})
    return records
