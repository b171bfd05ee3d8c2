"""Expectations are worked out by hand."""

import math
from dataclasses import replace
from typing import Any

import pytest

from pipeline.evaluation.evaluate import Evaluation
from pipeline.evaluation.summary import (
    ONE_TOKEN_COLUMNS,
    relation_rows,
    relation_summary,
    setting_rows,
    spread_over_templates,
    task_summary,
    template_rows,
    trial_rows,
)


def _trial(setting, seed, dev):
    name = f"cb/setting-{setting}/split-1/seed-{seed}"
    sizes = {"examples_train": 30, "examples_dev": 8, "steps": 10 * seed}
    return {"name": name, "split": 1, "seed": seed, "best_epoch": 2, "dev_score": dev, **sizes}


def _trained(chosen):
    task = {
        "chosen": chosen,
        "settings": [
            {
                "number": number,
                "tried": {"batch": 4 * number, "template": "t"},
                "template": f"template {number}",
                "trials": [_trial(number, seed, 0.1 * number + seed / 100) for seed in (1, 2)],
            }
            for number in (1, 2)
        ],
    }
    return {"tasks": {"cb": task}}


CONTROLS = {
    "majority": {"accuracy": 0.5, "f1": 0.25},
    # The score is not the mean: another answer is the best by F1.
    "constant": {"accuracy": 0.75, "f1": 0.5, "score": 0.6},
}


def _found(accuracies):
    return {
        name: Evaluation({"accuracy": a, "f1": a / 2}, CONTROLS, 56, 0, [])
        for name, a in accuracies.items()
    }


ONE = {"cb/setting-2/split-1/seed-1": 0.4, "cb/setting-2/split-1/seed-2": 0.8}
ALL = {"cb/setting-1/split-1/seed-1": 0.2, "cb/setting-1/split-1/seed-2": 0.4, **ONE}


def test_there_is_a_row_for_each_training_that_was_evaluated():
    rows = trial_rows(_trained(2), _found(ONE))
    assert [row["training"] for row in rows] == list(ONE)
    assert rows[1] == {
        "task": "cb", "training": "cb/setting-2/split-1/seed-2", "setting": 2, "split": 1,
        "seed": 2,
        "best_epoch": 2, "dev_score": 0.22, "examples_train": 30, "examples_dev": 8, "steps": 20,
        "test_score": pytest.approx(0.6),
        "test_accuracy": 0.8, "test_f1": 0.4,
        "majority": 0.375, "majority_accuracy": 0.5, "majority_f1": 0.25,
        "constant": 0.6, "constant_accuracy": 0.75, "constant_f1": 0.5,
        "examples": 56, "left_out": 0,
    }  # fmt: skip


def test_a_setting_that_was_not_chosen_has_dev_scores_alone():
    found = _found(ONE)
    first, second = setting_rows(_trained(2), trial_rows(_trained(2), found))
    assert (first["chosen"], second["chosen"]) == (False, True)
    assert (first["tried"], first["template"]) == ("batch=4", "template 1")
    assert first["dev_score"] == pytest.approx(0.115)
    assert first["dev_score_std"] == pytest.approx(0.01 / 2**0.5)
    assert first["test_score"] is None
    assert second["test_score"] == pytest.approx(0.45)
    assert second["test_score_std"] == pytest.approx(0.3 / 2**0.5)


def test_of_one_setting_the_spread_is_that_of_its_trainings():
    found = _found(ONE)
    summary = task_summary(trial_rows(_trained(2), found))
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
        "test/constant": pytest.approx(0.6),
        "test/constant_accuracy": 0.75,
        "test/constant_f1": 0.5,
        "train/examples": 30,
        "dev/examples": 8,
        "train/steps": 15,
        "test/examples": 56,
        "test/trainings": 2,
        "test/settings": 1,
    }


def test_of_several_settings_it_is_that_of_their_means():
    found = _found(ALL)
    summary = task_summary(trial_rows(_trained(None), found))
    assert summary["test/accuracy"] == pytest.approx(0.45)
    assert summary["test/accuracy_std"] == pytest.approx(0.3 / 2**0.5)
    assert (summary["test/settings"], summary["test/trainings"]) == (2, 4)


def test_one_training_has_no_spread():
    name = "cb/setting-1/split-1/seed-1"
    found = _found({name: 0.5})
    summary = task_summary(trial_rows(_trained(1), found))
    assert not [key for key in summary if key.endswith("_std")]


# Relations: two of them, under two seeds


def _relations(*names):
    def trial(name, seed, dev):
        found = f"{name}/setting-1/split-1/seed-{seed}"
        sizes = {"examples_train": 9, "examples_dev": 3, "steps": 10 * seed}
        return {
            "name": found, "split": 1, "seed": seed, "best_epoch": 1, "dev_score": dev, **sizes,
        }  # fmt: skip

    return {
        "tasks": {
            name: {
                "chosen": 1,
                "settings": [
                    {
                        "number": 1,
                        "tried": {},
                        "template": f"{{subject}} {number} {{mask}}",
                        "trials": [trial(name, seed, 0.1 * number) for seed in (1, 2)],
                    }
                ],
            }
            for number, name in enumerate(names, 1)
        }
    }


def _scores(trained, *scores):
    """P@1 in the order of the trials."""
    names = [
        trial["name"]
        for task in trained["tasks"].values()
        for setting in task["settings"]
        for trial in setting["trials"]
    ]
    return {
        name: Evaluation(
            {"p_at_1": score},
            {"majority": {"p_at_1": 0.25}, "constant": {"p_at_1": 0.375},
             "naive_bayes": {"p_at_1": 0.5}},
            30, 2, [], {"facts": 6, "p_at_1": score / 2},
        )
        for name, score in zip(names, scores, strict=True)
    }  # fmt: skip


def test_relations_are_averaged_before_seeds_are_compared():
    trained = _relations("P17", "P30")
    found = _scores(trained, 0.2, 0.4, 0.6, 1.0)
    rows = trial_rows(trained, found)
    # Seed 1: (0.2 + 0.6) / 2; seed 2: (0.4 + 1.0) / 2.
    assert relation_summary(rows) == {
        "test/p_at_1": pytest.approx(0.55),
        "test/p_at_1_std": pytest.approx(0.3 / 2**0.5),
        "dev/p_at_1": pytest.approx(0.15),
        "dev/p_at_1_std": pytest.approx(0),
        "test/majority": 0.25,
        "test/constant": 0.375,
        "test/naive_bayes": 0.5,
        "test/p_at_1_hard": pytest.approx(0.275),
        "test/p_at_1_hard_std": pytest.approx(0.15 / 2**0.5),
        "test/hard_facts": 12,
        "train/facts": 18,
        "dev/facts": 6,
        "train/steps": 15,
        "test/facts": 60,
        "test/left_out": 4,
        "test/trainings": 2,
        "test/settings": 1,
    }
    assert [(row["p_at_1"], row["p_at_1_hard"]) for row in relation_rows(rows)] == [
        (pytest.approx(0.3), pytest.approx(0.15)), (pytest.approx(0.8), pytest.approx(0.4)),
    ]  # fmt: skip


def test_a_relation_without_hard_facts_is_left_out_of_their_mean():
    trained = _relations("P17", "P30")
    found = _scores(trained, 0.2, 0.4, 0.6, 1.0)
    for name in list(found)[:2]:
        found[name] = replace(found[name], hard={"facts": 0, "p_at_1": None})
    rows = trial_rows(trained, found)
    summary = relation_summary(rows)
    assert summary["test/hard_facts"] == 6
    assert summary["test/p_at_1_hard"] == pytest.approx(0.4)
    assert [row["p_at_1_hard"] for row in relation_rows(rows)] == [None, pytest.approx(0.4)]


def test_objects_of_one_token_have_columns_where_all_objects_compete():
    trained = _relations("P17", "P30")
    found = _scores(trained, 0.2, 0.4, 0.6, 1.0)
    assert not any("one_token" in key for key in relation_summary(trial_rows(trained, found)))
    shares = [0.5, 0.75, None, None]
    for name, share in zip(list(found), shares, strict=True):
        facts = {"facts": 0 if share is None else 4, "p_at_1": share}
        found[name] = replace(found[name], one_token=facts)
    rows = trial_rows(trained, found)
    summary = relation_summary(rows)
    assert summary["test/one_token_facts"] == 4
    # Of the only relation that has some.
    assert summary["test/p_at_1_one_token"] == pytest.approx(0.625)
    assert summary["test/p_at_1_one_token_std"] == pytest.approx(0.25 / 2**0.5)
    assert summary["test/p_at_1"] == pytest.approx(0.55)
    assert [[row[key] for key in ONE_TOKEN_COLUMNS] for row in relation_rows(rows)] == [
        [4, pytest.approx(0.625)], [0, None],
    ]  # fmt: skip


def test_trainings_of_earlier_versions_have_no_sizes():
    trained = _trained(2)
    for setting in trained["tasks"]["cb"]["settings"]:
        for trial in setting["trials"]:
            del trial["examples_train"], trial["examples_dev"], trial["steps"]
    rows = trial_rows(trained, _found(ONE))
    assert rows[0]["steps"] is None
    assert not {"train/examples", "dev/examples", "train/steps"} & set(task_summary(rows))


def test_without_relations_there_is_nothing_but_counts():
    assert relation_summary([]) == {
        "test/facts": 0, "test/left_out": 0, "test/trainings": 0, "test/settings": 0,
    }  # fmt: skip
    assert relation_rows([]) == []


def test_a_template_has_the_mean_of_its_seeds():
    trained = _relations("P17/1", "P17/2")
    found = _scores(trained, 0.2, 0.4, 0.6, 1.0)
    assert template_rows(trained, trial_rows(trained, found)) == [
        {
            "relation": "P17",
            "number": number,
            "template": f"{{subject}} {number} {{mask}}",
            "train_facts": 9,
            "dev_facts": 3,
            "facts": 30,
            "steps": 15,
            "p_at_1": pytest.approx(score),
        }
        for number, score in ((1, 0.3), (2, 0.8))
    ]


# Templates


def row(relation: str, p_at_1: float) -> dict[str, Any]:
    return {"relation": relation, "template": "{subject} {mask}", "facts": 3, "p_at_1": p_at_1}


def test_one_relation_worked_by_hand() -> None:
    """The paper's Table 1, manual prompts of BERT-base: 31.3, 19.8, 31.4, 51.1."""
    found = spread_over_templates([row("P17", p) for p in (31.3, 19.8, 31.4, 51.1)])
    assert found == {
        "test/relations": 1,
        "test/templates": 4,
        "test/p_at_1": pytest.approx(33.4),
        "test/p_at_1_worst": 19.8,
        "test/p_at_1_best": 51.1,
        # Deviations -2.1, -13.6, -2.0, 17.7; their squares sum to 506.66, over n - 1 = 3.
        "test/p_at_1_std": pytest.approx(math.sqrt(506.66 / 3)),
    }


def test_relations_count_alike_however_many_templates_they_have() -> None:
    rows = [row("P17", 0.0), row("P30", 0.5), row("P17", 1.0), row("P30", 0.5), row("P30", 0.5)]
    found = spread_over_templates(rows)
    assert found == {
        "test/relations": 2,
        "test/templates": 5,
        "test/p_at_1": 0.5,
        "test/p_at_1_worst": 0.25,
        "test/p_at_1_best": 0.75,
        "test/p_at_1_std": pytest.approx((math.sqrt(0.5) + 0.0) / 2),
    }


def test_without_templates_only_their_number_is_reported() -> None:
    assert spread_over_templates([]) == {"test/relations": 0, "test/templates": 0}
