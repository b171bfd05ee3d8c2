"""Files of a user: each malformed one gets one clear message, or works."""

import json
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from pipeline.config.schema import OwnData
from pipeline.data.build_own import build_own
from pipeline.errors import DataError
from pipeline.tasks.own import Definition

LABELS = ["bad", "good"]


def make_data(file: Path, **more: Any) -> OwnData:
    values = {
        "file": str(file),
        "fields": {"text": "Text"},
        "label": "Label",
        "labels": LABELS,
        "choices": None,
        "group": None,
        "splits": {"train": None, "dev": 0.2, "test": 0.2},
    }
    return OwnData.model_validate({**values, **more})


def build(data: OwnData, seed: int = 1) -> tuple[dict[str, list[dict[str, Any]]], dict[str, int]]:
    task = Definition("own", list(data.fields), data.labels, ["accuracy"], None, data.choices).task
    return build_own(task, data, seed)


def rows_of(count: int, *, start: int = 0) -> list[dict[str, str]]:
    return [{"Text": f"text {n}", "Label": LABELS[n % 2]} for n in range(start, start + count)]


def as_csv(rows: list[dict[str, str]], delimiter: str = ",") -> str:
    lines = [list(rows[0]), *(list(row.values()) for row in rows)]
    return "".join(f"{delimiter.join(line)}\n" for line in lines)


GOOD = as_csv(rows_of(20))


def test_a_file_is_split_by_shares_with_every_label_in_each(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    rows = [{"Text": f"text {n}", "Label": LABELS[n % 10 == 0]} for n in range(200)]
    path.write_text(as_csv(rows))
    splits, counts = build(make_data(path))
    assert {name: len(of) for name, of in splits.items()} == {
        "1/train": 120,
        "1/dev": 40,
        "test": 40,
    }
    for name, share in (("1/train", 12), ("1/dev", 4), ("test", 4)):
        labels = Counter(record["label"] for record in splits[name])
        assert abs(labels["good"] - share) <= 1, name
    assert counts == {"train/overlap": 0, "dev/overlap": 0, "conflicting_texts": 0}
    texts = [record["text"] for of in splits.values() for record in of]
    assert len(texts) == len(set(texts)) == 200
    again, other = build(make_data(path))[0], build(make_data(path), seed=2)[0]
    assert again == splits
    assert other != splits
    # A record is found again by its line.
    for record in splits["test"]:
        assert path.read_text().splitlines()[record["idx"] - 1].startswith(record["text"])


def test_counts_are_counts_and_groups_stay_together(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    rng = random.Random(0)
    rows = [{**row, "Group": f"g{n // 3}"} for n, row in enumerate(rows_of(90))]
    rng.shuffle(rows)
    path.write_text(as_csv(rows))
    sizes = {"train": 30, "dev": 12, "test": 15}
    splits, _ = build(make_data(path, group="Group", splits=sizes))
    assert {name: len(of) for name, of in splits.items()} == {
        "1/train": 30,
        "1/dev": 12,
        "test": 15,
    }
    groups = [{record["group"] for record in of} for of in splits.values()]
    assert sum(map(len, groups)) == len(set().union(*groups))


def test_equal_texts_stay_together_whatever_their_labels(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    rows = [{"Text": f"text {n % 12}", "Label": LABELS[n < 20]} for n in range(60)]
    path.write_text(as_csv(rows))
    splits, counts = build(make_data(path))
    texts = [{record["text"] for record in of} for of in splits.values()]
    # Each text has five rows, and a split falls short by less than that.
    assert sum(map(len, texts)) == len(set().union(*texts)) >= 10
    assert counts["conflicting_texts"] == 12


def test_files_of_splits_are_used_and_their_overlaps_dropped(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text(as_csv(rows_of(30)))
    (tmp_path / "test.jsonl").write_text(
        "".join(f"{json.dumps(row)}\n" for row in rows_of(10, start=25))
    )
    sizes = {"train": None, "dev": 6, "test": None}
    splits, counts = build(make_data(tmp_path, splits=sizes))
    assert len(splits["test"]) == 10
    overlaps = counts["train/overlap"] + counts["dev/overlap"]
    assert overlaps == 5
    assert len(splits["1/train"]) + len(splits["1/dev"]) == 30 - overlaps


def test_choices_are_the_answers_of_the_two_labels(tmp_path: Path) -> None:
    path = tmp_path / "rows.tsv"
    rows = [{"P": f"p {n}", "A": f"a {n}", "B": f"b {n}", "L": str(n % 2)} for n in range(20)]
    path.write_text(as_csv(rows, "\t"))
    fields = {"premise": "P", "one": "A", "two": "B"}
    data = make_data(path, fields=fields, label="L", labels=["0", "1"], choices=["one", "two"])
    task = Definition("own", list(fields), ["0", "1"], ["accuracy"], None, data.choices).task
    (record, *_) = build(data)[0]["test"]
    (example,) = task.examples(record)
    assert example.choices == (record["one"], record["two"])
    assert task.has_choices
    assert "{one" not in task.patterns["manual"]


def as_parquet(columns: dict[str, Any]) -> bytes:
    sink = pyarrow.BufferOutputStream()
    parquet.write_table(pyarrow.table(columns), sink)
    return bytes(sink.getvalue())


JSON_ROWS = "".join(f"{json.dumps(row)}\n" for row in rows_of(20))

WORKS: dict[str, tuple[str, bytes]] = {
    "byte order mark": ("rows.csv", b"\xef\xbb\xbf" + GOOD.encode()),
    "UTF-16 with its mark": ("rows.csv", GOOD.encode("utf-16")),
    "line ends of Windows": ("rows.csv", GOOD.replace("\n", "\r\n").encode()),
    "capital suffix": ("rows.CSV", GOOD.encode()),
    "empty lines": ("rows.csv", GOOD.replace("\n", "\n\n").encode()),
    "quotes, commas and line breaks": ("rows.csv", f'{GOOD}"a, ""b""\nc",good\n'.encode()),
    "more columns than named": (
        "rows.csv",
        as_csv([{**r, "Note": ""} for r in rows_of(20)]).encode(),
    ),
    "tabs": ("rows.tsv", as_csv(rows_of(20), "\t").encode()),
    "semicolons": ("rows.csv", (as_csv(rows_of(20), ";") + '"a; b, c";good\n').encode()),
    "JSON Lines": ("rows.jsonl", JSON_ROWS.encode()),
    "numbers and truth values": (
        "rows.jsonl",
        JSON_ROWS.encode() + b'{"Text": 7, "Label": "good"}\n{"Text": true, "Label": "bad"}\n',
    ),
    "Parquet": ("rows.parquet", as_parquet({"Text": [*"abcdefghij"], "Label": LABELS * 5})),
    "spaces around labels": ("rows.csv", GOOD.replace("good", " good ").encode()),
    "duplicated rows": ("rows.csv", (GOOD + GOOD.partition("\n")[2]).encode()),
    "duplicated rows of different labels": ("rows.csv", (GOOD + "text 0,good\n").encode()),
    "words of any script": ("rows.csv", f"{GOOD}日本語 مرحبا 👍,good\n".encode()),
    "a cell of 99 kB": ("rows.csv", f"{GOOD}{'x' * 99_000},good\n".encode()),
}


@pytest.mark.parametrize("name", WORKS)
def test_what_can_be_read_is_read(tmp_path: Path, name: str) -> None:
    file, content = WORKS[name]
    (tmp_path / file).write_bytes(content)
    splits, _ = build(make_data(tmp_path / file))
    assert {record["label"] for record in splits["1/train"]} == set(LABELS)


REFUSED: dict[str, tuple[str, bytes, str]] = {
    "UTF-16 without a mark": ("rows.csv", GOOD.encode("utf-16-le"), "line 1: a NUL character"),
    "Latin-1": ("rows.csv", f"{GOOD}é,good\n".encode("latin-1"), "line 22: not UTF-8 text; save"),
    "NUL": ("rows.csv", f"{GOOD}a\0b,good\n".encode(), "line 22: a NUL character; the file is dam"),
    "empty file": ("rows.csv", b"", "no rows; write one per line"),
    "header only": ("rows.csv", b"Text,Label\n", "no rows; write one per line"),
    "too many cells": (
        "rows.csv",
        f"{GOOD}a,b,good\n".encode(),
        "line 22: 3 cells, but the header has 2",
    ),
    "too few cells": ("rows.csv", f"{GOOD}a\n".encode(), "line 22: 1 cells, but the header has 2"),
    "missing label": ("rows.csv", f"{GOOD}a,\n".encode(), "line 22: Label is empty"),
    "empty text": ("rows.csv", f"{GOOD} ,good\n".encode(), "line 22: Text is empty"),
    "no label in JSON": ("rows.jsonl", b'{"Text": "a"}\n', "line 1: no Label"),
    "null in JSON": ("rows.jsonl", b'{"Text": null, "Label": "bad"}', "line 1: no Text"),
    "one label only": (
        "rows.csv",
        GOOD.replace("good", "bad").encode(),
        "tasks.own.data.labels: no row of train has the label good",
    ),
    "unknown label": (
        "rows.csv",
        f"{GOOD}a,fine\n".encode(),
        "line 22: label 'fine' is not one of 'bad', 'good'",
    ),
    "column twice": (
        "rows.csv",
        b"Text,Text,Label\na,b,bad\n",
        "column Text appears twice; keep one",
    ),
    "key twice": ("rows.jsonl", b'{"Text": "a", "Text": "b"}', "line 1: key Text appears twice"),
    "missing column": (
        "rows.csv",
        b"Texts,Label\na,bad\n",
        "no column Text; the first line names the columns, and has Texts, La",
    ),
    "wrong delimiter": (
        "rows.csv",
        b"Text|Label\na|bad\n",
        "no column Text, Label; the first line names the columns, and has Te",
    ),
    "no header": ("rows.csv", b"a,bad\n", "no column Text, Label; the first line names"),
    "a cell of 200 kB": (
        "rows.csv",
        f"{GOOD}{'x' * 200_000},good\n".encode(),
        "line 22: not CSV (field larger than field limit (131072))",
    ),
    "a value of 200 kB": (
        "rows.jsonl",
        json.dumps({"Text": "x" * 200_000, "Label": "bad"}).encode(),
        "line 1: text has 200,000 characters, more than 100,000",
    ),
    "unbalanced quotes": (
        "rows.csv",
        f'{GOOD}"a,good\n'.encode(),
        "not CSV (unexpected end of data); is a quotation mark unbalanced?",
    ),
    "text after a quote": ("rows.csv", f'{GOOD}"a" b,good\n'.encode(), "line 22: not CSV ("),
    "half a character": (
        "rows.jsonl",
        b'{"Text": "\\ud83d\\ude00", "Label": "bad"}\n{"Text": "a \\uD83d", "Label": "bad"}\n',
        "line 2: half a character (one \\u escape of two); write it in UTF-8",
    ),
    "Parquet with other bytes than UTF-8": (
        "rows.parquet",
        as_parquet({"Text": pyarrow.array([b"\xff"]).view(pyarrow.string()), "Label": ["bad"]}),
        "a value cannot be read ('utf-8' codec can't decode byte 0xff",
    ),
    "not JSON": ("rows.jsonl", b"{'Text': 'a'}\n", "line 1: not JSON ("),
    "JSON as a whole": (
        "rows.jsonl",
        b'[{"Text": "a", "Label": "bad"}]',
        "line 1: a JSON list, not an object",
    ),
    "nested value": (
        "rows.jsonl",
        b'{"Text": {"a": 1}, "Label": "bad"}',
        "line 1: Text is a nested value",
    ),
    "too few rows": (
        "rows.csv",
        as_csv(rows_of(2)).encode(),
        "2 rows are too few for dev 1, test 1 and train",
    ),
    "other format": ("rows.xlsx", b"PK", "not a .csv, .tsv, .jsonl or .parquet file; convert or"),
    "not Parquet": ("rows.parquet", b"PAR1 and more", "not Parquet ("),
    "Parquet without the column": (
        "rows.parquet",
        as_parquet({"Label": LABELS}),
        "no column Text; the schema names the columns",
    ),
    "null in Parquet": (
        "rows.parquet",
        as_parquet({"Text": ["a", None], "Label": LABELS}),
        "row 2: no Text",
    ),
    "list in Parquet": (
        "rows.parquet",
        as_parquet({"Text": [["a"], ["b"]], "Label": LABELS}),
        "row 1: Text is a nested value or of type list",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_is_named(tmp_path: Path, name: str) -> None:
    file, content, said = REFUSED[name]
    (tmp_path / file).write_bytes(content)
    with pytest.raises(DataError) as error:
        build(make_data(tmp_path / file))
    assert said in str(error.value)
    assert "own" in str(error.value) or str(tmp_path / file) in str(error.value)


def a_folder_without_train(folder: Path) -> None:
    (folder / "test.csv").write_text(GOOD)


def two_files_for_one_split(folder: Path) -> None:
    for name in ("train.csv", "train.tsv"):
        (folder / name).write_text(GOOD)


def a_folder_named_as_a_file(folder: Path) -> None:
    (folder / "train.csv").mkdir()


def the_same_rows_in_all_splits(folder: Path) -> None:
    for name in ("train", "dev", "test"):
        (folder / f"{name}.csv").write_text(GOOD)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda _: None, "no train.csv, or train.tsv, train.jsonl, train.parquet"),
        (a_folder_without_train, "no train.csv, or"),
        (two_files_for_one_split, "train.csv and train.tsv; keep one of them"),
        (a_folder_named_as_a_file, "Is a directory; check the path"),
        (the_same_rows_in_all_splits, "tasks.own.data.splits: no rows in train, dev"),
    ],
)
def test_a_folder_that_is_no_data_set_is_named(
    tmp_path: Path, make: Callable[[Path], None], said: str
) -> None:
    make(tmp_path)
    with pytest.raises(DataError) as error:
        build(make_data(tmp_path, splits={"train": None, "dev": None, "test": None}))
    assert said in str(error.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"rows\.csv: no such file or folder"):
        build(make_data(tmp_path / "rows.csv"))


def test_a_split_without_file_needs_a_size(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text(GOOD)
    with pytest.raises(DataError, match=r"splits\.dev: null, but there is no file for dev; write"):
        build(make_data(tmp_path / "rows.csv", splits={"train": None, "dev": None, "test": 2}))
