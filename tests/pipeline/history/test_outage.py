"""An MLflow that goes away in the middle of a stage: nothing is lost, nothing is logged twice."""

import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import pytest
from typer.testing import CliRunner, Result

from pipeline.cli.app import app
from pipeline.errors import DataError, TrackingError
from pipeline.history import run as runs
from pipeline.history.events import Event, MlflowWriter
from pipeline.history.journal import EventLog, SendReport, send_all
from tests.outage import Way, free_port, way_to
from tests.pipeline.history.test_run import STAGE, all_runs, history_of, open_run
from tests.project import ROOT
from tests.project import run as run_program

SEND = "send them with `ptune send`"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Iterator[int]:
    """The port of a real server."""
    folder = tmp_path_factory.mktemp("server")
    shutil.copyfile(empty_store, folder / "mlflow.db")
    port = free_port()
    options = {
        "--backend-store-uri": f"sqlite:///{folder}/mlflow.db", "--port": str(port),
        "--artifacts-destination": str(folder / "artifacts"), "--workers": "1",
    }  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-m", "mlflow", "server", *(p for pair in options.items() for p in pair)],
        env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        for _ in range(600):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
                break
            except OSError:
                assert process.poll() is None
                time.sleep(0.1)
        yield port
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture
def way(server: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Way]:
    """The way to the server, with a password; the current folder is the test's own."""
    monkeypatch.chdir(tmp_path)
    with way_to(server) as way:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:secret@127.0.0.1:{way.port}")
        yield way


def send(*arguments: str) -> Result:
    """Call `ptune send`."""
    return CliRunner().invoke(app, ["send", *arguments])


def a_stage(in_the_middle: Callable[[], None] = lambda: None) -> str:
    """Log all that stages log, and return the run's id."""
    about: dict[str, Any] = {"tags": {"task": "rte"}, "params": {"seed": 1, "model": {"x": 0.5}}}
    Path("table.csv").write_text("a,b\n")
    with open_run() as run:
        run.log_dataset("lama/geonames", "data/splits/lama", "0123.dir", "training")
        run.log_metrics({"dev/loss": 3.0, "dev/score": 0.1}, 0)
        with run.child("setting-1/seed-1", **about) as child:
            child.log_metrics({"dev/loss": 2.0}, 0)
            in_the_middle()
            child.log_metrics({"dev/loss": 1.5}, 1)
        with run.child("setting-1/seed-2", **about) as child:
            for epoch in range(3):
                child.log_metrics({"dev/loss": 2.0 - epoch / 10, "train/loss": 1.0}, epoch)
        run.log_dataset("lama/geonames", "data/model", "4567.dir", "evaluation")
        run.log_metrics({"dev/loss": 2.5, "dev/score": 0.2}, 1)
        run.log_file(Path("table.csv"))
        Path("table.csv").write_text("c,d\n")
        run.log_file(Path("table.csv"), "later")
        run.log_text("Ünïcode\n\u2028line", "texts/note.txt")
        run.set_tags({"model": "tiny", "long": "x" * 6000})
        run.log_metrics({"seconds": 4.5}, run.attempt)
    return run.run_id


def picture(run_id: str) -> dict[str, Any]:
    """All that the history has of a run and of those below it, but for names made up and times."""
    client = mlflow.MlflowClient()
    run = client.get_run(run_id)
    below = client.search_runs(
        [run.info.experiment_id],
        f"tags.`mlflow.parentRunId` = '{run_id}'",
        order_by=["attributes.start_time ASC"],
    )
    names, folders = [], [""]
    while folders:
        for found in client.list_artifacts(run_id, folders.pop()):
            (folders if found.is_dir else names).append(found.path)
    shown = {"mlflow.parentRunId", "process"}
    return {
        "name": run.info.run_name,
        "status": run.info.status,
        "params": run.data.params,
        "tags": {key: value for key, value in run.data.tags.items() if key not in shown},
        "metrics": {key: history_of(run_id, key) for key in run.data.metrics},
        "files": {
            name: mlflow.artifacts.load_text(f"runs:/{run_id}/{name}")
            for name in names
            if name != "lineage.txt"
        },
        "datasets": sorted(
            (one.dataset.name, one.dataset.digest, one.dataset.source, one.tags[0].value)
            for one in run.inputs.dataset_inputs
        ),
        "below": [picture(one.info.run_id) for one in below],
    }


def kept(root: Path) -> list[Path]:
    return [path for path in (root / ".work" / "unsent").glob("*") if path.is_dir()]


@pytest.mark.slow
def test_a_server_that_dies_during_a_stage_costs_neither_results_nor_history(
    way: Way, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    expected = picture(a_stage())
    assert expected["status"] == "FINISHED"
    assert len(expected["below"]) == 2
    assert expected["below"][1]["metrics"]["dev/loss"] == [(0, 2.0), (1, 1.9), (2, 1.8)]
    assert expected["files"]["later/table.csv"] == "c,d\n"
    assert kept(tmp_path) == []

    capfd.readouterr()
    started = time.monotonic()
    run_id = a_stage(in_the_middle=way.cut)
    assert time.monotonic() - started < 60
    warnings = capfd.readouterr().err
    assert warnings.count("warning: MLflow cannot be reached") == 1
    assert warnings.count(SEND) == 1
    (folder,) = kept(tmp_path)
    assert folder.name == run_id
    written = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
    assert b"secret" not in written
    assert "secret" not in warnings

    away = send()
    assert away.exit_code == 1
    assert "Nothing is lost" in away.stderr
    assert "secret" not in away.output
    with pytest.raises(TrackingError), open_run():
        raise AssertionError("a stage begins while the server is away")

    ended = int(time.time() * 1000)
    way.restore()
    sent = send()
    assert sent.exit_code == 0, sent.output
    assert f"train/lama/p-tuning {run_id[:10]}: " in sent.stdout
    assert picture(run_id) == expected
    client = mlflow.MlflowClient()
    times = [point.timestamp for point in client.get_metric_history(run_id, "dev/loss")]
    assert max(times) < ended
    assert client.get_run(run_id).info.end_time < ended
    assert kept(tmp_path) == []

    again = send()
    assert again.exit_code == 0
    assert "nothing to send" in again.stdout
    assert picture(run_id) == expected


def pending(run_id: str) -> deque[Event]:
    log = EventLog(run_id)
    log.load()
    return log.pending


def gone(*_: object) -> None:
    raise ConnectionError("the server is gone")


class Killed(BaseException):
    pass


def test_a_send_that_is_killed_after_every_entry_logs_nothing_twice(
    own_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = picture(a_stage())
    with monkeypatch.context() as away:
        run_id = a_stage(in_the_middle=lambda: away.setattr(MlflowWriter, "write", gone))
    entries = len(pending(run_id))
    assert entries > 10
    notes: list[EventLog] = []
    note_position = EventLog._note_position

    def note_one_and_die_before_the_next(log: EventLog) -> None:
        notes.append(log)
        if len(notes) == 2:
            raise Killed
        note_position(log)

    monkeypatch.setattr(EventLog, "_note_position", note_one_and_die_before_the_next)
    reports: list[SendReport] = []
    while not reports:
        notes.clear()
        with suppress(Killed):
            reports += send_all()
        left = len(pending(run_id))
        assert left < entries
        entries = left
    assert [(report.num_sent, report.refused) for report in reports] == [(1, ())]
    assert picture(run_id) == expected
    assert kept(own_folder) == []


def test_an_entry_that_arrived_although_its_call_failed_is_not_logged_twice(
    own_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = picture(a_stage())
    log_batch = mlflow.MlflowClient.log_batch

    def log_and_fail(*arguments: Any, **named: Any) -> None:
        log_batch(*arguments, **named)
        raise TimeoutError("no answer")

    with monkeypatch.context() as away:
        patch = lambda: away.setattr(mlflow.MlflowClient, "log_batch", log_and_fail)  # noqa: E731
        run_id = a_stage(in_the_middle=patch)
    list(send_all())
    assert picture(run_id) == expected


def killed_stage(root: Path, *lines: str) -> None:
    """Run a stage in another process; lines of its code, then kill -9."""
    code = "\n    ".join(
        [
            "import os, signal\n"
            "from pipeline.history.events import MlflowWriter\n"
            "from tests.pipeline.history.test_outage import gone, open_run\n"
            "with open_run() as run:",
            *lines,
            "os.kill(os.getpid(), signal.SIGKILL)",
        ]
    )
    done = run_program(root, "python", "-c", code, check=False, PYTHONPATH=str(ROOT))
    assert done.returncode == -signal.SIGKILL


def test_metrics_that_wait_for_others_survive_a_kill(own_folder: Path) -> None:
    killed_stage(
        own_folder,
        "for epoch in range(3):",
        "    run.log_metrics({'dev/loss': float(epoch)}, epoch)",
    )
    list(send_all())
    (run,) = all_runs()
    assert history_of(run.info.run_id, "dev/loss") == [(0, 0.0), (1, 1.0), (2, 2.0)]


@pytest.mark.slow
def test_a_stage_that_is_killed_while_the_server_is_away_loses_nothing_that_it_logged(
    own_folder: Path,
) -> None:
    killed_stage(
        own_folder,
        "run.log_metrics({'dev/loss': 3.0}, 0)",
        "MlflowWriter.write = gone",
        "run.log_metrics({'dev/loss': 2.0}, 1)",
        "run.log_text('so far', 'note.txt')",
        "run.log_metrics({'dev/loss': 1.0}, 2)",
    )
    (report,) = send_all()
    assert report.num_sent == 3
    (run,) = all_runs()
    assert history_of(run.info.run_id, "dev/loss") == [(0, 3.0), (1, 2.0), (2, 1.0)]
    assert mlflow.artifacts.load_text(f"runs:/{run.info.run_id}/note.txt") == "so far"
    assert run.info.status == "RUNNING"  # until the next run of its key


def leave_kept(monkeypatch: pytest.MonkeyPatch) -> str:
    """Leave a run that was killed while the server was away."""
    with monkeypatch.context() as away, suppress(KeyboardInterrupt), open_run() as run:
        run.log_metrics({"dev/loss": 3.0}, 0)
        away.setattr(MlflowWriter, "write", gone)
        run.log_metrics({"dev/loss": 2.0}, 1)
        raise KeyboardInterrupt
    return run.run_id


def test_a_resumed_run_first_sends_its_kept_events(
    own_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = leave_kept(monkeypatch)
    with open_run(resumes=run_id) as run:
        assert not pending(run_id)
        run.log_metrics({"dev/loss": 2.0}, 1)
        run.log_metrics({"dev/loss": 1.0}, 2)
    assert history_of(run_id, "dev/loss") == [(0, 3.0), (1, 2.0), (2, 1.0)]
    assert mlflow.get_run(run_id).info.status == "FINISHED"


def test_a_resumed_run_counts_the_attempts_in_its_kept_events(
    own_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with suppress(KeyboardInterrupt), open_run() as run:
        raise KeyboardInterrupt
    # `ptune send` may be at what is kept as a stage starts: then it is not sent before.
    monkeypatch.setattr(runs, "forward_logs", lambda _: [])
    with monkeypatch.context() as away, suppress(DataError):
        opened = runs._open_run

        def open_and_go(*arguments: Any) -> str:
            run_id = opened(*arguments)
            away.setattr(MlflowWriter, "write", gone)
            return run_id

        away.setattr(runs, "_open_run", open_and_go)
        with open_run(resumes=run.run_id):
            raise DataError("the disk is full")
    with open_run(resumes=run.run_id) as again:
        assert again.attempt == 3
    logged = mlflow.get_run(run.run_id)
    assert logged.info.status == "FINISHED"
    assert logged.data.tags["attempt"] == "3"
    assert "error" not in logged.data.tags


def test_a_stage_that_starts_sends_first_what_the_runs_before_it_kept(
    own_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = {"models/lama/p-tuning": "aa.dir"}
    with monkeypatch.context() as away:
        away.setattr(runs, "output_hashes", lambda: output)
        with open_run() as training:
            away.setattr(MlflowWriter, "write", gone)
    assert kept(own_folder)
    with open_run(replace(STAGE, stage="evaluate-lama@p-tuning", inputs=output)) as run:
        assert mlflow.get_run(training.run_id).info.status == "FINISHED"
    assert kept(own_folder) == []
    tags = mlflow.get_run(run.run_id).data.tags
    assert tags["made_from.models/lama/p-tuning"] == training.run_id


def test_what_cannot_be_sent_stops_no_stage_that_starts(
    own_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_id = leave_kept(monkeypatch)
    capsys.readouterr()
    with monkeypatch.context() as troubled:
        troubled.setattr(EventLog, "forward", gone)
        with open_run():
            pass
    warnings = capsys.readouterr().err
    assert "train/lama/p-tuning: 2 log events are still kept (the server is gone)" in warnings
    (own_folder / ".work/unsent" / run_id / "entries.jsonl").write_text("{\n{\n")
    with open_run():
        pass
    assert "events of earlier runs are not sent" in capsys.readouterr().err


def test_what_mlflow_will_never_take_holds_nothing_up(
    own_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with open_run() as run:
        run.log_metrics({"a bad name?!": 1.0}, 0)
        run.log_file(Path("none.csv"))
        run.log_metrics({"dev/loss": 1.0}, 0)
    assert kept(own_folder) == []
    assert capsys.readouterr().err.count("warning: MLflow refuses a log event") == 1
    assert history_of(run.run_id, "dev/loss") == [(0, 1.0)]

    run_id = leave_kept(monkeypatch)
    mlflow.MlflowClient().delete_run(run_id)
    (report,) = send_all()
    assert report.num_sent == 0
    assert len(report.refused) == 2
    assert kept(own_folder) == []
