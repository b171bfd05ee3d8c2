"""Expectations are worked out by hand."""

import pytest

from pipeline.evaluation.evaluate import TaskEvaluation
from pipeline.evaluation.summary import setting_rows, task_summary, unit_rows


def _unit(setting, seed, dev):
    name = f"setting-{setting}/split-1/seed-{seed}"
    return {"name": name, "split": 1, "seed": seed, "best_epoch": 2, "dev_score": dev}


def _trained(chosen):
    return {
        "chosen": chosen,
        "settings": [
            {
                "number": number,
                "tried": {"batch": 4 * number, "template": "t"},
                "template": f"template {number}",
                "units": [_unit(number, seed, 0.1 * number + seed / 100) for seed in (1, 2)],
            }
            for number in (1, 2)
        ],
    }


def _found(accuracies):
    return {
        name: TaskEvaluation({"accuracy": a, "f1": a / 2}, {"accuracy": 0.5, "f1": 0.25}, 56, [])
        for name, a in accuracies.items()
    }


ONE = {"setting-2/split-1/seed-1": 0.4, "setting-2/split-1/seed-2": 0.8}
ALL = {"setting-1/split-1/seed-1": 0.2, "setting-1/split-1/seed-2": 0.4, **ONE}


def test_a_row_stands_for_each_training_that_was_evaluated():
    rows = unit_rows(_trained(2), _found(ONE))
    assert [row["training"] for row in rows] == list(ONE)
    assert rows[1] == {
        "training": "setting-2/split-1/seed-2", "setting": 2, "split": 1, "seed": 2,
        "best_epoch": 2, "dev_score": 0.22, "test_score": pytest.approx(0.6),
        "test_accuracy": 0.8, "test_f1": 0.4,
    }  # fmt: skip


def test_a_setting_that_was_not_chosen_has_dev_scores_alone():
    found = _found(ONE)
    first, second = setting_rows(_trained(2), unit_rows(_trained(2), found))
    assert (first["chosen"], second["chosen"]) == (False, True)
    assert (first["tried"], first["template"]) == ("batch=4", "template 1")
    assert first["dev_score"] == pytest.approx(0.115)
    assert first["dev_score_std"] == pytest.approx(0.01 / 2**0.5)
    assert first["test_score"] is None
    assert second["test_score"] == pytest.approx(0.45)
    assert second["test_score_std"] == pytest.approx(0.3 / 2**0.5)


def test_of_one_setting_the_spread_is_that_of_its_trainings():
    found = _found(ONE)
    summary = task_summary(unit_rows(_trained(2), found), found)
    assert summary == {
        "dev/score": pytest.approx(0.215),
        "dev/score_std": pytest.approx(0.01 / 2**0.5),
        "test/score": pytest.approx(0.45),
        "test/score_std": pytest.approx(0.3 / 2**0.5),
        "test/accuracy": pytest.approx(0.6),
        "test/accuracy_std": pytest.approx(0.4 / 2**0.5),
        "test/f1": pytest.approx(0.3),
        "test/f1_std": pytest.approx(0.2 / 2**0.5),
        "test/majority_accuracy": 0.5,
        "test/majority_f1": 0.25,
        "test/majority": 0.375,
        "test/examples": 56,
        "test/trainings": 2,
        "test/settings": 1,
    }


def test_of_several_settings_it_is_that_of_their_means():
    found = _found(ALL)
    summary = task_summary(unit_rows(_trained(None), found), found)
    assert summary["test/accuracy"] == pytest.approx(0.45)
    assert summary["test/accuracy_std"] == pytest.approx(0.3 / 2**0.5)
    assert (summary["test/settings"], summary["test/trainings"]) == (2, 4)


def test_one_training_has_no_spread():
    name = "setting-1/split-1/seed-1"
    found = _found({name: 0.5})
    summary = task_summary(unit_rows(_trained(1), found), found)
    assert not [key for key in summary if key.endswith("_std")]
