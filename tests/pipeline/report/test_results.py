import csv
import json
from itertools import pairwise

import pytest

from pipeline.errors import DataError
from pipeline.files import write_jsonl
from pipeline.report.results import training_budget

METHODS = ("manual", "p-tuning")


def test_relations_hold_the_numbers_of_the_files(files):
    files.add_lama()
    rows = files.lama().relations
    assert [row["relation"] for row in rows] == ["P17", "P30", "P1376"]
    for method in METHODS:
        folder = files.evaluation / "lama" / method
        with (folder / "relations.csv").open() as file:
            scores = {line["relation"]: line for line in csv.DictReader(file)}
        with (folder / "controls.csv").open() as file:
            controls = {line["relation"]: line for line in csv.DictReader(file)}
        for row in rows:
            assert row[method] == float(scores[row["relation"]]["p_at_1"])
            assert row["facts"] == int(scores[row["relation"]]["facts"])
            assert row["label"] == controls[row["relation"]]["label"]
            assert row["left_out"] == int(controls[row["relation"]]["left_out"])
            assert row["majority"] == float(controls[row["relation"]]["majority"])
            assert row["naive_bayes"] == float(controls[row["relation"]]["naive_bayes"])


def test_methods_hold_their_metrics_in_the_order_asked_for(files):
    files.add_lama()
    files.add_task("rte")
    backwards = tuple(reversed(METHODS))
    for folder, methods in (
        ("lama", files.lama(backwards).methods),
        ("superglue/rte", files.task("rte", backwards).methods),
    ):
        assert tuple(methods) == backwards
        for method in METHODS:
            path = files.metrics / folder / f"{method}.json"
            assert methods[method] == json.loads(path.read_text())


def test_a_curve_has_a_point_an_epoch(files):
    files.add_lama()
    files.add_task("rte")
    points = [p for p in files.lama().curves if p["relation"] == "P30"]
    assert [(p["method"], p["epoch"], p["dev_p_at_1"]) for p in points] == [
        ("manual", 0, 0.02),
        ("p-tuning", 0, 0.02),
        ("p-tuning", 1, 0.04),
        ("p-tuning", 2, 0.06),
        ("p-tuning", 3, 0.08),
    ]
    points = files.task("rte").curves
    assert {p["task"] for p in points} == {"rte"}
    one, *several = (f"setting-1/split-1/seed-{seed}" for seed in (1, 1, 2))
    assert [(p["method"], p["training"], p["epoch"], p["dev_score"]) for p in points] == [
        ("manual", one, 0, 0.125),
        *(
            ("p-tuning", training, epoch, (2 + epoch) / 8)
            for training in several
            for epoch in range(3)
        ),
    ]


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (0, []),
        (2, [("P17", 0), ("P30", 0)]),
        (3, [("P17", 0), ("P30", 0), ("P1376", 0)]),
        (5, [("P17", 0), ("P17", 1), ("P30", 0), ("P30", 1), ("P1376", 0)]),
        (99, [(name, fact) for name in ("P17", "P30", "P1376") for fact in range(5)]),
    ],
)
def test_answers_are_spread_over_the_relations(files, count, shown):
    files.add_lama()
    answers = files.lama(answers=count).answers
    assert [(row["relation"], row["subject"]) for row in answers] == [
        (name, f"{name}-subject{fact}") for name, fact in shown
    ]


def test_the_answers_of_the_methods_stand_beside_each_other(files):
    files.add_lama()
    answers = files.lama(answers=5).answers
    for method in METHODS:
        path = files.evaluation / "lama" / method / "predictions" / "predictions.jsonl"
        records = [json.loads(line) for line in path.read_text().splitlines()]
        given = {(r["relation"], r["subject"], r["object"]): r["answer"] for r in records}
        for row in answers:
            assert row[method] == given[row["relation"], row["subject"], row["object"]]


def test_a_fact_that_one_method_left_out_still_has_the_others_answer(files):
    files.add_lama(relations=["P17"])
    path = files.evaluation / "lama" / "manual" / "predictions" / "predictions.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    write_jsonl(path, records[1:])
    left_out = next(r for r in files.lama(answers=9).answers if r["subject"] == "P17-subject0")
    assert "manual" not in left_out
    assert left_out["p-tuning"] == "object0"


def test_rows_of_one_relation_stand_together(files):
    files.add_lama()
    names = [row["relation"] for row in files.lama(answers=11).answers]
    assert len({name for name, _ in pairwise([*names, None])}) == 3
    assert sum(one != other for one, other in pairwise(names)) == 2


@pytest.mark.parametrize(
    "lost",
    [
        "evaluation/lama/p-tuning/relations.csv",
        "evaluation/lama/p-tuning/controls.csv",
        "evaluation/lama/p-tuning/predictions/predictions.jsonl",
        "curves/lama/p-tuning.csv",
        "metrics/lama/p-tuning.json",
        "metrics/splits/lama.json",
    ],
)
def test_a_lost_file_is_named(files, lost):
    files.add_lama()
    (files.root / lost).unlink()
    with pytest.raises(DataError, match="no such file") as caught:
        files.lama()
    assert str(files.root / lost) in str(caught.value)


def test_predictions_are_not_needed_where_no_answers_are_shown(files):
    files.add_lama()
    for path in files.evaluation.rglob("predictions.jsonl"):
        path.unlink()
    assert files.lama(answers=0).answers == []


def test_templates_of_the_methods_are_matched_by_relation_and_number(files):
    files.add_stability(templates={"P17": ["a {mask}", "b {mask}"], "P19": ["c {mask}"] * 2})
    path = files.evaluation / "stability/p-tuning/templates.csv"
    head, *lines = path.read_text().splitlines()
    path.write_text("\n".join([head, *reversed(lines)]) + "\n")
    rows = files.stability(["p-tuning", "manual"]).templates
    # The manual method's text is the readable one, whatever the order of the methods.
    assert [(r["relation"], r["number"], r["template"]) for r in rows] == [
        ("P17", 1, "a {mask}"),
        ("P17", 2, "b {mask}"),
        ("P19", 1, "c {mask}"),
        ("P19", 2, "c {mask}"),
    ]
    assert [row["manual"] for row in rows] == [1 / 10, 2 / 10] * 2
    assert [row["p-tuning"] for row in rows] == [1 / 9, 2 / 9] * 2


@pytest.mark.parametrize(
    "lost", ["evaluation/stability/manual/templates.csv", "metrics/stability/manual.json"]
)
def test_a_lost_file_of_stability_is_named(files, lost):
    files.add_stability()
    (files.root / lost).unlink()
    with pytest.raises(DataError, match="no such file") as caught:
        files.stability()
    assert str(files.root / lost) in str(caught.value)


@pytest.mark.parametrize(
    ("text", "work"),
    [
        ("relation,epoch\nP17,0\nP17,1\nP17,2\nP30,0\nP30,1\n", (2, 3)),
        ("relation,epoch\nP17,0\nP30,0\n", (2, 0)),
        ("setting,split,seed,epoch\n1,1,7,0\n1,1,7,3\n1,2,7,2\n2,1,7,1\n1,1,8,1\n", (4, 7)),
        ("relation,epoch\n", (0, 0)),
    ],
)
def test_trainings_and_epochs_are_counted(tmp_path, text, work):
    (tmp_path / "curves.csv").write_text(text)
    assert tuple(training_budget(tmp_path / "curves.csv").values()) == work
