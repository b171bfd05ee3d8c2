import contextlib
import shutil
import socket
import sqlite3
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import pytest

from pipeline.errors import DataError, TrackingError
from pipeline.history import run as runs
from pipeline.history.context import machine_tags
from pipeline.history.run import StageRun, stage_run
from pipeline.workflow.command import StageInfo
from pipeline.workflow.project import StageIdentity
from tests.project import ROOT
from tests.project import run as shell
from tests.server import serving

STAGE = StageIdentity(
    stage="train-lama@p-tuning",
    command="python -m stages.train lama p-tuning",
    params={"seed": 34, "lama": {"training": {"tune": ["prompt"], "epochs": 4}, "empty": {}}},
    inputs={"data/splits/lama": "0123456789abcdef0123456789abcdef.dir"},
    run_key="ab" * 32,
    experiment="quick-fox",
)


def open_run(stage: StageIdentity | None = STAGE, *, resumes: str | None = None):
    return stage_run(stage, StageInfo("train", "lama", method="p-tuning"), resumes=resumes)


def all_runs() -> list[mlflow.entities.Run]:
    return mlflow.search_runs(search_all_experiments=True, output_format="list")


def only_run() -> mlflow.entities.Run:
    (run,) = all_runs()
    return run


def test_a_run_holds_what_identifies_the_stage(own_folder: Path) -> None:
    with open_run() as run:
        run.log_metrics({"dev/p_at_1": 0.25}, epoch=1)
        run.log_metrics({"dev/p_at_1": 0.5}, epoch=2)
    logged = only_run()
    assert logged.info.status == "FINISHED"
    assert logged.info.run_name == "p-tuning lama"
    assert logged.data.params == {
        "seed": "34", "lama.training.tune": "['prompt']", "lama.training.epochs": "4",
        "lama.empty": "{}",
    }  # fmt: skip
    tags = logged.data.tags
    assert tags["dvc.run_key"] == STAGE.run_key
    assert tags["dvc.stage"] == STAGE.stage
    assert tags["dvc.experiment"] == "quick-fox"
    assert tags["dvc.dep.data/splits/lama"] == STAGE.inputs["data/splits/lama"]
    assert tags["method"] == "p-tuning"
    assert STAGE.command in tags["mlflow.note.content"]
    history = mlflow.MlflowClient().get_metric_history(logged.info.run_id, "dev/p_at_1")
    assert [(point.step, point.value) for point in history] == [(1, 0.25), (2, 0.5)]


def test_epochs_that_follow_one_another_closely_are_logged_together(
    own_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = []
    log_batch = mlflow.MlflowClient.log_batch

    def counted(client: mlflow.MlflowClient, run_id: str, **entities: Any) -> None:
        requests.append([(m.value, m.step) for m in entities.get("metrics", ())])
        log_batch(client, run_id, **entities)

    monkeypatch.setattr(mlflow.MlflowClient, "log_batch", counted)
    now = 0.0
    with open_run() as run:
        monkeypatch.setattr(run._log, "_clock", lambda: now)
        with run.child("bank", tags={}, params={}) as child:
            requests.clear()
            for epoch in range(6):
                child.log_metrics({"dev/loss": 1.0 / (epoch + 1)}, epoch)
                now += 4.0
    assert [[step for _, step in points] for points in requests[:3]] == [[0], [1, 2, 3], [4, 5]]
    below = next(found for found in all_runs() if "mlflow.parentRunId" in found.data.tags)
    points = mlflow.MlflowClient().get_metric_history(below.info.run_id, "dev/loss")
    assert [(point.step, point.value) for point in points] == [(n, 1 / (n + 1)) for n in range(6)]


def test_the_load_of_the_machine_is_sampled_where_mlflows_switch_asks_for_it(
    own_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sampled(run: mlflow.entities.Run) -> list[int]:
        points = mlflow.MlflowClient().get_metric_history(
            run.info.run_id, "system/cpu_utilization_percentage"
        )
        return [point.step for point in points]

    with open_run() as run:
        pass
    assert sampled(only_run()) == []
    monkeypatch.setenv("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "true")
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.05")
    for num_points in (1, 3):  # a run that is resumed continues its steps
        with open_run(resumes=run.run_id):
            deadline = time.monotonic() + 60
            while len(steps := sampled(only_run())) < num_points and time.monotonic() < deadline:
                time.sleep(0.05)
        assert len(steps) >= num_points
        assert len(set(steps)) == len(steps)


def test_a_run_outside_dvc_says_so(own_folder: Path) -> None:
    with open_run(None):
        pass
    assert only_run().data.tags["dvc.experiment"] == "outside DVC"


def test_a_dataset_is_found_by_the_hash_of_its_content(own_folder: Path) -> None:
    digest = STAGE.inputs["data/splits/lama"]
    with open_run() as run:
        run.log_dataset("lama/geonames", "data/splits/lama", digest, "training")
    (found,) = mlflow.search_runs(
        search_all_experiments=True,
        filter_string=f"dataset.digest = '{digest}'",
        output_format="list",
    )
    assert found.inputs.dataset_inputs[0].dataset.name == "lama/geonames"


def test_an_error_leaves_a_failed_run_with_its_text(own_folder: Path) -> None:
    with pytest.raises(DataError, match="cut at line 7"), open_run():
        raise DataError("train.jsonl is cut at line 7")
    run = only_run()
    assert run.info.status == "FAILED"
    assert run.data.tags["error"] == "train.jsonl is cut at line 7"


def test_a_bug_leaves_its_traceback_too(own_folder: Path) -> None:
    with pytest.raises(ZeroDivisionError), open_run() as run:
        _ = 1 / 0
    text = mlflow.artifacts.load_text(f"runs:/{run.run_id}/error.txt")
    assert "ZeroDivisionError" in text
    assert "test_run.py" in text


@pytest.mark.parametrize("signal", [KeyboardInterrupt, SystemExit])
def test_a_signal_leaves_a_killed_run(own_folder: Path, signal: type[BaseException]) -> None:
    with pytest.raises(signal), open_run():
        raise signal
    assert only_run().info.status == "KILLED"


@pytest.mark.slow
def test_a_run_whose_process_is_gone_is_closed_by_the_next_of_any_stage(own_folder: Path) -> None:
    code = (
        "import os\nfrom tests.pipeline.history.test_run import open_run\n"
        "with open_run():\n    os._exit(9)\n"
    )
    shell(own_folder, "python", "-c", code, check=False, PYTHONPATH=str(ROOT))
    mlflow.set_tracking_uri(f"sqlite:///{own_folder}/mlflow.db")
    assert only_run().info.status == "RUNNING"
    with open_run(replace(STAGE, run_key="ef" * 32)):  # after an edit of params.yaml
        pass
    assert sorted(run.info.status for run in all_runs()) == ["FINISHED", "KILLED"]


def test_a_run_of_a_living_process_is_left_alone(own_folder: Path) -> None:
    with open_run():
        runs._close_killed_runs(mlflow)
        assert only_run().info.status == "RUNNING"


def log_epochs(run: StageRun, *epochs: int) -> None:
    for epoch in epochs:
        run.log_metrics({"dev/loss/P17": 3.0 - epoch, "dev/p_at_1/P17": epoch / 10}, epoch)


def leave_failed() -> str:
    with contextlib.suppress(DataError), open_run() as run:
        log_epochs(run, 0, 1)
        raise DataError("the disk is full")
    return run.run_id


def leave_killed() -> str:
    with contextlib.suppress(KeyboardInterrupt), open_run() as run:
        log_epochs(run, 0, 1)
        raise KeyboardInterrupt
    return run.run_id


def leave_running() -> str:
    """Log in a process that ends as by kill -9."""
    code = (
        "import os\nfrom tests.pipeline.history.test_run import log_epochs, open_run\n"
        "with open_run() as run:\n    log_epochs(run, 0, 1)\n    os._exit(9)\n"
    )
    shell(Path.cwd(), "python", "-c", code, check=False, PYTHONPATH=str(ROOT))
    mlflow.set_tracking_uri(f"sqlite:///{Path.cwd()}/mlflow.db")
    assert only_run().info.status == "RUNNING"
    return only_run().info.run_id


def history_of(run_id: str, metric: str) -> list[tuple[int, float]]:
    points = mlflow.MlflowClient().get_metric_history(run_id, metric)
    return [(point.step, point.value) for point in points]


@pytest.mark.parametrize("leave", [leave_failed, leave_killed, leave_running])
def test_an_unfinished_run_is_resumed(
    own_folder: Path, capfd: pytest.CaptureFixture[str], leave: Callable[[], str]
) -> None:
    earlier = leave()
    capfd.readouterr()
    with open_run(resumes=earlier) as run:
        assert (run.run_id, run.attempt) == (earlier, 2)
        assert only_run().info.status == "RUNNING"
        log_epochs(run, 1, 2)
    assert "warning" not in capfd.readouterr().err
    logged = only_run()
    assert logged.info.run_id == earlier
    assert logged.info.status == "FINISHED"
    assert logged.info.run_name == "p-tuning lama"
    assert logged.data.tags["attempt"] == "2"
    assert "error" not in logged.data.tags
    assert logged.data.params["lama.training.epochs"] == "4"
    assert history_of(earlier, "dev/loss/P17") == [(0, 3.0), (1, 2.0), (2, 1.0)]
    assert history_of(earlier, "dev/p_at_1/P17") == [(0, 0.0), (1, 0.1), (2, 0.2)]


def test_each_attempt_is_counted_and_belongs_to_its_own_process(own_folder: Path) -> None:
    run_id = leave_killed()
    mlflow.MlflowClient().set_tag(run_id, "process", "1 0.00")
    for attempt in (2, 3):
        with contextlib.suppress(KeyboardInterrupt), open_run(resumes=run_id) as run:
            assert run.attempt == attempt
            raise KeyboardInterrupt
        tags = only_run().data.tags
        assert tags["attempt"] == str(attempt)
        assert tags["process"] == machine_tags()["process"]
        assert only_run().info.status == "KILLED"


def test_a_metric_that_an_epoch_still_lacks_is_logged(own_folder: Path) -> None:
    run_id = leave_killed()
    with open_run(resumes=run_id) as run:
        run.log_metrics({"dev/loss/P17": 2.0, "train/loss/P17": 5.0}, 1)
    assert history_of(run_id, "train/loss/P17") == [(1, 5.0)]
    assert [step for step, _ in history_of(run_id, "dev/loss/P17")] == [0, 1]


def finish() -> str:
    with open_run() as run:
        log_epochs(run, 0, 1)
    return run.run_id


def delete() -> str:
    run_id = leave_killed()
    mlflow.MlflowClient().delete_run(run_id)
    return run_id


def test_a_finished_run_that_dvc_has_not_recorded_is_resumed(own_folder: Path) -> None:
    earlier = finish()
    with open_run(resumes=earlier) as run:
        assert run.run_id == earlier
        assert run.attempt == 2
    (logged,) = all_runs()
    assert logged.info.status == "FINISHED"


@pytest.mark.parametrize("leave", [delete, lambda: "0" * 32], ids=["delete", "none"])
def test_a_run_that_is_gone_is_not_opened_again(own_folder: Path, leave: Callable[[], str]) -> None:
    earlier = leave()
    with open_run(resumes=earlier) as run:
        assert run.run_id != earlier
        assert run.attempt == 1
        log_epochs(run, 0, 1)
    assert history_of(run.run_id, "dev/loss/P17") == [(0, 3.0), (1, 2.0)]
    tags = mlflow.get_run(run.run_id).data.tags
    assert "attempt" not in tags


def test_without_an_earlier_attempt_a_run_of_the_same_key_is_a_new_one(own_folder: Path) -> None:
    leave_killed()
    with open_run():
        pass
    assert sorted(run.info.status for run in all_runs()) == ["FINISHED", "KILLED"]


def test_the_history_is_at_the_root_also_from_a_temporary_folder(
    own_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DVC_ROOT", str(own_folder))
    temporary = own_folder / ".dvc" / "tmp" / "exps" / "x"
    temporary.mkdir(parents=True)
    monkeypatch.chdir(temporary)
    with open_run() as run:
        run.log_text("hello", "note.txt")
    assert list(temporary.iterdir()) == []
    assert list((own_folder / "mlartifacts").rglob("note.txt"))


def test_a_dirty_tree_is_noted_with_its_difference(own_folder: Path) -> None:
    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], check=True, capture_output=True, text=True)
        return done.stdout.strip()

    Path("params.yaml").write_text("seed: 1\n")
    Path("dvc.lock").write_text("a\n")
    git("init", "-q")
    git("add", "params.yaml", "dvc.lock")
    git("commit", "-qm", "start")
    Path("dvc.lock").write_text("b\n")
    with open_run() as clean:
        pass
    Path("params.yaml").write_text("seed: 2\n")
    with open_run() as dirty:
        pass
    tags = mlflow.get_run(clean.run_id).data.tags
    assert tags["git.dirty"] == "false"
    assert tags["mlflow.source.git.commit"] == git("rev-parse", "HEAD")
    assert mlflow.get_run(dirty.run_id).data.tags["git.dirty"] == "true"
    patch = mlflow.artifacts.load_text(f"runs:/{dirty.run_id}/git/diff.patch")
    assert "+seed: 2" in patch


def test_the_difference_of_a_dirty_tree_makes_it_again(
    own_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    code = Path("pipeline")
    before = {"kept.py": b"a = 1\n", "gone.py": b"b = 1\n", "data.bin": b"\0\1\2"}
    after = {
        "kept.py": b"a = 2\r\n", "data.bin": b"\0\3", "new.py": b"c = 1\n", "empty.py": b"",
        "dé p/new.py": b"\0\4\xff",
    }  # fmt: skip
    code.mkdir()
    for name, content in before.items():
        (code / name).write_bytes(content)
    (code / ".gitignore").write_text("*.pyc\n")
    shell(own_folder, "git", "init", "-q")
    shell(own_folder, "git", "add", "pipeline")
    shell(own_folder, "git", "commit", "-qm", "start")
    shell(own_folder, "git", "config", "color.ui", "always")
    shutil.rmtree(code)
    for name, content in after.items():
        (code / name).parent.mkdir(parents=True, exist_ok=True)
        (code / name).write_bytes(content)
    (code / ".gitignore").write_text("*.pyc\n")
    (code / "old.pyc").write_bytes(b"0")
    Path("elsewhere.txt").write_text("of no stage")
    with open_run() as run:
        pass
    assert mlflow.get_run(run.run_id).data.tags["git.dirty"] == "true"
    patch = mlflow.artifacts.download_artifacts(f"runs:/{run.run_id}/git/diff.patch")
    clone = tmp_path_factory.mktemp("clone")
    shell(own_folder, "git", "clone", "-q", ".", str(clone))
    shell(clone, "git", "apply", "--index", patch)
    made = {p.relative_to(clone / "pipeline"): p for p in (clone / "pipeline").rglob("*")}
    files = {str(name): path.read_bytes() for name, path in made.items() if path.is_file()}
    assert files == after | {".gitignore": b"*.pyc\n"}
    assert not (clone / "elsewhere.txt").exists()


def test_an_unreachable_server_stops_before_any_work(
    own_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:secret@127.0.0.1:{port}")
    started = time.monotonic()
    worked = []
    with pytest.raises(TrackingError) as caught, open_run():
        worked.append(True)
    assert not worked
    assert time.monotonic() - started < 30
    assert f"***@127.0.0.1:{port}" in str(caught.value)
    assert "secret" not in str(caught.value)
    assert "MLFLOW_TRACKING_URI" in str(caught.value)


def test_a_server_that_asks_for_an_account_says_how_to_name_one(
    own_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving() as server:
        server.put("/api/2.0/mlflow/experiments/get-by-name", b"", 401, ...)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
        with (
            pytest.raises(TrackingError, match=r"MLFLOW_TRACKING_USERNAME and \w+_PASSWORD"),
            open_run(),
        ):
            pass


@pytest.mark.slow
def test_three_first_users_at_once_make_one_good_store(
    tmp_path: Path,
) -> None:
    code = (
        "from pipeline.history.run import stage_run\n"
        "from pipeline.workflow.command import StageInfo\n"
        "with stage_run(None, StageInfo('validate')):\n    pass\n"
    )
    command = ("python", "-c", code)
    with ThreadPoolExecutor(3) as pool:
        users = [pool.submit(shell, tmp_path, *command, PYTHONPATH=str(ROOT)) for _ in range(3)]
    assert [user.result().returncode for user in users] == [0, 0, 0]
    with sqlite3.connect(tmp_path / "mlflow.db") as store:
        statuses = store.execute("SELECT status FROM runs").fetchall()
    store.close()
    assert statuses == [("FINISHED",)] * 3
    assert not list((tmp_path / ".work").glob("*.partial"))


def test_a_child_run_belongs_to_its_stage_and_resumes_with_it(own_folder: Path) -> None:
    about = {"tags": {"task": "rte"}, "params": {"seed": 2, "model": {"learning_rate": 1e-5}}}
    with (
        contextlib.suppress(KeyboardInterrupt),
        open_run() as run,
        run.child("seed-2", **about) as child,
    ):
        child.log_metrics({"dev/score": 0.25}, epoch=0)
        raise KeyboardInterrupt
    assert {run.info.status for run in all_runs()} == {"KILLED"}
    with open_run(resumes=run.run_id) as again, again.child("seed-2", **about) as child:
        child.log_metrics({"dev/score": 0.25}, epoch=0)
        child.log_metrics({"dev/score": 0.5}, epoch=1)
        statuses = {run.info.run_name: run.info.status for run in all_runs()}
        assert statuses["seed-2"] == "RUNNING"
    runs = {run.info.run_name: run for run in all_runs()}
    assert set(runs) == {"p-tuning lama", "seed-2"}
    below = runs["seed-2"]
    assert below.info.status == "FINISHED"
    assert below.info.experiment_id == runs["p-tuning lama"].info.experiment_id
    assert below.data.tags["mlflow.parentRunId"] == run.run_id
    assert below.data.tags["dvc.run_key"] == STAGE.run_key
    assert below.data.tags["task"] == "rte"
    assert below.data.params == {"seed": "2", "model.learning_rate": "1e-05"}
    history = mlflow.MlflowClient().get_metric_history(below.info.run_id, "dev/score")
    assert [(point.step, point.value) for point in history] == [(0, 0.25), (1, 0.5)]


def test_a_child_that_fails_is_marked(own_folder: Path) -> None:
    with contextlib.suppress(DataError), open_run() as run:
        with run.child("seed-1", tags={}, params={}):
            pass
        with run.child("seed-2", tags={}, params={}):
            raise DataError("cut")
    statuses = {run.info.run_name: run.info.status for run in all_runs()}
    assert statuses == {"p-tuning lama": "FAILED", "seed-1": "FINISHED", "seed-2": "FAILED"}
