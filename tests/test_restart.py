"""Killed at any moment, resumed by `dvc repro`, and in the end as if nothing had happened."""

import contextlib
import os
import random
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import mlflow
import psutil
import pytest

from pipeline.config.schema import SearchParams
from pipeline.models.language_model import PromptedModel
from pipeline.prompts.template import parse_template
from pipeline.search.autoprompt import SearchRecord, filter_words, search_words
from tests.jobs import fact_job
from tests.project import edit_params, environment_of, make_project, outputs, run
from tests.warm import Started, start_warm
from tests.worked import VOCABULARY, make_facts

pytestmark = pytest.mark.slow

RELATIONS = ("P17", "P30")
EPOCHS = {"p-tuning": 30, "manual-fine-tuning": 40, "discrete": 40}
# A trial is named by its relation, setting, split, and seed.
TRIAL = "setting-1/split-1/seed-34"
PROGRESS = re.compile(rf"^(P\d+)/{TRIAL} epoch (\d+) ", re.MULTILINE)


@pytest.fixture(scope="module")
def prepared(
    tmp_path_factory: pytest.TempPathFactory, tiny_folders: dict[str, Path], empty_store: Path
) -> Path:
    """A project with data and model, and nothing trained; it notes progress whenever it may."""
    long: dict[str, Any] = {}
    for method in ("p-tuning", "manual-fine-tuning"):
        for key in ("epochs", "patience"):
            long[f"lama__training__{method}__{key}"] = EPOCHS[method]
    root = make_project(
        tmp_path_factory.mktemp("restart") / "project",
        tiny_folders["gpt2"],
        lama__methods=["p-tuning"],
        lama__training__discrete__search__iterations=EPOCHS["discrete"],
        superglue__tasks=[],
        runtime__checkpoint_seconds=0,
        **long,
    )
    shutil.copyfile(empty_store, root / "mlflow.db")
    run(root, "dvc", "repro", "splits-lama", "download-model")
    return root


@pytest.fixture(scope="module")
def undisturbed(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Future[Path]]:
    """The project after a `dvc repro` that nobody disturbed; it runs beside the tests."""
    root = copy(prepared, tmp_path_factory.mktemp("undisturbed"))

    def reproduce() -> Path:
        run(root, "dvc", "repro")
        return root

    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(reproduce)


def copy(project: Path, folder: Path) -> Path:
    return shutil.copytree(project, folder / "project", symlinks=True)


class Attempt:
    """A `dvc repro` in a separate process group, to be killed.

    It is started as a new process with `cold`, which its stage is then a child of.
    """

    def __init__(
        self, project: Path, *arguments: str, cold: bool = False, **environment: str
    ) -> None:
        command = ["dvc", "repro", *arguments]
        values = environment_of(project, **environment)
        reading, writing = os.pipe()
        self.process: subprocess.Popen[bytes] | Started = (
            subprocess.Popen(
                command, cwd=project, env=values, start_new_session=True,
                stdout=writing, stderr=writing,
            )
            if cold
            else start_warm(command, project, values, writing, writing, group=0)
        )  # fmt: skip
        os.close(writing)
        self._lines = os.fdopen(reading)
        self.printed = ""

    def wait_for(self, seen: Callable[[str], bool]) -> None:
        """Read lines until there is one of a kind."""
        for line in self._lines:
            self.printed += line
            if seen(line):
                return
        raise AssertionError(self.printed)

    def signal(self, number: int) -> None:
        """Send a signal to dvc and what it runs, at once."""
        os.killpg(self.process.pid, number)

    def kill(self) -> None:
        """Kill dvc and what it runs, at once."""
        self.signal(signal.SIGKILL)
        self.end()

    def end(self) -> None:
        """Wait until dvc and what it runs are gone."""
        if not self._lines.closed:
            with self._lines as lines:
                self.printed += lines.read()
        self.process.wait()

    def stage(self) -> psutil.Process:
        """Return the process of the stage, as soon as it is there."""
        dvc = psutil.Process(self.process.pid)
        while dvc.status() != psutil.STATUS_ZOMBIE:
            for child in dvc.children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    if any(argument.startswith("stages.") for argument in child.cmdline()):
                        return child
            time.sleep(0.01)
        raise AssertionError("no stage runs")

    @property
    def epochs(self) -> list[tuple[str, int]]:
        """The epochs that were reported: relation and number."""
        return epochs(self.printed)


def epochs(printed: str) -> list[tuple[str, int]]:
    """The epochs in what was printed: relation and number."""
    return [(name, int(number)) for name, number in PROGRESS.findall(printed)]


def at_epoch(relation: str, epoch: int) -> Callable[[str], bool]:
    """Tell whether a line is about an epoch of a relation, or a later one."""

    def seen(line: str) -> bool:
        found = PROGRESS.match(line)
        return found is not None and found[1] == relation and int(found[2]) >= epoch

    return seen


def runs_of(root: Path, stage: str) -> list[mlflow.entities.Run]:
    """The MLflow runs of a stage, the oldest first."""
    client = mlflow.MlflowClient(f"sqlite:///{root}/mlflow.db")
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    found = client.search_runs(
        experiments, f"tags.`dvc.stage` = '{stage}'", order_by=["attributes.start_time ASC"]
    )
    return list(found)


def steps(root: Path, run: mlflow.entities.Run) -> dict[str, list[int]]:
    """Metric and trial -> the epochs under which it was logged, in the runs below a stage's run.

    The metrics of trials that train together name their trial; a run of one trial has its name.
    """
    client = mlflow.MlflowClient(f"sqlite:///{root}/mlflow.db")
    below = client.search_runs(
        [run.info.experiment_id], f"tags.`mlflow.parentRunId` = '{run.info.run_id}'"
    )
    found: dict[str, list[int]] = {}
    for one in below:
        assert one.info.status == "FINISHED"
        for metric in one.data.metrics:
            name = metric if TRIAL in metric else f"{metric}/{one.info.run_name}"
            assert name not in found
            points = client.get_metric_history(one.info.run_id, metric)
            found[name] = [point.step for point in points]
    return found


def assert_one_run(root: Path, stage: str, *, attempts: int, last_epoch: int) -> None:
    """Hold that a stage has one run, with each epoch once, however often it was killed."""
    (logged,) = runs_of(root, stage)
    assert logged.info.status == "FINISHED"
    assert int(logged.data.tags.get("attempt", "1")) == attempts
    assert "error" not in logged.data.tags
    found = steps(root, logged)
    for relation in RELATIONS:
        for metric in ("dev/loss", "dev/p_at_1"):
            assert found[f"{metric}/{relation}/{TRIAL}"] == list(range(last_epoch + 1))
    assert not [metric for metric, own in found.items() if len(own) != len(set(own))]


def work_folders(root: Path) -> list[Path]:
    return [path for path in (root / ".work").iterdir() if len(path.name) == 64]


@pytest.mark.parametrize("seed", [34])
def test_a_pipeline_killed_again_and_again_ends_as_if_nothing_had_happened(
    prepared: Path, undisturbed: Future[Path], tmp_path: Path, seed: int
) -> None:
    project = copy(prepared, tmp_path)
    dice = random.Random(seed)
    moments = sorted(dice.sample(range(1, EPOCHS["p-tuning"] - 3), 3))
    before: list[tuple[str, int]] = []
    for moment in moments:
        attempt = Attempt(project)
        attempt.wait_for(at_epoch("P17", moment))
        time.sleep(dice.uniform(0, 0.1))
        attempt.kill()
        if before:
            assert 0 < attempt.epochs[0][1] <= before[-1][1] + 1
        before = attempt.epochs
        assert not (project / "models/lama/p-tuning").exists()
    assert len(work_folders(project)) == 1

    in_evaluation = Attempt(project)
    in_evaluation.wait_for(lambda line: line.startswith(f"P17/{TRIAL}  test/p_at_1"))
    in_evaluation.kill()
    assert 0 < in_evaluation.epochs[0][1] <= before[-1][1] + 1
    assert_one_run(project, "train-lama@p-tuning", attempts=4, last_epoch=EPOCHS["p-tuning"])

    last = run(project, "dvc", "repro")
    assert f"P17/{TRIAL}  test/p_at_1" not in last.stderr
    assert "test/p_at_1 " in last.stderr
    assert outputs(project) == outputs(undisturbed.result())
    assert {logged.info.status for logged in runs_of(project, "evaluate-lama@p-tuning")} == {
        "FINISHED"
    }
    # What was trained stays for those who add a seed.
    left = [path for path in (project / ".work").rglob("*") if path.is_file()]
    assert {path.relative_to(project).parts[1] for path in left} == {"units"}


def kill_dvc(attempt: Attempt, stage: psutil.Process) -> None:
    """Kill only dvc: what it runs must end too."""
    # A stage looks twice a second whether dvc lives, and on a fast machine a tiny model trains to
    # its end between two looks. It is stopped until the next look is due.
    stage.suspend()
    os.kill(attempt.process.pid, signal.SIGKILL)
    attempt.process.wait()
    time.sleep(1)
    stage.resume()
    stage.wait(timeout=300)


def kill_the_stage(attempt: Attempt, stage: psutil.Process) -> None:
    """Kill only the stage: dvc must end too."""
    stage.kill()
    attempt.end()
    assert attempt.process.returncode not in (0, None)


@pytest.mark.parametrize(
    ("method", "kill"), [("manual-fine-tuning", kill_dvc), ("discrete", kill_the_stage)]
)
def test_a_tuned_model_and_a_search_resume_too(
    prepared: Path,
    tmp_path: Path,
    method: str,
    kill: Callable[[Attempt, psutil.Process], None],
) -> None:
    project = copy(prepared, tmp_path)
    edit_params(project, lama__methods=[method])
    stage = f"train-lama@{method}"
    attempt = Attempt(project, "-s", stage, cold=True)
    running = attempt.stage()
    attempt.wait_for(at_epoch("P30", 3))
    kill(attempt, running)
    attempt.end()
    assert not (project / "models").exists() or not (project / "models/lama" / method).exists()

    again = run(project, "dvc", "repro", "-s", stage)
    assert attempt.epochs[0] == ("P17", 0)
    relation, epoch = epochs(again.stderr)[0]
    assert relation == "P30"
    assert 0 < epoch <= attempt.epochs[-1][1] + 1
    assert_one_run(project, stage, attempts=2, last_epoch=EPOCHS[method])
    ended = outputs(project)

    # By force it starts from nothing, and nobody disturbs it.
    forced = run(project, "dvc", "repro", "-f", "-s", stage)
    assert epochs(forced.stderr) == [(r, e) for r in RELATIONS for e in range(EPOCHS[method] + 1)]
    assert outputs(project) == ended
    first, second = runs_of(project, stage)
    assert steps(project, second) == steps(project, first)
    assert second.info.status == "FINISHED"
    assert "attempt" not in second.data.tags


def test_a_dvc_killed_while_the_stage_still_loads_leaves_nobody_at_work(
    prepared: Path, tmp_path: Path
) -> None:
    project = copy(prepared, tmp_path)
    attempt = Attempt(project, "-s", "train-lama@p-tuning", cold=True)
    attempt.stage()
    time.sleep(0.5)
    os.kill(attempt.process.pid, signal.SIGKILL)
    attempt.end()
    assert attempt.epochs == []
    assert not (project / "models/lama/p-tuning").exists()


def test_of_two_at_the_same_stage_the_second_waits_and_takes_over_what_is_done(
    prepared: Path, undisturbed: Future[Path], tmp_path: Path
) -> None:
    # As `dvc exp run --temp`: its own checkout; progress and history are the main one's.
    main, other = copy(prepared, tmp_path), copy(prepared, tmp_path / "other")
    first, second = (
        Attempt(folder, "-s", "train-lama@p-tuning", DVC_ROOT=str(main)) for folder in (main, other)
    )
    first.wait_for(lambda line: "epoch 0 " in line or "waiting" in line)
    if "waiting" in first.printed:
        first, second = second, first
    else:
        first.signal(signal.SIGSTOP)
        second.wait_for(lambda line: "waiting" in line)
        first.signal(signal.SIGCONT)
    for attempt in (first, second):
        attempt.end()
        assert attempt.process.returncode == 0, attempt.printed
    assert second.printed.count("waiting") == 1
    assert second.epochs == []
    expected = outputs(undisturbed.result(), "models", "curves")
    assert outputs(main, "models", "curves") == expected
    assert outputs(other, "models", "curves") == expected
    assert {logged.info.status for logged in runs_of(main, "train-lama@p-tuning")} == {"FINISHED"}


def test_a_search_killed_between_note_and_log_misses_no_iteration_in_the_log(
    tiny_models: dict[str, PromptedModel], tmp_path: Path
) -> None:
    model = tiny_models["gpt2"]
    template = parse_template("{subject} [P*2] {mask} .", ["subject"])
    facts = {"train": make_facts(7), "dev": make_facts(4, start=3)}
    job = fact_job(model, "P17", template, facts, VOCABULARY)
    logged: list[int] = []

    def search(on_iteration: Callable[[SearchRecord], None]) -> None:
        search_words(
            model,
            job,
            SearchParams(prompts="gradient", iterations=4, candidates=3, batch_size=4),
            allowed=filter_words(model.codec, model.vocabulary_size, VOCABULARY),
            max_tokens_per_forward=64,
            checkpoint=tmp_path / "P17.json",
            on_iteration=on_iteration,
        )

    def killed(record: SearchRecord) -> None:
        if record.iteration == 2:
            raise KeyboardInterrupt
        logged.append(record.iteration)

    with pytest.raises(KeyboardInterrupt):
        search(killed)
    search(lambda record: logged.append(record.iteration))
    assert logged == [0, 1, 2, 3, 4]
