"""A shared server for tests, killed during a stage; checks that nothing is lost.

The server is set up on this machine as in docs/server.md: MLflow on PostgreSQL with accounts, and
an object store for artifacts. A member runs a tiny project against it.
"""

import contextlib
import os
import shutil
import signal
import sqlite3
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.files import sha256
from tests.project import ROOT, environment_of, make_project, run
from tools.server.folder import Folder, from_lines
from tools.server.history import History
from tools.server.postgres import Postgres

STAGE = "train-lama@p-tuning"
# Enough that the server is killed before the last of them.
EPOCHS = 60
KILLED_AFTER = 3

# What differs between two equal executions.
_RUN_SPECIFIC_TAGS = (
    "host",
    "process",
    "mlflow.user",
    "mlflow.source.name",
    "mlflow.log-model.history",
    "mlflow.note.content",  # has the minutes
)
_RUN_SPECIFIC_METRICS = ("seconds", "minutes")
_RUN_SPECIFIC_ARTIFACTS = ("lineage.txt",)


class Server:
    """A shared server in a folder, controlled by its commands."""

    def __init__(self, root: Path) -> None:
        """Initialize with the folder, which need not exist."""
        self.root = root
        self.folder = Folder(root)

    def command(self, *arguments: str) -> str:
        """Run `python -m tools.server`; return its output."""
        return run(
            ROOT, "python", "-m", "tools.server", *arguments,
            PTUNE_SERVER_DATA=str(self.root),
        ).stdout  # fmt: skip

    def up(self, *members: str) -> str:
        """Set it up, or start it again."""
        named = [word for member in members for word in ("--member", member)]
        return self.command("up", "--port", "0", "--objects-port", "0", *named)

    def member(self, name: str) -> dict[str, str]:
        """Return the environment of a member."""
        environment = from_lines(self.folder.member_file(name).read_text())
        return {**environment, "PYTHONPATH": str(ROOT)}

    def kill_mlflow(self) -> None:
        """Kill MLflow's server with its workers."""
        process = History(self.folder).process()
        assert process is not None, "MLflow is not running"
        # As one process group, so that no worker sees another one end first.
        os.killpg(process.pid, signal.SIGKILL)

    def rows(self, sql: str, database: str = "mlflow") -> list[tuple[Any, ...]]:
        """Return the rows of a query of PostgreSQL."""
        return Postgres(self.folder).query(database, sql)


@dataclass
class Logged:
    """A run in a history, with what an equal execution logs too."""

    run_id: str
    name: str
    status: str
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    points: list[tuple[str, int, float]] = field(default_factory=list)


def history(rows: Any) -> list[Logged]:
    """Return the runs of a history, oldest first; `rows` runs an SQL query."""
    records = rows("SELECT run_uuid, name, status FROM runs ORDER BY start_time")
    runs = {run_id: Logged(run_id, name, status) for run_id, name, status in records}
    for run_id, key, value in rows("SELECT run_uuid, key, value FROM params"):
        runs[run_id].params[key] = value
    for run_id, key, value in rows("SELECT run_uuid, key, value FROM tags"):
        if key not in _RUN_SPECIFIC_TAGS and not key.startswith("made_from."):
            runs[run_id].tags[key] = value
    for run_id, *point in rows("SELECT run_uuid, key, step, value FROM metrics ORDER BY key, step"):
        if point[0] not in _RUN_SPECIFIC_METRICS:
            runs[run_id].points.append(tuple(point))
    return list(runs.values())


def undisturbed_history(project: Path) -> list[Logged]:
    """Return the runs of a project with a local history."""
    with contextlib.closing(sqlite3.connect(project / "mlflow.db")) as store:
        return history(lambda sql: store.execute(sql).fetchall())


def trainings(runs: list[Logged]) -> list[Logged]:
    """Return the stage's runs, each with the content of its child runs under their names."""
    stages = {run.run_id: run for run in runs if run.tags.get("dvc.stage") == STAGE}
    for child in runs:
        parent = stages.get(child.tags.pop("mlflow.parentRunId", ""))
        if parent is not None:
            parent.params |= {f"{child.name}/{key}": child.params[key] for key in child.params}
            parent.tags |= {f"{child.name}/{key}": child.tags[key] for key in child.tags}
            parent.points += [(f"{child.name}/{key}", *rest) for key, *rest in child.points]
    return list(stages.values())


def download_digests(run_id: str, environment: Mapping[str, str]) -> dict[str, str]:
    """Return path -> SHA-256 of a run's artifacts, downloaded by a member; see `digests`."""
    with tempfile.TemporaryDirectory() as folder:
        run(
            Path(folder), "python", "-m", "mlflow", "artifacts", "download",
            "--run-id", run_id, "--dst-path", folder, **environment,
        )  # fmt: skip
        return digests(Path(folder))


def digests(folder: Path) -> dict[str, str]:
    """Return path -> SHA-256 of each file; empty for files that name other runs."""
    return {
        path.relative_to(folder).as_posix(): ""
        if path.name in _RUN_SPECIFIC_ARTIFACTS
        else sha256(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def make_prepared(folder: Path, model: Path, environment: Mapping[str, str]) -> Path:
    """Create a project whose next stage is the training; the earlier stages' runs are logged."""
    training = "lama__training__p-tuning"
    project = make_project(
        folder / "project",
        model,
        lama__methods=["p-tuning"],
        superglue__tasks=[],
        **{f"{training}__{key}": EPOCHS for key in ("epochs", "patience")},
    )
    run(project, "dvc", "repro", "splits-lama", "download-model", **environment)
    return project


def train(project: Path, server: Server, environment: Mapping[str, str]) -> tuple[Path, str]:
    """Train through an outage, and in parallel in a copy with a local history.

    Returns:
        The copy, and the output of the training with the outage.

    Raises:
        RuntimeError: That training failed.
    """
    copy = shutil.copytree(project, project.with_name("undisturbed"), symlinks=True)
    with ThreadPoolExecutor() as pool:
        undisturbed = pool.submit(run, copy, "dvc", "repro", "--single-item", STAGE)
        printed = _train_through_outage(project, server, environment)
        undisturbed.result()
    return copy, printed


def _train_through_outage(project: Path, server: Server, environment: Mapping[str, str]) -> str:
    """Train, kill the server after some epochs, and return the training's output.

    Raises:
        RuntimeError: The training failed.
    """
    printed = ""
    killed = False
    with subprocess.Popen(
        ["dvc", "repro", "--single-item", STAGE], cwd=project, text=True,
        env=environment_of(project, **environment),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    ) as dvc:  # fmt: skip
        assert dvc.stdout is not None
        for line in dvc.stdout:
            printed += line
            if not killed and f" epoch {KILLED_AFTER} " in line:
                server.kill_mlflow()
                killed = True
    if dvc.returncode or not killed:
        raise RuntimeError(printed)
    return printed


def send(project: Path, environment: Mapping[str, str]) -> str:
    """Send the kept events; return the output."""
    return run(project, "ptune", "send", **environment).stdout


def differences(
    undisturbed: Path, server: Server, environment: Mapping[str, str]
) -> Iterator[tuple[str, list[str]]]:
    """Yield the name of each check, and the differences that it has found."""
    (expected,) = trainings(undisturbed_history(undisturbed))
    every = history(server.rows)
    trained = trainings(every)
    yield "the training has one run", [] if len(trained) == 1 else [str(len(trained))]
    logged = trained[-1]
    yield "no run is left running", [r.name for r in every if r.status != "FINISHED"]
    yield (
        f"each of {len(expected.points)} metric points is there exactly once",
        sorted({str(point) for point in {*logged.points} ^ {*expected.points}})
        + ["some twice"] * (len(logged.points) != len({*logged.points})),
    )
    for name, ours, theirs in (
        ("parameters", logged.params, expected.params),
        ("tags", logged.tags, expected.tags),
        (
            "artifacts, to the byte,",
            download_digests(logged.run_id, environment),
            digests(next((undisturbed / "mlartifacts").rglob(expected.run_id)) / "artifacts"),
        ),
    ):
        yield (
            f"{len(theirs)} {name} are the same",
            sorted(k for k in {*ours} | {*theirs} if ours.get(k) != theirs.get(k)),
        )
