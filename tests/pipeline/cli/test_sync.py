"""What is told of `ptune sync`; the whole of it is tried in tests/test_pipeline.py."""

from pathlib import Path

import pytest
from ruamel.yaml import YAML
from typer.testing import CliRunner, Result

from pipeline.cli.app import app
from pipeline.history import run as runs
from pipeline.history.events import MlflowWriter
from pipeline.workflow.lock import read_lock
from pipeline.workflow.project import StageIdentity
from tests.pipeline.history.test_run import all_runs, open_run

STAGE = "train-lama@p-tuning"
OUTPUT = {"models/lama/p-tuning": "aa.dir"}
ENTRY = {
    "cmd": "python -m stages.train lama p-tuning",
    "deps": [{"path": "data/splits/lama", "md5": "0123.dir"}],
    "outs": [{"path": path, "md5": md5} for path, md5 in OUTPUT.items()],
}


@pytest.fixture(autouse=True)
def _lock(own_folder: Path) -> None:
    YAML().dump({"schema": "2.0", "stages": {STAGE: ENTRY}}, own_folder / "dvc.lock")


def sync() -> Result:
    return CliRunner().invoke(app, ["sync"])


def gone(*_: object, **__: object) -> None:
    raise ConnectionError("http://me:secret@host is gone")


def train_while_the_server_goes(monkeypatch: pytest.MonkeyPatch) -> str:
    """Leave a run whose end is kept, and return its id."""
    own = read_lock(Path("dvc.lock"))[STAGE]
    identity = StageIdentity(
        STAGE, own.command, inputs=dict(own.inputs), outputs=tuple(OUTPUT), run_key=own.run_key
    )
    with monkeypatch.context() as away:
        away.setattr(runs, "output_hashes", lambda: OUTPUT)
        with open_run(identity) as run:
            away.setattr(MlflowWriter, "write", gone)
    return run.run_id


def test_an_execution_whose_end_is_kept_gets_no_second_run(
    own_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = train_while_the_server_goes(monkeypatch)
    done = sync()
    assert done.exit_code == 0, done.output
    assert f"train/lama/p-tuning {run_id[:10]}: 4 events sent" in done.stdout
    assert "created runs for 0 of 1 entries" in done.stdout
    assert [run.info.run_id for run in all_runs()] == [run_id]


def test_what_cannot_be_sent_stops_before_a_second_run_is_made(
    own_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = train_while_the_server_goes(monkeypatch)
    with monkeypatch.context() as away:
        away.setattr(MlflowWriter, "write", gone)
        done = sync()
    assert done.exit_code == 1
    assert "run `ptune sync` again after `ptune send` has sent them" in done.stderr
    assert "secret" not in done.output
    assert [run.info.run_id for run in all_runs()] == [run_id]


def test_what_was_given_up_gets_a_run_from_what_dvc_has_of_it(
    own_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = train_while_the_server_goes(monkeypatch)
    assert CliRunner().invoke(app, ["send", "--drop", run_id]).exit_code == 0
    assert "created runs for 1 of 1 entries" in sync().stdout
    assert "created runs for 0 of 1 entries" in sync().stdout
    assert len(all_runs()) == 2


def test_what_is_kept_for_another_store_stops_nothing(
    own_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_while_the_server_goes(monkeypatch)
    (own_folder / "mlflow.db").rename(own_folder / "other.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{own_folder}/other.db")
    assert "created runs for 1 of 1 entries" in sync().stdout


@pytest.mark.parametrize("restored", [False, True])
def test_a_store_that_fails_is_reported_without_a_password(
    own_folder: Path, monkeypatch: pytest.MonkeyPatch, restored: bool
) -> None:
    if restored:  # the list of models is still asked
        sync()
    monkeypatch.setattr(MlflowWriter, "write", gone)
    done = sync()
    assert done.exit_code == 1
    assert f"{STAGE}: MLflow failed" in done.stderr
    assert "http://***@host is gone" in done.stderr
    assert "secret" not in done.output


def test_the_first_call_makes_the_history_and_the_second_adds_nothing(own_folder: Path) -> None:
    (own_folder / "mlflow.db").unlink()
    assert "created runs for 1 of 1 entries" in sync().stdout
    assert "created runs for 0 of 1 entries" in sync().stdout
