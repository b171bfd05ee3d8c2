from pathlib import Path

import mlflow
import pytest

from pipeline.history.forecast import Estimate, estimate_times
from pipeline.workflow.project import Forecast, PlannedStage
from tests.history import log_training

SLOW = {"model": {"name": "m"}, "lama": {"seeds": [1, 2], "training": {"epochs": 20}}}
QUICK = {"model": {"name": "m"}, "lama": {"seeds": [1, 2], "training": {"epochs": 2}}}


def estimate(name: str = "train-lama", **params: object) -> Estimate | None:
    stage = PlannedStage(name, "", {"model": {"name": "m"}, **params}, Forecast.RUN)
    ((same, time),) = estimate_times([stage])
    assert same is stage
    return time


def test_the_time_is_that_of_the_most_similar_run_of_the_stage_here(own_folder: Path) -> None:
    slow = log_training("p-tuning", "aaaaaaaa", 600.0, taken_over=60.0, params=SLOW)
    quick = log_training("p-tuning", "bbbbbbbb", 30.0, params=QUICK)
    lama = {"seeds": [1, 2], "training": {"epochs": 20}}
    assert estimate(lama=lama) == Estimate(slow, 660.0, ())
    assert estimate(lama={**lama, "training": {"epochs": 2}}) == Estimate(quick, 30.0, ())
    # Both differ in one setting: the newer.
    assert estimate(lama={**lama, "training": {"epochs": 3}}) == Estimate(quick, 30.0, ("epochs",))
    assert estimate("train-superglue@rte") is None
    assert estimate(model={"name": "another"}, lama=lama) is None


def test_times_of_other_machines_and_of_restored_runs_do_not_count(
    own_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = log_training("p-tuning", "aaaaaaaa", 600.0, params=QUICK)
    mlflow.MlflowClient().set_tag(run, "host", "elsewhere")
    assert estimate(lama=QUICK["lama"]) is None


def test_without_a_history_no_time_is_known_and_none_is_created(own_folder: Path) -> None:
    (own_folder / "mlflow.db").unlink()
    assert estimate() is None
    assert not (own_folder / "mlflow.db").exists()
