from pathlib import Path

import mlflow
import pytest

from pipeline.errors import TrackingError
from pipeline.files import write_csv, write_jsonl
from pipeline.history.results import read_answers, read_results, seconds_of_execution
from tests.history import log_evaluation, log_lama, log_splits, log_training


def test_a_result_has_the_parameters_of_what_made_its_inputs(own_folder: Path) -> None:
    log_splits("lama", "1a1a1a1a", {"lama": {"source": "lama", "subset": "29k"}, "seed": 3})
    log_splits("lama", "9f9f9f9f", {"lama": {"source": "lama", "subset": "34k"}, "seed": 4})
    run = log_lama("manual", 0.25, source="lama", splits="1a1a1a1a", relations=11)
    (result,) = read_results()
    assert result.run_id == run
    assert result.params["lama.subset"] == "29k"
    assert result.params["seed"] == "3"
    assert result.contents == {"splits": "1a1a1a1a", "model": "bbbbbbbb"}
    assert result.relations == 11
    assert result.data == "lama 29k"


def test_a_run_outside_dvc_says_neither_source_nor_contents(own_folder: Path) -> None:
    run = log_evaluation("superglue", "rte", "manual", {"test/score": 0.5}, source=None)
    (result,) = read_results()
    assert result.source is None
    assert result.contents == {"run": run}
    assert result.name == "rte"


def test_seconds_are_those_of_the_content_with_what_was_taken_over(own_folder: Path) -> None:
    log_training("p-tuning", "dddddddd", 600.0, taken_over=60.0)
    log_training("p-tuning", "eeeeeeee", 5.0)
    log_lama("p-tuning", 0.5, trained="dddddddd", seconds=30.0)
    log_lama("manual", 0.5, trained="ffffffff")
    manual, tuned = read_results()
    assert (tuned.method, tuned.seconds) == ("p-tuning", {"train": 660.0, "evaluate": 30.0})
    assert (manual.method, manual.seconds) == ("manual", {})


def test_seconds_of_an_execution_are_those_of_its_newest_run(own_folder: Path) -> None:
    for key, seconds in (("a" * 64, 70.0), ("a" * 64, 7.0), ("b" * 64, 6000.0)):
        run = log_training("p-tuning", key[:8], seconds, taken_over=1.0)
        mlflow.MlflowClient().set_tag(run, "dvc.run_key", key)
    assert seconds_of_execution("a" * 64) == 8.0
    assert seconds_of_execution("c" * 64) is None


def test_answers_are_those_of_the_logged_predictions(own_folder: Path) -> None:
    run = log_evaluation("superglue", "rte", "manual", {"test/score": 0.5})
    (result,) = read_results()
    assert read_answers(result) is None
    trial = "rte/setting-1/split-1/seed-34"
    records = [
        {"example": str(n), "label": "a", "answer": answer, "trial": trial}
        for n, answer in enumerate("aba")
    ]
    row = {"training": trial, "setting": 1, "split": 1, "seed": 34, "test_score": 2 / 3}
    write_jsonl(own_folder / "predictions.jsonl", records)
    write_csv(own_folder / "trials.csv", list(row), [row])
    for name in ("predictions.jsonl", "trials.csv"):
        mlflow.MlflowClient().log_artifact(run, str(own_folder / name))
    answers = read_answers(result)
    assert answers is not None
    assert answers.trainings == [(1, 34)]
    assert answers.examples == {"rte": ["0", "1", "2"]}
    assert answers.correct["rte"].tolist() == [[True, False, True]]


def test_without_a_history_there_is_nothing_and_none_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    assert read_results() == []
    assert list(tmp_path.iterdir()) == []


def test_no_password_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(TrackingError) as raised:
        read_results()
    assert "secret" not in str(raised.value)
    assert str(raised.value).startswith(
        "http://***@127.0.0.1:9: cannot be read: Connection refused\nStart the server"
    )
