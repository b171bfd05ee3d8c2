import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from pipeline.data.superglue import read_examples, read_records
from pipeline.errors import DataError
from pipeline.tasks import get_task

GOOD = {"premise": "Lyon is in France.", "hypothesis": "Lyon is", "label": "entailment", "idx": 4}
RTE = get_task("rte").examples
REAL_MIRROR = Path(__file__).parents[4] / "shared" / "mirror"
needs_the_mirror = pytest.mark.skipif(
    not (REAL_MIRROR / "superglue").is_dir(), reason="no mirror at ../shared/mirror"
)


def _write(path: Path, records: list[Any]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_a_record_is_kept_as_it_is_beside_its_examples(tmp_path: Path) -> None:
    other = {**GOOD, "label": "not_entailment", "idx": 0, "premise": "", "more": [1]}
    path = _write(tmp_path / "train.jsonl", [GOOD, other])
    read = read_records(path, RTE)
    assert [record for record, _ in read] == [GOOD, other]
    assert [example.name for example in read_examples(path, RTE)] == ["4", "0"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"premise": 3}, "premise is 3, not text"),
        ({"hypothesis": None}, "hypothesis is None, not text"),
        ({"label": "neutral"}, "label 'neutral' is not one of 'entailment', 'not_entail"),
        ({"label": 0}, "label 0 is not one of 'entailment', 'not_entailment'"),
        ({"label": ["entailment"]}, "label ['entailment'] is not one of"),
        ({"idx": "4"}, "idx is '4', not an integer"),
        ({"idx": True}, "idx is true, not an integer"),
        ({"premise": "x" * 10_485_760}, "premise has 10,485,760 characters, more than 100,000"),
    ],
)
def test_a_bad_record_is_named_with_its_line(
    tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    path = _write(tmp_path / "train.jsonl", [GOOD, {**GOOD, **change}, GOOD])
    with pytest.raises(DataError) as caught:
        read_examples(path, RTE)
    assert str(caught.value).startswith(f"{path}:2: {said}")
    assert len(str(caught.value)) < len(str(path)) + 200


@pytest.mark.parametrize("lost", ["premise", "hypothesis", "label", "idx"])
def test_a_missing_key_is_named_with_its_line(tmp_path: Path, lost: str) -> None:
    cut = {key: value for key, value in GOOD.items() if key != lost}
    path = _write(tmp_path / "train.jsonl", [GOOD, cut])
    with pytest.raises(DataError, match=f"train.jsonl:2: no {lost}"):
        read_examples(path, RTE)


def test_a_file_without_examples_is_refused(tmp_path: Path) -> None:
    path = _write(tmp_path / "train.jsonl", [])
    with pytest.raises(DataError, match="no examples"):
        read_examples(path, RTE)


# Official numbers: SuperGLUE, Table 1 (MultiRC's questions as the files have them).
OFFICIAL = {
    "boolq": ("BoolQ", 9427, 3270),
    "cb": ("CB", 250, 56),
    "copa": ("COPA", 400, 100),
    "multirc": ("MultiRC", 27243, 4848),
    "rte": ("RTE", 2490, 277),
    "wic": ("WiC", 5428, 638),
    "wsc": ("WSC", 554, 104),
}


@needs_the_mirror
@pytest.mark.parametrize("task", OFFICIAL)
def test_the_real_files_are_read_whole(task: str) -> None:
    folder, *counts = OFFICIAL[task]
    for name, count in zip(("train", "val"), counts, strict=True):
        path = REAL_MIRROR / "superglue" / folder / f"{name}.jsonl"
        examples = read_examples(path, get_task(task).examples)
        assert len(examples) == count
        assert set(Counter(example.label for example in examples)) == set(get_task(task).labels)
    for name in ("train", "dev32"):
        path = REAL_MIRROR / "fewglue" / folder / f"{name}.jsonl"
        examples = read_examples(path, get_task(task).examples)
        assert len({e.question or e.name for e in examples}) == 32


@needs_the_mirror
def test_the_passages_and_questions_of_multirc_are_the_official_ones() -> None:
    for name, passages, questions in (("train", 456, 5131), ("val", 83, 953)):
        path = REAL_MIRROR / "superglue" / "MultiRC" / f"{name}.jsonl"
        read = read_records(path, get_task("multirc").examples)
        assert len(read) == passages
        assert len({e.question for _, own in read for e in own}) == questions
