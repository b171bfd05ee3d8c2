"""SuperGLUE as the Hugging Face hub has it, on a server of this machine: the official bytes."""

import contextlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import pytest
from datasets import ClassLabel, Dataset, Features, Value

from pipeline.errors import ChecksumError, DownloadError
from pipeline.sources import hub
from pipeline.sources.superglue import REPOSITORY, SUPERGLUE, fetch_official
from pipeline.tasks import get_task
from tests.hub import Hub, asking_here
from tests.server import Server

REAL_MIRROR = Path(__file__).parents[4] / "shared" / "mirror"
NAME, COMMIT = REPOSITORY.split("@")
Row = dict[str, Any]

_TEXT, _NUMBER = Value("string"), Value("int32")
_BOOLEAN = ClassLabel(names=["False", "True"])
# The columns of each of the hub's tables.
FEATURES = {
    "boolq": {"question": _TEXT, "passage": _TEXT, "idx": _NUMBER, "label": _BOOLEAN},
    "cb": {
        "premise": _TEXT, "hypothesis": _TEXT, "idx": _NUMBER,
        "label": ClassLabel(names=["entailment", "contradiction", "neutral"]),
    },
    "copa": {
        "premise": _TEXT, "choice1": _TEXT, "choice2": _TEXT, "question": _TEXT, "idx": _NUMBER,
        "label": ClassLabel(names=["choice1", "choice2"]),
    },
    "multirc": {
        "paragraph": _TEXT, "question": _TEXT, "answer": _TEXT,
        "idx": {"paragraph": _NUMBER, "question": _NUMBER, "answer": _NUMBER}, "label": _BOOLEAN,
    },
    "rte": {
        "premise": _TEXT, "hypothesis": _TEXT, "idx": _NUMBER,
        "label": ClassLabel(names=["entailment", "not_entailment"]),
    },
    "wic": {
        "word": _TEXT, "sentence1": _TEXT, "sentence2": _TEXT, "start1": _NUMBER,
        "start2": _NUMBER, "end1": _NUMBER, "end2": _NUMBER, "idx": _NUMBER, "label": _BOOLEAN,
    },
    "wsc": {
        "text": _TEXT, "span1_index": _NUMBER, "span2_index": _NUMBER, "span1_text": _TEXT,
        "span2_text": _TEXT, "idx": _NUMBER, "label": _BOOLEAN,
    },
}  # fmt: skip

# Task -> a row or more of the hub, and the official lines that they represent.
WORKED: dict[str, tuple[list[Row], str]] = {
    "boolq": (
        [{"question": "is Zoë it", "passage": "Zoë -- \"a\".", "idx": 3, "label": 1}],
        '{"question": "is Zo\\u00eb it", "passage": "Zo\\u00eb -- \\"a\\".", "idx": 3, '
        '"label": true}\n',
    ),
    "cb": (
        [{"premise": "It rains.", "hypothesis": "it is wet", "idx": 0, "label": 2}],
        '{"premise": "It rains.", "hypothesis": "it is wet", "label": "neutral", "idx": 0}\n',
    ),
    "copa": (
        [{"premise": "p", "choice1": "a", "choice2": "b", "question": "cause", "idx": 1,
          "label": 1}],
        '{"premise": "p", "choice1": "a", "choice2": "b", "question": "cause", "label": 1, '
        '"idx": 1}\n',
    ),
    "multirc": (
        [
            {"paragraph": text, "question": f"q{q}", "answer": f"a{a}",
             "idx": {"paragraph": p, "question": q, "answer": a}, "label": label}
            for p, text, q, a, label in [
                (0, "x", 0, 0, 0), (0, "x", 0, 1, 1), (0, "x", 1, 2, 1), (4, "x", 2, 3, 0),
            ]
        ],
        '{"idx": 0, "version": 1.1, "passage": {"text": "x", "questions": [{"question": "q0", '
        '"answers": [{"text": "a0", "idx": 0, "label": 0}, {"text": "a1", "idx": 1, "label": 1}], '
        '"idx": 0}, {"question": "q1", "answers": [{"text": "a2", "idx": 2, "label": 1}], '
        '"idx": 1}]}}\n'
        '{"idx": 4, "version": 1.1, "passage": {"text": "x", "questions": [{"question": "q2", '
        '"answers": [{"text": "a3", "idx": 3, "label": 0}], "idx": 2}]}}\n',
    ),
    "rte": (
        [{"premise": "p", "hypothesis": "h", "idx": 0, "label": 1},
         {"premise": "p", "hypothesis": "h", "idx": 1, "label": 0}],
        '{"premise": "p", "hypothesis": "h", "label": "not_entailment", "idx": 0}\n'
        '{"premise": "p", "hypothesis": "h", "label": "entailment", "idx": 1}\n',
    ),
    "wic": (
        [{"word": "w", "sentence1": "a w", "sentence2": "w", "start1": 2, "start2": 0, "end1": 3,
          "end2": 1, "idx": 9, "label": 0}],
        '{"word": "w", "sentence1": "a w", "sentence2": "w", "idx": 9, "label": false, '
        '"start1": 2, "start2": 0, "end1": 3, "end2": 1, "version": 1.1}\n',
    ),
    "wsc": (
        [{"text": "Ann saw her cat", "span1_index": 0, "span2_index": 2, "span1_text": "Ann",
          "span2_text": "her", "idx": 0, "label": 1}],
        '{"text": "Ann saw her cat", "target": {"span2_index": 2, "span1_index": 0, '
        '"span1_text": "Ann", "span2_text": "her"}, "idx": 0, "label": true}\n',
    ),
}  # fmt: skip


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with asking_here(monkeypatch, hub) as server:
        yield server


@pytest.fixture
def target(tmp_path: Path) -> Path:
    (tmp_path / "target" / "fewglue").mkdir(parents=True)
    return tmp_path / "target"


def _table(task: str, rows: list[Row], folder: Path) -> bytes:
    datasets.disable_progress_bars()
    Dataset.from_list(rows, features=Features(FEATURES[task])).to_parquet(folder / "table")
    return (folder / "table").read_bytes()


def _names(task: str) -> list[str]:
    return [f"{task}/{split}-00000-of-00001.parquet" for split in ("train", "validation")]


def _serve(server: Server, task: str, train: bytes, validation: bytes) -> Hub:
    train_name, validation_name = _names(task)
    files = {
        train_name: train,
        validation_name: validation,
        f"{task}/test-00000-of-00001.parquet": b"not asked for",
        "super_glue.py": b"raise SystemExit('ran code of the hub')",
        "README.md": b"about",
    }
    return Hub(server, NAME, files, kind="dataset", commit=COMMIT)


def _fetch(task: str, target: Path) -> None:
    fetch_official(task, target, cache=target.parent / "cache", instead="Or else.")


@pytest.mark.parametrize("task", SUPERGLUE)
def test_rows_of_the_hub_become_official_lines(server, target, tmp_path, task):
    rows, lines = WORKED[task]
    table = _table(task, rows, tmp_path)
    _serve(server, task, table, _table(task, rows * 2, tmp_path))
    _fetch(task, target)
    assert (target / "train.jsonl").read_text() == lines
    assert (target / "val.jsonl").read_text().startswith(lines)
    examples = [e for line in lines.splitlines() for e in get_task(task).examples(json.loads(line))]
    assert len(examples) == len(rows)


def test_nothing_else_is_fetched_and_what_came_is_kept(server, target, tmp_path):
    table = _table("cb", WORKED["cb"][0], tmp_path)
    _serve(server, "cb", table, table)
    _fetch("cb", target)
    asked = " ".join(server.asked)
    assert not any(name in asked for name in ("test-", "super_glue.py", "README"))
    assert COMMIT in asked
    server.asked.clear()
    _fetch("cb", target)
    assert not any(line.startswith("GET") for line in server.asked)


@pytest.mark.parametrize("how", ["cut", 503])
def test_a_cut_and_a_busy_hub_are_overcome(server, target, tmp_path, how):
    table = _table("cb", WORKED["cb"][0], tmp_path)
    hub = _serve(server, "cb", table, table)
    hub[_names("cb")[0]].plan = ["well", how]
    with contextlib.suppress(DownloadError):  # of 503; then the next run resumes
        _fetch("cb", target)
    _fetch("cb", target)
    assert (target / "train.jsonl").read_text() == WORKED["cb"][1]


def test_an_altered_table_is_noticed_and_not_kept(server, target, tmp_path):
    rows = WORKED["cb"][0]
    hub = _serve(server, "cb", _table("cb", rows, tmp_path), _table("cb", rows * 2, tmp_path))
    hub[_names("cb")[0]].plan = ["altered", ...]
    with pytest.raises(ChecksumError, match="another sha256 than the hub says"):
        _fetch("cb", target)
    hub[_names("cb")[0]].plan = []
    _fetch("cb", target)
    assert (target / "train.jsonl").read_text() == WORKED["cb"][1]


@pytest.mark.parametrize(
    ("status", "code", "said"),
    [
        (404, "RepoNotFound", "no dataset 'aps/super_glue'"),
        (404, "RevisionNotFound", "the dataset has no revision"),
        (403, None, "403"),
        (500, None, "500"),
    ],
)
def test_what_the_hub_refuses_is_reported(server, target, tmp_path, status, code, said):
    table = _table("cb", WORKED["cb"][0], tmp_path)
    _serve(server, "cb", table, table).refuse(status, code, f"tree/{COMMIT}")
    with pytest.raises(DownloadError, match=said):
        _fetch("cb", target)
    assert [path.name for path in target.iterdir()] == ["fewglue"]


def _without(column: str) -> bytes:
    rows = [{k: v for k, v in row.items() if k != column} for row in WORKED["cb"][0]]
    features = Features({k: v for k, v in FEATURES["cb"].items() if k != column})
    file = Path(column)
    Dataset.from_list(rows, features=features).to_parquet(file)
    return file.read_bytes()


@pytest.mark.parametrize("spoilt", ["a page", "another task", "no idx", "no label", "hidden", "no"])
def test_a_table_of_another_kind_is_reported(server, target, tmp_path, monkeypatch, spoilt):
    monkeypatch.chdir(tmp_path)
    good = _table("cb", WORKED["cb"][0], tmp_path)
    table = {
        "a page": lambda: b"<!DOCTYPE html>\n<title>Log in</title>\n",
        "another task": lambda: _table("wic", WORKED["wic"][0], tmp_path),
        "no idx": lambda: _without("idx"),
        "no label": lambda: _without("label"),
        # The labels of SuperGLUE's test files are not public; the hub has -1 there.
        "hidden": lambda: _table("cb", [{**WORKED["cb"][0][0], "label": -1}], tmp_path),
        "no": lambda: b"",
    }[spoilt]()
    _serve(server, "cb", table, good)
    with pytest.raises(ChecksumError) as caught:
        _fetch("cb", target)
    text = str(caught.value)
    assert text.startswith(f"{REPOSITORY}: cb/train-00000-of-00001.parquet is not a table")
    assert text.endswith("Or else.")
    assert len(text) < 400


def test_a_table_that_the_hub_lacks_is_named(server, target, tmp_path):
    table = _table("cb", WORKED["cb"][0], tmp_path)
    Hub(server, NAME, {_names("cb")[0]: table}, kind="dataset", commit=COMMIT)
    with pytest.raises(ChecksumError, match=r"cb/validation-.* \(the hub has no such file\)"):
        _fetch("cb", target)


def test_each_task_of_the_archive_can_come_from_the_hub():
    assert set(SUPERGLUE) == set(WORKED)


# The real data


def _as_the_hub_has_it(task: str, record: Row) -> Iterator[Row]:
    names = FEATURES[task]["label"].names  # type: ignore[attr-defined]
    if task == "multirc":
        for question in record["passage"]["questions"]:
            for answer in question["answers"]:
                yield {
                    "paragraph": record["passage"]["text"],
                    "question": question["question"],
                    "answer": answer["text"],
                    "idx": {
                        "paragraph": record["idx"],
                        "question": question["idx"],
                        "answer": answer["idx"],
                    },
                    "label": answer["label"],
                }
        return
    record = {**record, **record.get("target", {})}
    label = record["label"]
    number = names.index(label) if isinstance(label, str) else int(label)
    yield {key: record[key] for key in FEATURES[task]} | {"label": number}


@pytest.mark.skipif(
    not (REAL_MIRROR / "superglue").is_dir(), reason="no mirror at ../shared/mirror"
)
@pytest.mark.parametrize("altered", [False, True])
@pytest.mark.parametrize("task", SUPERGLUE)
def test_the_real_examples_by_way_of_the_hub_are_the_official_bytes(
    server, target, tmp_path, task, altered
):
    """One other letter in one example is noticed."""
    source = replace(
        SUPERGLUE[task],
        from_hub=True,
        urls={"fewglue": f"{server.url}/few"},
    )
    real = {
        name: (REAL_MIRROR / "superglue" / source.task / name).read_bytes()
        for name in ("train.jsonl", "val.jsonl")
    }
    tables = []
    for content in real.values():
        records = map(json.loads, content.splitlines())
        rows = [row for record in records for row in _as_the_hub_has_it(task, record)]
        if altered:
            field = next(key for key, kind in FEATURES[task].items() if kind == _TEXT)
            rows[-1][field] += "."
        tables.append(_table(task, rows, tmp_path))
    _serve(server, task, *tables)
    for name in ("train.jsonl", "dev32.jsonl"):
        few = (REAL_MIRROR / "fewglue" / source.task / name).read_bytes()
        server.put(f"/few/{source.task}/{name}", few)
    if altered:
        with pytest.raises(ChecksumError, match=r"differs from the official one|is not a table of"):
            source.fetch(target, cache=tmp_path / "cache", mirror=None)
        return
    source.fetch(target, cache=tmp_path / "cache", mirror=None)
    for name, content in real.items():
        assert (target / name).read_bytes() == content
