"""Messages of the commands on the history; tests/test_pipeline.py runs them on a project."""

from dataclasses import replace
from pathlib import Path

import mlflow
import pytest
from ruamel.yaml import YAML
from typer.testing import CliRunner, Result

from pipeline.cli import history as command
from pipeline.cli.app import app
from pipeline.files import write_json
from pipeline.history import run as runs
from pipeline.history.events import MlflowWriter
from pipeline.workflow.lock import read_lock
from pipeline.workflow.project import StageIdentity
from tests.pipeline.history.test_run import STAGE, all_runs, open_run
from tests.project import run as shell


@pytest.mark.parametrize(
    ("command", "code", "said"),
    [
        (("lineage", "foo"), 1, "foo: not an output or stage of dvc.lock, nor a run"),
        (("lineage", "abcdef"), 1, "abcdef: not an output or stage of dvc.lock, nor a run"),
        (("reproduce", "abcdef"), 1, "abcdef: the history has no stage run with this id"),
        (("sync",), 0, "created runs for 0 of 0 entries"),
        (("send",), 0, "nothing to send"),
    ],
)
def test_a_command_that_reads_makes_no_history(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...], code: int, said: str
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, command)
    assert done.exit_code == code
    assert said in done.output
    assert list(tmp_path.iterdir()) == []


METRICS = "metrics/lama/p-tuning.json"


def reproduce(run_id: str) -> Result:
    return CliRunner().invoke(app, ["reproduce", run_id])


@pytest.fixture
def run_id(own_folder: Path) -> str:
    """A finished run of a clean commit."""
    (own_folder / "params.yaml").write_text("seed: 34\n")
    shell(own_folder, "git", "init", "-q")
    (own_folder / "dvc.yaml").write_text("stages: {}\n")
    shell(own_folder, "git", "add", "params.yaml", "dvc.yaml")
    shell(own_folder, "git", "commit", "-qm", "start")
    with open_run(replace(STAGE, inputs={})) as run:
        run.log_metrics({"dev/score": 0.5})
        run.set_tags({f"dvc.out.{METRICS}": "aa"})
    return run.run_id


def gone(*_: object, **__: object) -> None:
    raise ConnectionError("http://me:secret@host is gone")


def test_a_server_that_goes_away_during_the_work_costs_no_result(
    run_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def work(folder: Path, _: Path, stage: str) -> None:
        write_json(folder / METRICS, {"dev/score": 0.75})
        (folder / "dvc.lock").write_text(
            f"schema: '2.0'\nstages:\n  {stage}:\n    cmd: {STAGE.command}\n"
            f"    outs:\n    - path: {METRICS}\n      md5: bb\n"
        )
        monkeypatch.setattr(mlflow, "get_run", gone)
        monkeypatch.setattr(mlflow, "search_runs", gone)

    monkeypatch.setattr(command, "_repro", work)
    done = reproduce(run_id)
    assert done.exit_code == 1, done.output
    assert f"different  {METRICS}" in done.stdout
    assert "dev/score: 0.5, now 0.75" in done.stdout


def test_a_run_that_cannot_be_read_stops_before_any_work(
    run_id: str, own_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worked: list[str] = []
    monkeypatch.setattr(command, "_repro", lambda *_: worked.append("a stage"))
    monkeypatch.setattr(mlflow, "search_runs", gone)
    done = reproduce(run_id)
    assert done.exit_code == 1
    assert "cannot be read: http://***@host is gone" in done.stderr
    assert not worked
    assert not (own_folder / ".work" / "reproduced").exists()


@pytest.mark.parametrize("text", ["it's", "", "%"])
def test_what_is_no_id_of_a_run_is_reported_in_one_line(own_folder: Path, text: str) -> None:
    done = reproduce(text)
    assert done.exit_code == 1
    assert done.stderr == (f'error: invalid run id "{text}": expected 6 to 32 hex digits\n')


NAME = "train-lama@p-tuning"
OUTPUT = {"models/lama/p-tuning": "aa.dir"}
ENTRY = {
    "cmd": "python -m stages.train lama p-tuning",
    "deps": [{"path": "data/splits/lama", "md5": "0123.dir"}],
    "outs": [{"path": path, "md5": md5} for path, md5 in OUTPUT.items()],
}


@pytest.fixture
def _lock(own_folder: Path) -> None:
    YAML().dump({"schema": "2.0", "stages": {NAME: ENTRY}}, own_folder / "dvc.lock")


def sync() -> Result:
    return CliRunner().invoke(app, ["sync"])


def train_while_the_server_goes(monkeypatch: pytest.MonkeyPatch) -> str:
    """Leave a run whose end is kept, and return its id."""
    own = read_lock(Path("dvc.lock"))[NAME]
    identity = StageIdentity(NAME, own.command, inputs=dict(own.inputs), run_key=own.run_key)
    with monkeypatch.context() as away:
        away.setattr(runs, "output_hashes", lambda: OUTPUT)
        with open_run(identity) as run:
            away.setattr(MlflowWriter, "write", gone)
    return run.run_id


@pytest.mark.usefixtures("_lock")
def test_an_execution_whose_end_is_kept_gets_no_second_run(
    own_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = train_while_the_server_goes(monkeypatch)
    done = sync()
    assert done.exit_code == 0, done.output
    assert f"train/lama/p-tuning {run_id[:10]}: 5 events sent" in done.stdout
    assert "created runs for 0 of 1 entries" in done.stdout
    assert [run.info.run_id for run in all_runs()] == [run_id]


@pytest.mark.usefixtures("_lock")
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


@pytest.mark.usefixtures("_lock")
def test_what_was_given_up_gets_a_run_from_what_dvc_has_of_it(
    own_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = train_while_the_server_goes(monkeypatch)
    assert CliRunner().invoke(app, ["send", "--drop", run_id]).exit_code == 0
    assert "created runs for 1 of 1 entries" in sync().stdout
    assert "created runs for 0 of 1 entries" in sync().stdout
    assert len(all_runs()) == 2


@pytest.mark.usefixtures("_lock")
def test_what_is_kept_for_another_store_stops_nothing(
    own_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_while_the_server_goes(monkeypatch)
    (own_folder / "mlflow.db").rename(own_folder / "other.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{own_folder}/other.db")
    assert "created runs for 1 of 1 entries" in sync().stdout


@pytest.mark.usefixtures("_lock")
@pytest.mark.parametrize("restored", [False, True])
def test_a_store_that_fails_is_reported_without_a_password(
    own_folder: Path, monkeypatch: pytest.MonkeyPatch, restored: bool
) -> None:
    if restored:  # the list of models is still asked
        sync()
    monkeypatch.setattr(MlflowWriter, "write", gone)
    done = sync()
    assert done.exit_code == 1
    assert f"{NAME}: MLflow failed" in done.stderr
    assert "http://***@host is gone" in done.stderr
    assert "secret" not in done.output


@pytest.mark.usefixtures("_lock")
def test_the_first_call_makes_the_history_and_the_second_adds_nothing(own_folder: Path) -> None:
    (own_folder / "mlflow.db").unlink()
    assert "created runs for 1 of 1 entries" in sync().stdout
    assert "created runs for 0 of 1 entries" in sync().stdout
