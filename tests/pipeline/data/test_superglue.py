import json

import pytest

from pipeline.data.superglue import read_examples
from pipeline.errors import DataError

GOOD = {"premise": "Lyon is in France.", "hypothesis": "Lyon is", "label": "entailment", "idx": 4}
SCHEMA = {"fields": ("premise", "hypothesis"), "labels": ("entailment", "not_entailment")}


def _write(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_examples_keep_every_key_of_the_schema(tmp_path):
    other = {**GOOD, "label": "not_entailment", "idx": 0, "premise": ""}
    path = _write(tmp_path / "train.jsonl", [GOOD, other])
    assert read_examples(path, **SCHEMA) == [GOOD, other]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"premise": 3}, "example 2: premise is 3, not text"),
        ({"hypothesis": None}, "example 2: hypothesis is None, not text"),
        ({"label": "neutral"}, "example 2: label 'neutral' is not one of entailment, not_entail"),
        ({"label": 0}, "example 2: label 0 is not one of entailment, not_entailment"),
        ({"label": ["entailment"]}, "example 2: label ['entailment'] is not one of"),
    ],
)
def test_a_bad_example_is_named_with_its_place(tmp_path, change, said):
    path = _write(tmp_path / "train.jsonl", [GOOD, {**GOOD, **change}, GOOD])
    with pytest.raises(DataError) as caught:
        read_examples(path, **SCHEMA)
    assert str(caught.value).startswith(f"{path}: {said}")


@pytest.mark.parametrize("lost", ["premise", "hypothesis", "label"])
def test_a_missing_key_is_named_with_its_line(tmp_path, lost):
    cut = {key: value for key, value in GOOD.items() if key != lost}
    path = _write(tmp_path / "train.jsonl", [GOOD, cut])
    with pytest.raises(DataError, match=f"train.jsonl:2: no {lost}"):
        read_examples(path, **SCHEMA)


def test_a_file_without_examples_is_refused(tmp_path):
    path = _write(tmp_path / "train.jsonl", [])
    with pytest.raises(DataError, match="no examples"):
        read_examples(path, **SCHEMA)
