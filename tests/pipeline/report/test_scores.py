"""The table of scores and the files that it is read from."""

import json

import pytest

from pipeline.errors import DataError
from pipeline.files import read_csv, write_jsonl
from pipeline.report.scores import (
    Score,
    count_epochs,
    from_record,
    join,
    percent,
    read_nearest,
    scores_of,
)

METHODS = ("manual", "p-tuning")


def test_a_metrics_file_gives_scores_of_the_method_and_of_its_controls():
    values = {
        "dev/p_at_1": 0.5, "test/p_at_1": 0.25, "test/p_at_1_std": 0.01, "test/majority": 0.1,
        "test/naive_bayes": 0.2, "test/facts": 9.0, "test/left_out": 1, "test/trainings": 3.0,
        "test/settings": 1, "test/p_at_1/P17": 0.3,
    }  # fmt: skip
    assert scores_of(values, "lama", "", "p-tuning", origin="run") == [
        Score("lama", "", "p-tuning", "dev", "p_at_1", 0.5, None, 9, 3, "run"),
        Score("lama", "", "p-tuning", "test", "p_at_1", 0.25, 0.01, 9, 3, "run"),
        Score("lama", "", "majority class", "test", "p_at_1", 0.1, None, 9, origin="run"),
        Score("lama", "", "naive Bayes", "test", "p_at_1", 0.2, None, 9, origin="run"),
    ]


def test_the_majority_class_has_the_metrics_of_its_task():
    values = {"test/score": 0.5, "test/f1": 0.4, "test/majority": 0.3, "test/majority_f1": 0.2,
              "test/examples": 56}  # fmt: skip
    rows = [(s.method, s.metric, s.mean) for s in scores_of(values, "superglue", "cb", "manual")]
    assert rows == [
        ("manual", "score", 0.5), ("manual", "f1", 0.4), ("majority class", "score", 0.3),
        ("majority class", "f1", 0.2),
    ]  # fmt: skip


def test_a_benchmark_of_a_later_version_has_no_scores():
    assert scores_of({"test/new": 0.5, "test/majority_new": 1.0}, "new", "", "manual") == []


@pytest.mark.parametrize(
    ("mean", "std", "note", "text"),
    [
        (0.2929, None, "", "29.3"),
        (1.0, 0.0123, "", "100.0 ± 1.2"),
        (0.00049, None, "LPAQA", "0.0 (LPAQA)"),
        (None, None, "recalled", "out of memory (recalled)"),
    ],
)
def test_a_score_is_written_in_percent(mean, std, note, text):
    assert str(Score("lama", "", "x", "test", "p_at_1", mean, std, note=note)) == text
    assert percent(None) == ""


def test_a_result_holds_the_numbers_of_its_files(files):
    files.add_lama()
    files.add_task("rte")
    for result in files.lama():
        folder = files.evaluation / "lama" / result.method
        assert [row["relation"] for row in result.relations] == ["P17", "P30", "P1376"]
        for row, score, control in zip(
            result.relations,
            read_csv(folder / "relations.csv"),
            read_csv(folder / "controls.csv"),
            strict=True,
        ):
            merged = {**control, **score}
            assert {key: str(value) for key, value in row.items()} == merged
    for result in (*files.lama(), *files.task("rte")):
        assert result.metrics == json.loads((files.metrics / f"{result.name}.json").read_text())
    tuned = files.task("rte")[1]
    assert tuned.trainings[1] == {
        "task": "rte", "training": "rte/setting-1/split-1/seed-2", "setting": 1, "split": 1,
        "seed": 2, "best_epoch": 2, "dev_score": 0.64,
        "test_score": 0.5 + 1 / 7 + 0.02,
    }  # fmt: skip
    assert [(row["setting"], row["chosen"]) for row in tuned.settings] == [(1, True), (2, False)]
    assert tuned.settings[1]["test_score"] is None


def test_relations_have_trainings_and_settings_like_tasks(files):
    files.add_lama(seeds=(1, 2))
    tuned = files.lama()[1]
    assert [(row["task"], row["seed"]) for row in tuned.trainings] == [
        (relation, seed) for relation in ("P17", "P30", "P1376") for seed in (1, 2)
    ]
    assert [(row["task"], row["setting"]) for row in tuned.settings][:3] == [
        ("P17", 1), ("P17", 2), ("P30", 1),
    ]  # fmt: skip
    assert tuned.score().std == 0.0123
    assert tuned.score("dev").trainings == 2


def test_curves_are_those_of_the_trainings_that_were_evaluated(files):
    files.add_lama(seeds=(1, 2))
    files.add_task("rte")
    tuned = [point for point in files.lama()[1].curves if point["task"] == "P30"]
    assert [(p["training"], p["epoch"], p["dev_score"]) for p in tuned] == [
        ((1, 1, seed), epoch, (1 + epoch) / 50) for seed in (1, 2) for epoch in range(4)
    ]
    tuned = files.task("rte")[1].curves
    assert [(p["task"], p["training"], p["epoch"], p["dev_score"]) for p in tuned] == [
        ("rte", (1, 1, seed), epoch, (2 + epoch) / 8) for seed in (1, 2) for epoch in range(3)
    ]


def test_a_record_gives_the_result_back(files):
    files.add_lama(seeds=(1, 2))
    files.add_stability()
    files.add_task("rte")
    for result in (*files.lama(), *files.stability(), *files.task("rte")):
        record = json.loads(json.dumps(result.as_record()))
        again = from_record(result.benchmark, result.task, result.method, record)
        assert again.scores == result.scores
        assert again.as_record() == record
    old = {"metrics": {}, "trainings": [{"training": "a", "seed": 1}], "settings": [{}]}
    assert from_record("superglue", "rte", "manual", old).trainings[0]["task"] == "rte"


@pytest.mark.parametrize(
    "lost",
    [
        "evaluation/lama/p-tuning/relations.csv",
        "evaluation/lama/p-tuning/controls.csv",
        "curves/lama/p-tuning.csv",
        "metrics/lama/p-tuning.json",
        "evaluation/stability/manual/templates.csv",
        "metrics/stability/manual.json",
        "evaluation/superglue/rte/manual/settings.csv",
    ],
)
def test_a_lost_file_is_named(files, lost):
    files.add_lama()
    files.add_stability()
    files.add_task("rte")
    (files.root / lost).unlink()
    with pytest.raises(DataError, match="no such file") as caught:
        (files.lama(), files.stability(), files.task("rte"))
    assert str(files.root / lost) in str(caught.value)


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (0, []),
        (2, [("P17", 0), ("P30", 0)]),
        (5, [("P17", 0), ("P17", 1), ("P30", 0), ("P30", 1), ("P1376", 0)]),
        (99, [(name, fact) for name in ("P17", "P30", "P1376") for fact in range(5)]),
    ],
)
def test_answers_are_spread_over_the_relations(files, count, shown):
    files.add_lama()
    if count == 0:
        for path in files.evaluation.rglob("predictions.jsonl"):
            path.unlink()
    assert [(row["relation"], row["subject"]) for row in files.answers(count)] == [
        (name, f"{name}-subject{fact}") for name, fact in shown
    ]


def test_a_fact_that_one_method_left_out_has_the_answers_of_the_others(files):
    files.add_lama(relations=["P17"])
    path = files.evaluation / "lama" / "manual" / "predictions" / "predictions.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    write_jsonl(path, records[1:])
    answers = {row["subject"]: row for row in files.answers(9)}
    assert "manual" not in answers["P17-subject0"]
    assert answers["P17-subject0"]["p-tuning"] == "object0"
    assert answers["P17-subject1"]["manual"] == records[1]["answer"]


@pytest.mark.parametrize(
    ("text", "counts"),
    [
        ("relation,setting,split,seed,epoch\nP17,1,1,7,2\nP17,1,1,8,3\nP30,1,1,7,0\n", (3, 5)),
        ("setting,split,seed,epoch\n1,1,7,0\n1,1,7,3\n1,2,7,2\n2,1,7,1\n1,1,8,1\n", (4, 7)),
        ("relation,setting,split,seed,epoch\n", (0, 0)),
    ],
)
def test_trainings_and_epochs_are_counted(tmp_path, text, counts):
    (tmp_path / "curves.csv").write_text(text)
    assert tuple(count_epochs(tmp_path / "curves.csv").values()) == counts


def test_rows_are_joined_by_their_keys():
    columns = {
        "a": [{"relation": "P1", "label": "x", "p_at_1": 0.1}],
        "b": [{"relation": "P2", "label": "y", "p_at_1": 0.2},
              {"relation": "P1", "label": "other", "p_at_1": 0.3}],
    }  # fmt: skip
    assert join(columns, "relation") == [
        {"relation": "P1", "label": "x", "a": 0.1, "b": 0.3},
        {"relation": "P2", "label": "y", "b": 0.2},
    ]


def test_the_words_nearest_to_vectors_are_those_of_the_best_training(files):
    files.add_lama(relations=["P17", "P30"], seeds=(34, 35))
    lama = files.lama()
    _, tuned = lama
    best = {}
    for row in tuned.trainings:
        if row["dev_score"] > best.get(row["task"], row | {"dev_score": -1})["dev_score"]:
            best[row["task"]] = row
    assert read_nearest(files.evaluation, lama) == [
        {
            "task": task,
            "method": "p-tuning",
            "nearest": [[f"in{row['seed']}", "a|b"], ["the", "of"]],
        }
        for task, row in best.items()
    ]
    (files.evaluation / "lama/p-tuning/predictions/nearest.jsonl").unlink()
    with pytest.raises(DataError, match=r"nearest\.jsonl"):
        read_nearest(files.evaluation, lama)
