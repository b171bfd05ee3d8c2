import contextlib
import shutil
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import mlflow
import pytest

from pipeline.doctor.checks import Problem
from pipeline.doctor.project import check_history
from pipeline.history.locations import correct_moved, find_moved
from pipeline.history.run import stage_run
from pipeline.history.store import connect
from pipeline.workflow.command import StageInfo

INFO = StageInfo("train", "lama", method="p-tuning")


def log_run(name: str) -> str:
    """Log a run with a file and a model; return its id."""
    with stage_run(None, INFO) as run:
        run.log_text("text", name)
    connect().create_external_model(name="one", source_run_id=run.run_id)
    return run.run_id


def artifacts(run_id: str) -> list[str]:
    return [found.path for found in mlflow.MlflowClient().list_artifacts(run_id)]


def locations(root: Path) -> list[str]:
    with contextlib.closing(sqlite3.connect(root / "mlflow.db")) as store:
        return [
            found
            for query in (
                "SELECT artifact_location FROM experiments WHERE name != 'Default'",
                "SELECT artifact_uri FROM runs",
                "SELECT artifact_location FROM logged_models",
            )
            for (found,) in store.execute(query)
        ]


@pytest.fixture
def first(own_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with a run, whose path has characters that addresses escape."""
    root = own_folder / "first place #1"
    root.mkdir()
    shutil.move("mlflow.db", root)
    monkeypatch.chdir(root)
    return root


def test_a_moved_history_keeps_its_files_and_gets_new_ones(
    first: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    earlier = log_run("one.txt")
    assert capsys.readouterr().err == ""
    second = first.rename(first.with_name("second"))
    monkeypatch.chdir(second)
    later = log_run("two.txt")
    assert capsys.readouterr().err == (
        f"The checkout was moved: 3 locations of artifacts in {second / 'mlflow.db'} now refer to "
        f"{second / 'mlartifacts'}\n"
    )
    assert not first.exists()
    assert "one.txt" in artifacts(earlier)
    assert "two.txt" in artifacts(later)
    assert all(place.startswith((second / "mlartifacts").as_uri()) for place in locations(second))
    assert len(locations(second)) == 5
    connect()
    assert capsys.readouterr().err == ""


def test_a_copied_history_leaves_the_original_unchanged(
    first: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    earlier = log_run("one.txt")
    second = shutil.copytree(first, first.with_name("second"))
    # This run's files were written to the old folder, after the copy.
    newer = log_run("two.txt")
    before = locations(first)
    shutil.copyfile(first / "mlflow.db", second / "mlflow.db")
    monkeypatch.chdir(second)
    connect()
    assert locations(first) == before
    for run, name in ((earlier, "one.txt"), (newer, "two.txt")):
        assert name in artifacts(run)
    shutil.rmtree(first / "mlartifacts" / "p-tuning-train" / earlier)
    assert "one.txt" in artifacts(earlier)


def test_stages_that_start_together_correct_once(
    first: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_run("one.txt")
    second = first.rename(first.with_name("second"))
    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(correct_moved, [second] * 4)) == [0, 0, 0, 3]


def test_locations_that_a_person_chose_are_kept(own_folder: Path) -> None:
    client = connect().MlflowClient()
    chosen = {
        "p-tuning-train": "s3://bucket/mlartifacts/p-tuning-train",
        "p-tuning-data": "file:///data/mlartifacts/shared",
        "mine": str(own_folder / "mlruns" / "5"),
    }
    for name, location in chosen.items():
        client.create_experiment(name, artifact_location=location)
    assert correct_moved(own_folder) == 0
    assert find_moved(own_folder) == []
    for name, location in chosen.items():
        assert client.get_experiment_by_name(name).artifact_location == location


def test_doctor_names_the_old_folder_and_changes_nothing(
    first: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_run("one.txt")
    assert str(check_history(1)).endswith("its schema is current")
    second = first.rename(first.with_name("second"))
    monkeypatch.chdir(second)
    before = (second / "mlflow.db").read_bytes()
    found = check_history(1)
    assert isinstance(found, Problem)
    assert found.state == "warning"
    assert found.message == f"sqlite:///{second}/mlflow.db looks for artifacts in {first}"
    assert "`ptune sync` corrects this" in found.advice
    assert (second / "mlflow.db").read_bytes() == before
