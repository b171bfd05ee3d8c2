import contextlib
import sqlite3
from datetime import UTC, datetime
from pathlib import Path

import mlflow
import pytest

from pipeline.errors import TrackingError
from pipeline.history.executions import TrackedHistory
from tests.pipeline.history.test_run import STAGE, open_run

SPLITS = "data/splits/lama"
DIGEST = STAGE.inputs[SPLITS]


def logged(output: str) -> str:
    """Log a run that wrote some content to models/lama/p-tuning."""
    with open_run() as run:
        run.set_tags({"dvc.out.models/lama/p-tuning": output})
    return run.run_id


def test_a_run_is_found_by_what_it_wrote_and_read(own_folder: Path) -> None:
    first, second = logged("aa.dir"), logged("bb.dir")
    again = logged("aa.dir")
    history = TrackedHistory()
    assert [r.run_id for r in history.producers("models/lama/p-tuning", "aa.dir")] == [again, first]
    assert [r.run_id for r in history.producers("models/lama/p-tuning", "bb.dir")] == [second]
    assert history.producers("models/lama", "aa.dir") == []
    assert len(history.consumers(SPLITS, DIGEST)) == 3
    assert history.consumers(SPLITS, "aa.dir") == []
    assert len(history.find_by_run_key("ab" * 32)) == 3
    assert history.find_by_run_key("cd" * 32) == []


def test_a_run_says_what_stage_it_is_of(own_folder: Path) -> None:
    logged("aa.dir")
    (run,) = TrackedHistory().producers("models/lama/p-tuning", "aa.dir")
    assert run.name == "train/lama/p-tuning"
    assert abs((datetime.now(UTC) - run.started).total_seconds()) < 60
    assert run.execution.stage == STAGE.stage
    assert run.execution.command == STAGE.command
    assert run.execution.run_key == STAGE.run_key
    assert run.execution.inputs == STAGE.inputs
    assert run.execution.outputs == {"models/lama/p-tuning": "aa.dir"}
    assert run.execution.params["lama.training.epochs"] == "4"
    assert (run.commit, run.dirty, run.restored) == (None, None, False)  # no git here


def test_only_finished_runs_of_whole_stages_count(own_folder: Path) -> None:
    with contextlib.suppress(KeyError), open_run() as run:
        run.set_tags({"dvc.out.models/lama/p-tuning": "aa.dir"})
        raise KeyError
    with (
        open_run() as run,
        run.child("one", tags={"dvc.out.models/lama/p-tuning": "aa.dir"}, params={}),
    ):
        pass
    assert TrackedHistory().producers("models/lama/p-tuning", "aa.dir") == []


def test_a_run_is_found_by_the_beginning_of_its_id(own_folder: Path) -> None:
    run_id = logged("aa.dir")
    history = TrackedHistory()
    for text in (run_id, run_id[:6]):
        found = history.find(text)
        assert found is not None
        assert found.run_id == run_id
    assert history.find("0" * 32) is None


def test_a_beginning_of_several_ids_is_an_error(own_folder: Path) -> None:
    client = mlflow.MlflowClient(f"sqlite:///{own_folder}/mlflow.db")
    ids = [client.create_run("0").info.run_id for _ in range(2)]
    with contextlib.closing(sqlite3.connect(own_folder / "mlflow.db")) as store, store:
        for number, run_id in enumerate(ids):
            own = f"abcdef{number:026}"
            for table in ("runs", "tags"):
                store.execute(f"UPDATE {table} SET run_uuid = '{own}' WHERE run_uuid = '{run_id}'")
    with pytest.raises(TrackingError, match="several run ids begin with abcdef: abcdef0000"):
        TrackedHistory().find("abcdef")


@pytest.mark.parametrize("text", ["", "%", "it's", "abcde", "ABCDEF", "a" * 33, "abcdef\n"])
def test_what_is_no_id_of_a_run_is_an_error(own_folder: Path, text: str) -> None:
    logged("aa.dir")
    with pytest.raises(TrackingError, match="invalid run id"):
        TrackedHistory().find(text)


def test_reading_makes_no_history(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    history = TrackedHistory()
    assert history.find("0" * 32) is None
    assert history.find_by_run_key("ab" * 32) == history.producers(SPLITS, DIGEST) == []
    assert list(tmp_path.iterdir()) == []


def test_a_history_that_cannot_be_read_is_an_error_without_a_password(
    own_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_run() as run:
        run.log_metrics({"dev/loss": 1.0})
    history = TrackedHistory()
    logged = history.find(run.run_id)
    assert logged is not None
    assert logged.metrics == {"dev/loss": 1.0}

    def gone(*_: object, **__: object) -> None:
        raise mlflow.MlflowException("http://me:secret@host is gone")

    monkeypatch.setattr(mlflow, "search_runs", gone)
    with pytest.raises(TrackingError, match=r"cannot be read: http://\*\*\*@host is gone"):
        history.find(run.run_id)


def test_a_restored_run_says_so(own_folder: Path) -> None:
    with open_run() as run:
        run.set_tags({"dvc.restored": "true"})
    found = TrackedHistory().find(run.run_id)
    assert found is not None
    assert found.restored
