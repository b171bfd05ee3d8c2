from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest

from pipeline.errors import TrackingError
from pipeline.history.results import Result
from pipeline.report.significance import Answers
from pipeline.results.pairs import find_results, pair_tables, pair_up
from tests.pipeline.results.test_compare import cells, make
from tests.project import run as shell

RATE = "superglue.training.p-tuning.prompt.learning_rate"


def rte(method: str = "p-tuning", rate: str = "0.1", score: float = 0.5, **more: Any) -> Result:
    values = {
        "benchmark": "superglue",
        "task": "rte",
        "params": {"seed": "34", RATE: rate},
        "metrics": {"test/accuracy": score},
        "run_id": f"{rate}abcdef".replace("0.", ""),
        **more,
    }
    return make(method, score, **values)


def answers(*right: bool) -> Answers:
    return Answers([(1, 34)], {"rte": list(range(len(right)))}, {"rte": np.array([right])})


def test_the_one_setting_that_differs_is_named_and_the_test_is_scipys() -> None:
    first, second = rte(rate="0.1"), rte(rate="0.2", score=0.75)
    before = [True] * 30 + [False] * 40
    after = [True] * 26 + [False] * 4 + [True] * 15 + [False] * 25
    right = {first.run_id: answers(*before), second.run_id: answers(*after)}
    scores, settings = pair_tables(first, second, lambda result: right[result.run_id])
    assert cells(settings) == [[RATE, "0.1", "0.2"]]
    assert scores.title == "rte: p-tuning 1abcdef and p-tuning 2abcdef"
    assert ["test accuracy", "50.0", "75.0", "+25.0"] in cells(scores)
    expected = binomtest(4, 4 + 15, 0.5).pvalue
    (note,) = scores.notes
    assert f"p = {expected:.3f} (McNemar)" in note
    assert "+15.7 points" in note


def test_relations_and_contents_that_differ_are_shown() -> None:
    first, second = make("p-tuning", 0.25), make("p-tuning", 0.5, contents={"splits": "9" * 12})
    scores, settings, relations = pair_tables(first, second, lambda _: None)
    assert cells(scores) == [
        ["test P@1", "25.0", "50.0", "+25.0"], ["dev P@1", "25.0", "50.0", "+25.0"],
    ]  # fmt: skip
    assert scores.notes[0].startswith("No paired test: the predictions are not in the history")
    assert cells(settings) == [
        ["content of splits", "1111111111", "9999999999"],
        ["content of model", "2222222222", "-"],
    ]
    assert cells(relations) == [["P17", "50.0", "50.0", "+0.0"]]


def test_equal_settings_are_said_to_be_equal() -> None:
    scores, *rest = pair_tables(make("manual"), make("manual"), lambda _: None)
    assert scores.notes[-1] == "Settings, data and model are the same."
    assert [table.title for table in rest] == ["Test P@1 by relation"]


def test_other_examples_are_not_tested() -> None:
    right = iter([answers(True, False), answers(True, False, True)])
    scores, *_ = pair_tables(rte(rate="0.1"), rte(rate="0.2"), lambda _: next(right))
    assert scores.notes == ["No paired test: they were scored on other examples."]


def test_runs_are_found_by_id_experiment_commit_and_workspace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shell(tmp_path, "git", "init", "-q")
    shell(tmp_path, "git", "commit", "-qm", "one", "--allow-empty")
    monkeypatch.chdir(tmp_path)
    commit = shell(tmp_path, "git", "rev-parse", "HEAD").stdout.strip()
    clean = {"mlflow.source.git.commit": commit, "git.dirty": "false"}
    results = [
        rte(run_id="aaaaaa11", tags=clean | {"git.dirty": "true", "dvc.experiment": "bumpy-tael"}),
        rte(run_id="bbbbbb22", tags=clean, current=True),
        make("manual", run_id="cccccc33", tags={"made_from.models/lama/manual": "dddddd44"}),
    ]

    def found(target: str) -> list[str]:
        return [result.run_id for result in find_results(target, results)]

    assert found("aaaaaa") == found("bumpy-tael") == ["aaaaaa11"]
    assert found("HEAD") == found(commit) == found("workspace") == ["bbbbbb22"]
    assert found("dddddd") == ["cccccc33"]  # by its training
    for unknown in ("eeeeee", "no-such-name", "--all", ""):
        with pytest.raises(TrackingError, match="no evaluation is found"):
            find_results(unknown, results)
    with pytest.raises(TrackingError, match="several runs begin so: aaaaaa11, aaaaaa12"):
        find_results("aaaaaa1", [*results, rte(run_id="aaaaaa12")])


def test_the_same_task_and_method_are_paired_and_single_methods_of_a_task() -> None:
    manual, tuned, task = make("manual"), make("p-tuning"), rte()
    again = make("p-tuning", 0.75)
    assert pair_up([manual, tuned, task], [again]) == [(tuned, again)]
    assert pair_up([manual], [again]) == [(manual, again)]
    with pytest.raises(TrackingError, match="manual lama and p-tuning rte have no task in common"):
        pair_up([manual], [task])
