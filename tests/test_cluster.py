"""Units on two nodes of a Ray cluster, lost and resumed, give what one process gives."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import mlflow
import psutil
import pytest

from pipeline.engine import cluster
from pipeline.engine.cluster import RayCluster
from pipeline.engine.units import Report, Unit
from pipeline.errors import ModelError, PipelineError
from pipeline.models.loading import ModelCache, load_model
from pipeline.training.jobs import BankUnit, EpochEnded, group_trials
from tests.jobs import fact_trial, method
from tests.pipeline.training.test_jobs import RUNTIME
from tests.pipeline.training.test_ranks import FACTS, TEMPLATE, Trained, assert_close
from tests.project import ROOT, edit_params, environment_of, make_project, outputs, run
from tests.test_restart import Attempt, epochs, runs_of
from tests.worked import VOCABULARY

# Ray's workers give way to all else by default, so a busy machine would keep the tests waiting.
os.environ.setdefault("RAY_worker_niceness", "0")
ray = pytest.importorskip("ray", reason="ray is not installed")
pytestmark = [
    pytest.mark.slow,
    # Ray opens files and sockets that it leaves to the end of the process.
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::FutureWarning"),
]

EPOCHS = 60
STAGE = "train-lama@p-tuning"
# Two settings of each relation, two prompts a unit.
UNITS = ["bank-1/seed-34/unit-1", "bank-1/seed-34/unit-2"]


# Units of this file are sent with what they need of it: workers have `pipeline` and `stages`.
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])


@pytest.fixture(scope="module")
def nodes() -> Iterator[Any]:
    """A cluster of two nodes with a CPU each; a unit takes one, so that they share the units."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    cluster.add_node(num_cpus=1)
    yield cluster
    cluster.shutdown()


@pytest.fixture
def no_folder(tmp_path: Path) -> Iterator[Callable[[Any, Path], int]]:
    """Starts a node with a CPU that finds an empty folder where the project is; see `start`."""
    probe = ["unshare", "--mount", "mount", "-t", "tmpfs", "none", str(tmp_path)]
    if shutil.which("unshare") is None or subprocess.run(probe, capture_output=True).returncode:
        pytest.skip("only root can start a node that does not see the project's folder")
    started = []

    def start(cluster: Any, project: Path) -> int:
        """Return the id of the process whose children run units."""
        script = 'mount -t tmpfs none "$1" && shift && exec "$@"'
        ray_start = [
            str(Path(sys.executable).with_name("ray")),
            "start", f"--address={cluster.address}", "--num-cpus=1", "--block",
        ]  # fmt: skip
        command = ["unshare", "--mount", "sh", "-c", script, "sh", str(project), *ray_start]
        environment = environment_of(project, XDG_CACHE_HOME=str(tmp_path / "cache"))

        def num_nodes() -> int:
            return sum(node["Alive"] for node in cluster.global_state.node_table())

        before = num_nodes()
        node = psutil.Popen(
            command, cwd="/", env=environment, start_new_session=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        started.append(node)

        def has_joined() -> bool:
            assert node.is_running()
            return num_nodes() > before

        # Of two that start at once, both may choose the same ports.
        wait_until(has_joined)
        (raylet,) = [each.pid for each in node.children() if each.name() == "raylet"]
        return int(raylet)

    yield start
    for node in started:
        family = [node, *node.children(recursive=True)] if node.is_running() else []
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        node.wait()


# Appended to a module of a project's copy: after a checkpoint, a unit waits as long as its file is
# there, if there is the folder for it.
_WAIT_AFTER_CHECKPOINT = """

_save = Checkpoint.save


def _save_and_wait(self, state):
    import os

    _save(self, state)
    held = Path({folder!r}) / str(os.getpid())
    if held.parent.exists():
        held.touch()
        while held.exists():
            time.sleep(0.02)


Checkpoint.save = _save_and_wait
"""


@contextlib.contextmanager
def holding(project: Path) -> Iterator[Callable[[], list[psutil.Process]]]:
    """Hold each unit of the project after its next checkpoint, until the block ends.

    Yields what waits until all are held, and returns their processes.
    """
    folder = project.parent / "held"
    folder.mkdir()

    def held() -> list[psutil.Process]:
        wait_until(lambda: len(list(folder.iterdir())) == len(UNITS))
        return [psutil.Process(int(file.name)) for file in folder.iterdir()]

    try:
        yield held
    finally:
        folder.rename(Path(tempfile.mkdtemp(dir=project.parent)) / "held")  # all at once


def lives(process: psutil.Process) -> bool:
    """Whether a process runs; one that is dead may wait for its parent to notice."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    return False


def wait_until(true: Callable[[], Any], seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _until(file: Path, deadline: float) -> None:
    while not file.exists() and time.monotonic() < deadline:
        time.sleep(0.05)


class Units:
    """What units do here; each finds in the folder what it did before."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def report(self, report: Report) -> dict[str, str]:
        for number in range(50):
            report(number)
        return {"cwd": str(Path.cwd()), **os.environ}

    def wait(self, _: Report) -> None:
        """Wait for `other`, which has no CPU as long as this unit keeps its own."""
        with cluster._waiting(ray) as wait_for:
            until = time.monotonic() + 5
            wait_for(ray.remote(num_cpus=0)(_until).remote(self.folder / "other", until))
        (self.folder / "waited").touch()

    def other(self, _: Report) -> bool:
        """Return whether a unit that waits has ended, as it must for a CPU to be free."""
        (self.folder / "other").touch()
        return (self.folder / "waited").exists()

    def fail(self, _: Report) -> None:
        raise ModelError("P17: no model")

    def die_once(self, report: Report) -> int:
        attempts = self.folder / "attempts"
        before = attempts.read_text() if attempts.exists() else ""
        attempts.write_text(f"{before}+")
        report("begins")
        if not before:
            time.sleep(0.5)  # the report is on its way
            os.kill(os.getpid(), signal.SIGKILL)
        return len(before)


def test_units_report_fail_and_are_run_again(
    nodes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", nodes.address)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    runtime = RUNTIME.model_copy(update={"engine": "ray", "threads": 1})
    heard: list[tuple[str, Any]] = []
    units = Units(tmp_path)
    handler = signal.getsignal(signal.SIGTERM)
    named = [Unit(do.__name__, do) for do in (units.report, units.fail, units.die_once)]
    with RayCluster(runtime, tmp_path) as engine:
        outcomes = dict(engine.run(named, lambda name, said: heard.append((name, said))))
        assert signal.getsignal(signal.SIGTERM) is handler
        assert engine.describe().count(": 1 CPUs") == 2
        assert list(tmp_path.glob(".cluster-*"))
    assert [said for name, said in heard if name == "report"] == list(range(50))
    environment = outcomes["report"].result()
    assert environment["cwd"] == str(Path.cwd())
    assert environment["HF_HUB_OFFLINE"] == "1"
    assert environment["CUDA_VISIBLE_DEVICES"] == ""  # a unit without a GPU sees none
    assert "secret" not in environment.values()
    with pytest.raises(ModelError, match=r"^P17: no model$"):
        outcomes["fail"].result()
    assert outcomes["die_once"].result() == 1
    assert heard.count(("die_once", "begins")) == 2
    assert not list(tmp_path.glob(".cluster-*"))
    longest = [Unit(name, units.wait, cost=2.0) for name in ("wait", "wait too")]
    with RayCluster(runtime, tmp_path) as engine:
        outcomes = dict(engine.run([Unit("other", units.other), *longest], print))
    for unit in longest:
        outcomes[unit.name].result()
    assert outcomes["other"].result()
    large = RUNTIME.model_copy(update={"engine": "ray", "threads": 64})
    with (
        RayCluster(large, tmp_path) as engine,
        pytest.raises(PipelineError, match="each unit needs 64 CPUs and 0 GPUs, which no machine"),
    ):
        list(engine.run(named, print))
    assert (tmp_path / "attempts").read_text() == "++"


ALONE = """
import os, subprocess, sys
from pipeline.engine.cluster import running_cluster
with running_cluster() as address:
    print(address)
    os.environ["RAY_ADDRESS"] = address
    connect = "import ray; ray.init(log_to_driver=False, logging_level='ERROR')"
    for token in (os.environ["RAY_AUTH_TOKEN"], "a" * 64):
        environment = {**os.environ, "RAY_AUTH_TOKEN": token}
        done = subprocess.run([sys.executable, "-c", connect], env=environment, capture_output=True)
        print(done.returncode)
"""


def test_without_an_address_ray_starts_here_with_a_token_whatever_the_last_cluster_was(
    nodes: Any, ray_folder: Path
) -> None:
    for current in (ray_folder, ray_folder / "ray"):  # where Ray notes its last cluster
        current.mkdir(exist_ok=True)
        (current / "ray_current_cluster").write_text("127.0.0.1:1")
    environment = {**os.environ, "RAY_TMPDIR": str(ray_folder)}
    for name in ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN"):
        environment.pop(name, None)
    done = subprocess.run(
        [sys.executable, "-c", ALONE], cwd=ROOT, env=environment, text=True, capture_output=True
    )
    address, with_token, with_another = done.stdout.split()
    assert address not in ("127.0.0.1:1", nodes.address)
    assert with_token == "0"
    assert with_another != "0"


ORPHAN = """
import os, time
from pipeline.engine.cluster import running_cluster
from stages.runtime import _end_with_dvc
_end_with_dvc()
try:
    with running_cluster():
        print(os.getpid(), flush=True)
        time.sleep(600)
finally:
    print("the run has ended", flush=True)
"""


def test_a_stage_ends_its_run_where_ray_and_what_started_the_stage_are_killed_too(
    ray_folder: Path,
) -> None:
    """As scancel does it: SIGTERM for all."""
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]])"
    environment = {**os.environ, "RAY_TMPDIR": str(ray_folder)}
    environment.pop("RAY_ADDRESS", None)
    with subprocess.Popen(
        [sys.executable, "-c", code, ORPHAN], cwd=ROOT, env=environment,
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    ) as above:  # fmt: skip
        assert above.stdout is not None
        stage = psutil.Process(int(above.stdout.readline()))
        (raylet,) = [each for each in stage.children() if each.name() == "raylet"]
        above.kill()
        above.wait()
        raylet.kill()
        wait_until(lambda: not lives(raylet))
        stage.terminate()
        assert above.stdout.read().endswith("the run has ended\n")


def test_two_processes_of_a_training_run_on_the_one_machine_that_has_the_cpus(
    nodes: Any, tiny_folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = method(encoder="mlp", batch_size=8)
    (bank,) = group_trials([fact_trial("P17", TEMPLATE, FACTS, VOCABULARY, training=training)])
    models = ModelCache(partial(load_model, tiny_folders["bert"], device="cpu", threads=1))
    updates = {
        "engine": "ray", "threads": 1, "gpus_per_training": 2, "max_tokens_per_forward": 64,
    }  # fmt: skip
    runtime = RUNTIME.model_copy(update=updates)

    def unit(name: str) -> BankUnit:
        return BankUnit(bank, tmp_path / name, "run", models, runtime, None, None)

    (serial,) = unit("serial")(print).results
    monkeypatch.setenv("RAY_ADDRESS", nodes.address)
    node = nodes.add_node(num_cpus=2)
    try:
        with RayCluster(runtime, tmp_path) as engine:
            reports: list[Any] = []
            ((_, outcome),) = engine.run(
                [Unit("bank", unit("ray"), processes=2)], lambda _, report: reports.append(report)
            )
    finally:
        nodes.remove_node(node)
    (result,) = outcome.result().results
    assert_close(Trained(result, {}), Trained(serial, {}), 0.0)
    assert [report for report in reports if isinstance(report, EpochEnded)]


def assert_one_run(root: Path) -> None:
    """Hold that there is one run for the stage and one for each unit, with each epoch once."""
    client = mlflow.MlflowClient(f"sqlite:///{root}/mlflow.db")
    (stage,) = runs_of(root, STAGE)
    below = client.search_runs(
        [stage.info.experiment_id], f"tags.`mlflow.parentRunId` = '{stage.info.run_id}'"
    )
    assert {one.info.status for one in (stage, *below)} == {"FINISHED"}
    assert sorted(one.info.run_name for one in below) == UNITS
    for one in below:
        for metric in one.data.metrics:
            steps = [point.step for point in client.get_metric_history(one.info.run_id, metric)]
            assert sorted(steps) == list(range("train/" in metric, EPOCHS + 1))


@pytest.fixture(scope="module")
def serial(
    tmp_path_factory: pytest.TempPathFactory, tiny_folders: dict[str, Path], empty_store: Path
) -> Path:
    """The project after its stage was trained in one process."""
    project = make_project(
        tmp_path_factory.mktemp("serial") / "project",
        tiny_folders["gpt2"],
        lama__methods=["p-tuning"],
        superglue__tasks=[],
        runtime__checkpoint_seconds=0,
        runtime__max_tokens_per_forward=1024,
        **{
            "lama__training__p-tuning__epochs": EPOCHS,
            "lama__training__p-tuning__patience": EPOCHS,
            "lama__training__p-tuning__prompts_per_unit": 2,
            "lama__grid__p-tuning": {"template": ["paper-v2", "paper-v1"]},
        },
    )
    shutil.copyfile(empty_store, project / "mlflow.db")
    run(project, "dvc", "repro", "splits-lama", "download-model")
    shutil.copytree(project, project.with_name("untrained"), symlinks=True)
    run(project, "dvc", "repro", STAGE)
    return project


def untrained(serial: Path, folder: Path) -> Path:
    """A copy of the project as it was before, to be trained by Ray; see `holding`."""
    project = shutil.copytree(serial.with_name("untrained"), folder / "project", symlinks=True)
    with (project / "pipeline/training/checkpoint.py").open("a") as module:
        module.write(_WAIT_AFTER_CHECKPOINT.format(folder=str(folder / "held")))
    edit_params(project, runtime__engine="ray")
    return project


def assert_resumed_and_equal(attempt: Attempt, project: Path, serial: Path) -> None:
    """Hold that a lost node has made no difference, except for the message."""
    assert attempt.process.returncode == 0, attempt.printed
    assert attempt.printed.count("its machine was lost; resumed on another") == 1
    reported = epochs(attempt.printed)
    assert len(reported) == len(set(reported))
    assert outputs(project, "models", "curves") == outputs(serial, "models", "curves")
    assert_one_run(project)


def test_a_lost_stage_and_a_lost_node_end_as_if_nothing_had_happened(
    nodes: Any, serial: Path, tmp_path: Path
) -> None:
    project = untrained(serial, tmp_path)

    # The stage and dvc are killed: no worker is left.
    with holding(project) as held:
        first = Attempt(project, "-s", STAGE, RAY_ADDRESS=nodes.address)
        running = held()
        first.kill()
        # They are held, so they end only because they are killed.
        wait_until(lambda: not any(map(lives, running)), seconds=5)
    assert not (project / "models/lama/p-tuning").exists()

    # A node is lost while both are in the middle of a unit.
    with holding(project) as held:
        second = Attempt(project, "-s", STAGE, RAY_ADDRESS=nodes.address)
        running = held()
        (node,) = nodes.worker_nodes
        raylet = node.all_processes["raylet"][0].process.pid
        (lost,) = [worker for worker in running if worker.ppid() == raylet]
        nodes.remove_node(node, allow_graceful=False)
        lost.kill()
    second.end()
    assert_resumed_and_equal(second, project, serial)
    # What the first attempt had done was not done again.
    reported = epochs(second.printed)
    assert max(min(e for r, e in reported if r == relation) for relation in ("P17", "P30")) > 0
    assert_one_run(serial)

    edit_params(project, runtime__engine="serial")
    assert "Running stage" not in run(project, "dvc", "repro", "-s", STAGE).stdout
    edit_params(project, **{"lama__training__p-tuning__prompts_per_unit": 1})
    assert STAGE in run(project, "dvc", "status", STAGE).stdout


def test_a_node_without_the_folder_is_lost_and_another_resumes_from_what_it_sent(
    serial: Path, tmp_path: Path, no_folder: Callable[[Any, Path], int]
) -> None:
    from ray.cluster_utils import Cluster

    project = untrained(serial, tmp_path)
    head = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    try:
        raylets = [no_folder(head, project) for _ in range(2)]
        with holding(project) as held:
            attempt = Attempt(project, "-s", STAGE, RAY_ADDRESS=head.address)
            (lost,) = [worker for worker in held() if worker.ppid() == raylets[0]]
            # Its files are elsewhere; what the project has of them was sent.
            inside = str(project)
            assert not [file for file in lost.open_files() if file.path.startswith(inside)]
            sent = (project / ".work" / "units").glob("*/checkpoints/*.pt")
            assert len(list(sent)) == len(UNITS)
            os.kill(raylets[0], signal.SIGKILL)
            lost.kill()
        attempt.end()
        assert_resumed_and_equal(attempt, project, serial)
    finally:
        head.shutdown()
