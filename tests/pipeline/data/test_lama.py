import json

import pytest

from pipeline.data.lama import Fact, LamaSplits, Relation, read_facts, read_lama, write_lama
from pipeline.errors import DataError


@pytest.fixture
def splits() -> LamaSplits:
    return LamaSplits(
        relations={
            "P47": Relation("P47", "[X] shares border with [Y] .", "shares border with"),
            "P17": Relation("P17", "[X] is located in [Y] .", "country"),
        },
        facts={
            "P47": {
                "train": [Fact("P47", "Chad", "Niger"), Fact("P47", "Niger", "Chad")],
                "dev": [Fact("P47", "Peru", "Chile")],
                "test": [],
            },
            "P17": {
                "train": [Fact("P17", "Zürich", "Switzerland", "Q72", "Q39", "u-1")],
                "dev": [],
                "test": [Fact("P17", "L'Hay-les-Roses", "France")],
            },
        },
        vocabulary=["Chad", "Chile", "France", "Niger", "Switzerland", "Österreich"],
    )


def test_splits_come_back_as_they_were_written(tmp_path, splits):
    write_lama(tmp_path, splits)
    again = read_lama(tmp_path)
    assert again == splits
    assert list(again.relations) == ["P47", "P17"]


def test_files_have_the_names_and_keys_of_lama(tmp_path, splits):
    write_lama(tmp_path, splits)
    lines = (tmp_path / "P17" / "train.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {
            "predicate_id": "P17",
            "sub_label": "Zürich",
            "obj_label": "Switzerland",
            "sub_uri": "Q72",
            "obj_uri": "Q39",
            "uuid": "u-1",
        }
    ]
    assert json.loads((tmp_path / "P17" / "test.jsonl").read_text()) == {
        "predicate_id": "P17",
        "sub_label": "L'Hay-les-Roses",
        "obj_label": "France",
    }
    assert json.loads((tmp_path / "relations.jsonl").read_text().splitlines()[0]) == {
        "relation": "P47",
        "template": "[X] shares border with [Y] .",
        "label": "shares border with",
    }


def test_a_split_that_is_not_asked_for_is_not_read(tmp_path, splits):
    write_lama(tmp_path, splits)
    for relation in splits.relations:
        (tmp_path / relation / "test.jsonl").write_text("not for training")
    read = read_lama(tmp_path, ["train", "dev"])
    assert read.facts["P47"] == {s: splits.facts["P47"][s] for s in ("train", "dev")}
    with pytest.raises(DataError):
        read_lama(tmp_path)


@pytest.mark.parametrize("lost", ["relations.jsonl", "vocabulary.txt", "P17/dev.jsonl"])
def test_a_lost_file_is_named(tmp_path, splits, lost):
    write_lama(tmp_path, splits)
    (tmp_path / lost).unlink()
    with pytest.raises(DataError, match="no such file") as caught:
        read_lama(tmp_path)
    assert str(tmp_path / lost) in str(caught.value)


def test_keys_that_only_lama_itself_uses_are_ignored(tmp_path):
    record = {"predicate_id": "P17", "sub_label": "Lyon", "obj_label": "France", "sub_aliases": []}
    (tmp_path / "train.jsonl").write_text(json.dumps(record) + "\n")
    assert read_facts(tmp_path / "train.jsonl") == [Fact("P17", "Lyon", "France")]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"predicate_id": "P17", "sub_label": "Lyon"}', ":2: no obj_label"),
        ('{"predicate_id": "P17", "sub_label": "Lyon", "obj_', ":2: not JSON"),
        ('{"predicate_id": "P17", "sub_label": "", "obj_label": "x"}', "fact 2: sub_label is ''"),
        ('{"predicate_id": "P17", "sub_label": "x", "obj_label": " "}', "fact 2: obj_label is ' '"),
        ('{"predicate_id": "P17", "sub_label": 3, "obj_label": "x"}', "fact 2: sub_label is 3"),
        (
            '{"predicate_id": "P17", "sub_label": "x", "obj_label": null}',
            "fact 2: obj_label is None",
        ),
    ],
)
def test_a_bad_fact_is_named_with_its_place(tmp_path, line, said):
    good = '{"predicate_id": "P17", "sub_label": "Lyon", "obj_label": "France"}\n'
    path = tmp_path / "train.jsonl"
    path.write_text(good + line + "\n" + good)
    with pytest.raises(DataError) as caught:
        read_facts(path)
    assert str(caught.value).startswith(str(path))
    assert said in str(caught.value)
