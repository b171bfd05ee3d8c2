"""An MLflow that goes away in the middle of a stage: nothing is lost, nothing is logged twice."""

import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import pytest
import requests
from pipeline.history.sending import send_all
from typer.testing import CliRunner, Result

from pipeline.cli.app import app
from pipeline.errors import DataError, TrackingError
from pipeline.files import write_text
from pipeline.history import run as runs
from pipeline.history.events import Event, MlflowWriter, is_refusal
from pipeline.history.journal import Spool
from pipeline.history.store import store_identity
from tests.outage import Way, free_port, way_to
from tests.pipeline.history.test_run import STAGE, all_runs, history_of, open_run

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


def test_a_server_that_dies_in_the_middle_costs_neither_results_nor_history(
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
    told = capfd.readouterr().err
    assert told.count("warning: MLflow cannot be reached") == 1
    assert told.count(SEND) == 1
    (folder,) = kept(tmp_path)
    assert folder.name == run_id
    written = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
    assert b"secret" not in written
    assert "secret" not in told

    away = send()
    assert away.exit_code == 1
    assert "Nothing is lost" in away.stderr
    assert "secret" not in away.output
    with pytest.raises(TrackingError), open_run():
        raise AssertionError("a stage begins while the server is away")

    ended = int(time.time() * 1000)
    way.mend()
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
    entries = len(Spool(own_folder, run_id).unsent())
    assert entries > 10
    notes: list[str] = []

    def note_one_and_die_before_the_next(path: Path, text: str) -> None:
        notes.append(text)
        if len(notes) == 2:
            raise Killed
        write_text(path, text)

    monkeypatch.setattr("pipeline.history.journal.write_text", note_one_and_die_before_the_next)
    for _ in range(entries - 1):
        with pytest.raises(Killed):
            list(send_all())
        notes.clear()
    (delivery,) = send_all()
    assert (delivery.num_sent, delivery.refused) == (1, ())
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


def test_a_stage_that_is_killed_while_the_server_is_away_loses_nothing_that_it_logged(
    own_folder: Path,
) -> None:
    code = (
        "import os, signal\n"
        "from pipeline.history.events import MlflowWriter\n"
        "from tests.pipeline.history.test_outage import gone, open_run\n"
        "with open_run() as run:\n"
        "    run.log_metrics({'dev/loss': 3.0}, 0)\n"
        "    MlflowWriter.write = gone\n"
        "    run.log_metrics({'dev/loss': 2.0}, 1)\n"
        "    run.log_text('so far', 'note.txt')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    done = subprocess.run([sys.executable, "-c", code], check=False, env=environment, timeout=120)
    assert done.returncode == -signal.SIGKILL
    (delivery,) = send_all()
    assert delivery.num_sent == 2
    (run,) = all_runs()
    assert history_of(run.info.run_id, "dev/loss") == [(0, 3.0), (1, 2.0)]
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


def test_who_goes_on_in_a_run_sends_first_what_was_kept_of_it(
    own_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = leave_kept(monkeypatch)
    with open_run(resumes=run_id) as run:
        assert kept(own_folder) == []
        run.log_metrics({"dev/loss": 2.0}, 1)
        run.log_metrics({"dev/loss": 1.0}, 2)
    assert history_of(run_id, "dev/loss") == [(0, 3.0), (1, 2.0), (2, 1.0)]
    assert mlflow.get_run(run_id).info.status == "FINISHED"


def test_who_goes_on_in_a_run_knows_what_was_kept_of_its_attempts(
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


def test_a_stage_that_finds_the_server_back_sends_what_is_kept_itself(
    own_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("pipeline.history.journal._PAUSE_SECONDS", 0.0)
    monkeypatch.setattr("pipeline.history.journal._PAUSE_FACTOR", 0)
    with open_run() as run:
        with monkeypatch.context() as away:
            away.setattr(MlflowWriter, "write", gone)
            for epoch in range(3):
                run.log_metrics({"dev/loss": 3.0 - epoch}, epoch)
            with run.child("seed-1", tags={}, params={}) as child:
                child.log_metrics({"dev/loss": 0.5})
            assert kept(own_folder)
        run.log_metrics({"dev/loss": 0.0}, 3)
        assert kept(own_folder) == []
    assert history_of(run.run_id, "dev/loss") == [(0, 3.0), (1, 2.0), (2, 1.0), (3, 0.0)]
    told = capsys.readouterr().err
    assert told.count("warning") == 1
    assert {one.info.status for one in all_runs()} == {"FINISHED"}
    assert len(all_runs()) == 2


def test_what_a_running_stage_keeps_is_left_to_it(
    own_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as away, open_run() as run:
        away.setattr(MlflowWriter, "write", gone)
        run.log_text("kept", "note.txt")
        (delivery,) = send_all()
        assert (delivery.num_sent, delivery.trouble) == (0, "")
        assert delivery.num_pending == 1
    assert [one.num_sent for one in send_all()] == [5]  # with tags, trace, models, and the end


def leave_two_kept(monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    first = leave_kept(monkeypatch)
    with monkeypatch.context() as aside:
        aside.setattr(runs, "forward_logs", lambda _: [])
        return first, leave_kept(monkeypatch)


def test_what_was_kept_first_is_sent_first_also_after_a_try(
    own_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = leave_two_kept(monkeypatch)
    time.sleep(0.02)
    write_text(Spool(own_folder, both[0]).folder / "sent.txt", "0")
    assert [delivery.run_id for delivery in send_all()] == list(both)


def test_what_cannot_be_sent_keeps_back_what_was_kept_after_it(
    own_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = leave_two_kept(monkeypatch)
    send = MlflowWriter.write

    def send_unless_first(sender: MlflowWriter, entry: Event) -> None:
        if entry.run == both[0] and entry.kind == "end":
            gone()
        send(sender, entry)

    with monkeypatch.context() as troubled:
        troubled.setattr(MlflowWriter, "write", send_unless_first)
        first, second = send_all()
    assert (first.num_sent, first.num_pending, first.trouble) == (1, 1, "the server is gone")
    assert (second.num_sent, second.num_pending) == (0, 2)
    assert second.trouble == f"they come after those of train/lama/p-tuning {both[0][:10]}"
    assert [delivery.num_pending for delivery in send_all()] == [0, 0]
    assert kept(own_folder) == []


def test_what_is_never_taken_can_be_given_up_for_the_rest(
    own_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = leave_two_kept(monkeypatch)
    take = MlflowWriter.write

    def never(sender: MlflowWriter, entry: Event) -> None:
        if entry.run == both[0]:
            raise answered(500)
        take(sender, entry)

    monkeypatch.setattr(MlflowWriter, "write", never)
    troubled = send()
    assert troubled.exit_code == 1
    way_out = f"`ptune send --drop {both[0][:10]}` gives them up and sends the rest"
    assert troubled.stderr.count(way_out) == 1
    done = send("--drop", both[0][:10])
    assert done.exit_code == 0, done.output
    assert f"what was kept of run {both[0]} is dropped" in done.stdout
    assert f"{both[1][:10]}: 2 entries sent" in done.stdout
    assert kept(own_folder) == []


def test_what_to_give_up_is_one_run_of_those_that_are_kept(
    own_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing = send("--drop", "x")
    assert "--drop x: nothing to send: MLflow has all that was logged" in nothing.stderr
    both = leave_two_kept(monkeypatch)
    unknown, several = send("--drop", "x"), send("--drop", "")
    runs_kept = ", ".join(sorted(both))
    assert f"--drop x: no such run; there are entries of {runs_kept}\n" in unknown.stderr
    assert f"--drop : name one of the runs {runs_kept}\n" in several.stderr
    with Spool(own_folder, both[0]).lock():
        running = send("--drop", both[0])
    assert "its stage still runs; stop it first" in running.stderr
    assert {done.exit_code for done in (nothing, unknown, several, running)} == {1}
    assert len(kept(own_folder)) == 2


def test_what_is_kept_and_cannot_be_read_is_told_and_can_be_given_up(
    own_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = leave_two_kept(monkeypatch)
    path = Spool(own_folder, both[0]).folder / "entries.jsonl"
    first, _, *rest = path.read_text().splitlines(keepends=True)
    path.write_text("".join([first, "{half of\n", *rest]))
    done = send()
    assert done.exit_code == 1
    assert "entries.jsonl: cannot be read, at '{half of'; mend the file, or give up" in (
        done.stderr
    )
    assert f"`ptune send --drop {both[0][:10]}`" in done.stderr
    assert send("--drop", both[0]).exit_code == 0
    assert kept(own_folder) == []


def test_a_stage_that_starts_sends_first_what_the_runs_before_it_kept(
    own_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = {"models/lama/p-tuning": "aa.dir"}
    with monkeypatch.context() as away:
        away.setattr(runs, "output_hashes", lambda: output)
        with open_run() as training:
            away.setattr(MlflowWriter, "write", gone)
    assert kept(own_folder)
    with open_run(replace(STAGE, name="evaluate-lama@p-tuning", inputs=output)) as run:
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
        troubled.setattr(Spool, "send", gone)
        with open_run():
            pass
    told = capsys.readouterr().err
    assert "train/lama/p-tuning: 2 log entries are kept still (the server is gone)" in told
    (own_folder / ".work/unsent" / run_id / "entries.jsonl").write_text("{\n{\n")
    with open_run():
        pass
    assert "what earlier runs kept is not sent" in capsys.readouterr().err


def test_what_belongs_to_another_store_stays(
    own_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_kept(monkeypatch)
    before = [path.read_bytes() for path in sorted(kept(own_folder)[0].iterdir())]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{own_folder}/other.db")
    shutil.copyfile(own_folder / "mlflow.db", own_folder / "other.db")
    result = send()
    assert result.exit_code == 1
    assert "they belong to mlflow.db; set MLFLOW_TRACKING_URI to it" in result.stderr
    assert [path.read_bytes() for path in sorted(kept(own_folder)[0].iterdir())] == before


def test_what_mlflow_will_never_take_holds_nothing_up(
    own_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with open_run() as run:
        run.log_metrics({"a bad name?!": 1.0}, 0)
        run.log_file(Path("none.csv"))
        run.log_metrics({"dev/loss": 1.0}, 0)
    assert kept(own_folder) == []
    assert capsys.readouterr().err.count("warning: MLflow refuses a log entry") == 1
    assert history_of(run.run_id, "dev/loss") == [(0, 1.0)]

    run_id = leave_kept(monkeypatch)
    mlflow.MlflowClient().delete_run(run_id)
    (delivery,) = send_all()
    assert delivery.num_sent == 0
    assert len(delivery.refused) == 2
    assert kept(own_folder) == []


def answered(status: int) -> requests.HTTPError:
    response = requests.Response()
    response.status_code = status
    return requests.HTTPError(f"{status} of http://me:secret@host", response=response)


@pytest.mark.parametrize(
    ("status", "refused"),
    [
        (400, True), (413, True), (415, True), (401, False), (403, False), (404, False),
        (408, False), (429, False), (500, False), (502, False),
    ],
)  # fmt: skip
def test_an_answer_to_a_file_tells_a_refusal_from_an_outage(status: int, refused: bool) -> None:
    assert is_refusal(answered(status)) == refused


def test_a_file_that_a_proxy_never_lets_through_holds_nothing_up(
    own_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def too_large(*_: object) -> None:
        raise answered(413)

    monkeypatch.setattr(mlflow.MlflowClient, "log_artifact", too_large)
    Path("table.csv").write_text("a,b\n")
    with open_run() as run:
        run.log_file(Path("table.csv"))
        run.log_metrics({"dev/loss": 1.0}, 0)
    assert kept(own_folder) == []
    assert history_of(run.run_id, "dev/loss") == [(0, 1.0)]
    told = capsys.readouterr().err
    assert "MLflow refuses a log entry (413" in told
    assert "secret" not in told


def test_a_file_or_line_that_a_kill_cut_is_passed_over(
    own_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = leave_kept(monkeypatch)
    entries = own_folder / ".work/unsent" / run_id / "entries.jsonl"
    whole = entries.read_bytes()
    entries.write_bytes(whole[:-20])
    assert [entry.kind for entry in Spool(own_folder, run_id).unsent()] == ["metrics"]
    entries.write_bytes(whole[:10])
    assert list(send_all()) == []
    assert kept(own_folder) == []


def test_a_full_disk_costs_entries_and_no_result(
    own_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as away, open_run() as run:
        away.setattr(MlflowWriter, "write", gone)
        run.log_metrics({"dev/loss": 3.0}, 0)
        with away.context() as small:
            small.setattr(os, "fsync", full)
            run.log_metrics({"dev/loss": 2.0}, 1)
        run.log_metrics({"dev/loss": 1.0}, 2)
    assert "neither sent nor kept ([Errno 28] No space left" in capsys.readouterr().err
    assert [one.trouble for one in send_all()] == [""]
    assert history_of(run.run_id, "dev/loss") == [(0, 3.0), (2, 1.0)]


class Keeping:
    """A store that keeps whatever it is told, as often as it is told."""

    def __init__(self) -> None:
        self.points: list[tuple[str, float, int]] = []
        self.fails = False

    def MlflowClient(self) -> "Keeping":
        return self

    def log_batch(self, _: str, metrics: list[mlflow.entities.Metric]) -> None:
        self.points += [(metric.key, metric.value, metric.step) for metric in metrics]
        if self.fails:
            raise TimeoutError("no answer")

    def get_metric_history(self, _: str, key: str) -> list[mlflow.entities.Metric]:
        return [mlflow.entities.Metric(k, v, 0, step) for k, v, step in self.points if k == key]


def test_a_metric_has_one_value_for_a_step_whatever_becomes_of_its_calls() -> None:
    store: Any = Keeping()
    sender = MlflowWriter(store, {})
    first, second = (
        Event("metrics", "0" * 32, {"step": step, "metrics": {"dev/loss": 1.0 - step}})
        for step in (0, 1)
    )
    sender.write(first)
    sender.write(first)
    store.fails = True
    with pytest.raises(TimeoutError):
        sender.write(second)
    store.fails = False
    sender.write(second)
    MlflowWriter(store, {}, check_existing=True).send(second)
    assert store.points == [("dev/loss", 1.0, 0), ("dev/loss", 0.0, 1)]


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("http://me:p@ss@host:5000/x?token=1", "http://host:5000/x"),
        ("postgresql://u:p@db/mlflow", "postgresql://db/mlflow"),
    ],
)
def test_the_name_of_a_store_holds_no_secret(
    monkeypatch: pytest.MonkeyPatch, address: str, said: str
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    assert store_identity() == said
