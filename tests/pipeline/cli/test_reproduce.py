"""What `ptune reproduce` says; that it makes a run again is tried in tests/test_pipeline.py."""

from dataclasses import replace
from pathlib import Path

import mlflow
import pytest
from typer.testing import CliRunner, Result

from pipeline.cli import history as command
from pipeline.cli.app import app
from pipeline.files import write_json
from tests.pipeline.history.test_run import STAGE, open_run
from tests.project import run as shell

METRICS = "metrics/lama/p-tuning.json"


def reproduce(run_id: str) -> Result:
    return CliRunner().invoke(app, ["reproduce", run_id])


@pytest.fixture
def run_id(own_folder: Path) -> str:
    """A finished run of a clean commit."""
    (own_folder / "params.yaml").write_text("seed: 34\n")
    shell(own_folder, "git", "init", "-q")
    shell(own_folder, "git", "add", "params.yaml")
    shell(own_folder, "git", "commit", "-qm", "start")
    with open_run(replace(STAGE, inputs={})) as run:
        run.log_metrics({"dev/score": 0.5})
        run.set_tags({f"dvc.out.{METRICS}": "aa"})
    return run.run_id


def gone(*_: object, **__: object) -> None:
    raise mlflow.MlflowException("http://me:secret@host is gone")


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

    monkeypatch.setattr(command, "_repro", work)
    done = reproduce(run_id)
    assert done.exit_code == 1, done.output
    assert f"different  {METRICS}" in done.stdout
    assert "dev/score: 0.5, now 0.75" in done.stdout


def test_metrics_that_cannot_be_read_stop_before_any_work(
    run_id: str, own_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worked: list[str] = []
    monkeypatch.setattr(command, "_repro", lambda *_: worked.append("a stage"))
    monkeypatch.setattr(mlflow, "get_run", gone)
    done = reproduce(run_id)
    assert done.exit_code == 1
    assert "cannot be read: http://***@host is gone" in done.stderr
    assert not worked
    assert not (own_folder / ".work" / "reproduced").exists()


@pytest.mark.parametrize("text", ["it's", "", "%"])
def test_what_is_no_id_of_a_run_is_told_in_one_line(own_folder: Path, text: str) -> None:
    done = reproduce(text)
    assert done.exit_code == 1
    assert done.stderr == (f'error: invalid run id "{text}": expected 6 to 32 hex digits\n')
