"""Kill the shared server while a stage runs: is anything lost to the team?

A server is set up on this machine as docs/server.md says: MLflow on PostgreSQL with accounts, and
an object store for artifacts. A member runs a tiny project against it. In the middle of a training
MLflow's server is killed; the training goes on to its end. The server is started again, `ptune
send` sends what was kept, and the history is held against that of the same training with a history
of its own that nothing disturbed.

    python -m benchmarks.server
"""

import argparse
import contextlib
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.environment import ENVIRONMENT
from pipeline.files import sha256
from tests.project import ROOT, environment_of, make_project, run
from tests.tiny import save_tiny
from tools.server.folder import Folder, from_lines
from tools.server.history import History
from tools.server.postgres import Postgres

STAGE = "train-lama@p-tuning"
# So many that the server is gone before the last of them.
EPOCHS = 60
KILLED_AFTER = 3

# What tells one execution from the same one at another time, or in another history.
_OWN_TAGS = ("host", "process", "mlflow.user", "mlflow.source.name", "mlflow.log-model.history")
_OWN_METRICS = ("seconds",)
_OWN_ARTIFACTS = ("lineage.txt",)

console = Console(width=110)


class Server:
    """A shared server in a folder, driven by its commands."""

    def __init__(self, root: Path) -> None:
        """Take the folder; nothing need be there."""
        self.root = root
        self.folder = Folder(root)

    def command(self, *arguments: str) -> str:
        """Run `python -m tools.server`; return what it prints."""
        return run(
            ROOT, sys.executable, "-m", "tools.server", *arguments,
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
        """Kill MLflow's server and its workers at once."""
        process = History(self.folder).daemon.process()
        assert process is not None, "MLflow does not run"
        # They are one group, so that none of them sees another die first.
        os.killpg(process.pid, signal.SIGKILL)

    def rows(self, sql: str, database: str = "mlflow") -> list[tuple[Any, ...]]:
        """Return what PostgreSQL answers."""
        import psycopg2

        address = Postgres(self.folder).uri(database).replace("+psycopg2", "")
        with contextlib.closing(psycopg2.connect(address)) as store, store.cursor() as cursor:
            cursor.execute(sql)
            return list(cursor.fetchall())


@dataclass
class Logged:
    """A run in a history: how it ended, and all it was told that another execution repeats."""

    run_id: str
    name: str
    status: str
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    points: list[tuple[str, int, float]] = field(default_factory=list)


def history(rows: Any) -> list[Logged]:
    """Return the runs of a history that is asked by SQL, the oldest first."""
    found = rows("SELECT run_uuid, name, status FROM runs ORDER BY start_time")
    runs = {run_id: Logged(run_id, name, status) for run_id, name, status in found}
    for run_id, key, value in rows("SELECT run_uuid, key, value FROM params"):
        runs[run_id].params[key] = value
    for run_id, key, value in rows("SELECT run_uuid, key, value FROM tags"):
        if key not in _OWN_TAGS and not key.startswith("made_from."):
            runs[run_id].tags[key] = value
    for run_id, *point in rows("SELECT run_uuid, key, step, value FROM metrics ORDER BY key, step"):
        if point[0] not in _OWN_METRICS:
            runs[run_id].points.append(tuple(point))
    return list(runs.values())


def undisturbed_history(project: Path) -> list[Logged]:
    """Return the runs of a project with a history of its own."""
    with contextlib.closing(sqlite3.connect(project / "mlflow.db")) as store:
        return history(lambda sql: store.execute(sql).fetchall())


def fetched(run_id: str, environment: Mapping[str, str]) -> dict[str, str]:
    """Return the artifacts of a run on the server, as a member fetches them, as `digests` does."""
    with tempfile.TemporaryDirectory() as folder:
        run(
            Path(folder), sys.executable, "-m", "mlflow", "artifacts", "download",
            "--run-id", run_id, "--dst-path", folder, **environment,
        )  # fmt: skip
        return digests(Path(folder))


def digests(folder: Path) -> dict[str, str]:
    """Return path -> SHA-256 of each file; of one that names other runs of its history, nothing."""
    return {
        path.relative_to(folder).as_posix(): "" if path.name in _OWN_ARTIFACTS else sha256(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def make_prepared(folder: Path, model: Path, environment: Mapping[str, str]) -> Path:
    """Make a project whose next stage is the training; the stages before it are on the server."""
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
    """Train through an outage, and in a copy that has a history of its own beside it.

    Returns:
        the copy, and what the training printed that went through the outage.

    Raises:
        RuntimeError: that training did not end well.
    """
    copy = shutil.copytree(project, project.with_name("undisturbed"), symlinks=True)
    with ThreadPoolExecutor() as pool:
        beside = pool.submit(run, copy, "dvc", "repro", "--single-item", STAGE)
        printed = _train_through_outage(project, server, environment)
        beside.result()
    return copy, printed


def _train_through_outage(project: Path, server: Server, environment: Mapping[str, str]) -> str:
    """Train, kill the server after some epochs, and let the training end; return what it printed.

    Raises:
        RuntimeError: the training did not end well.
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
    """Send what was kept; return what that prints."""
    return run(project, "ptune", "send", **environment).stdout


def differences(
    undisturbed: Path, server: Server, environment: Mapping[str, str]
) -> Iterator[tuple[str, list[str]]]:
    """Yield what is held against what, and what differs in it."""
    (expected,) = [r for r in undisturbed_history(undisturbed) if r.tags["dvc.stage"] == STAGE]
    every = history(server.rows)
    trained = [r for r in every if r.tags["dvc.stage"] == STAGE]
    yield "the training has one run", [] if len(trained) == 1 else [str(len(trained))]
    got = trained[-1]
    yield "no run is left running", [r.name for r in every if r.status != "FINISHED"]
    yield (
        f"each of {len(expected.points)} metric points is there once",
        sorted({str(point) for point in {*got.points} ^ {*expected.points}})
        + ["some twice"] * (len(got.points) != len({*got.points})),
    )
    for what, ours, theirs in (
        ("parameters", got.params, expected.params),
        ("tags", got.tags, expected.tags),
        (
            "artifacts, to the byte,",
            fetched(got.run_id, environment),
            digests(next((undisturbed / "mlartifacts").rglob(expected.run_id)) / "artifacts"),
        ),
    ):
        yield (
            f"{len(theirs)} {what} are the same",
            sorted(k for k in {*ours} | {*theirs} if ours.get(k) != theirs.get(k)),
        )


def main() -> int:
    """Run it; 0 where nothing is lost."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.server", description=__doc__)
    parser.parse_args()
    os.environ.update(ENVIRONMENT)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ptune-server-")))
        folder.chmod(0o711)  # PostgreSQL may run as another user
        server = Server(folder / "server")
        stack.callback(server.command, "down")
        console.print("setting up the server", style="dim")
        server.up("ada")
        ada = server.member("ada")
        console.print("running the stages before the training", style="dim")
        project = make_prepared(folder, save_tiny("gpt2", folder / "model"), ada)
        console.print(f"training; the server is killed after epoch {KILLED_AFTER}", style="dim")
        undisturbed, _ = train(project, server, ada)
        console.print("the training has ended well; starting the server again", style="dim")
        server.up()
        console.print(send(project, ada).strip())
        checks = list(differences(undisturbed, server, ada))
    for what, wrong in checks:
        console.print(f"{what}: {'differs: ' + ', '.join(wrong) if wrong else 'OK'}")
    return 1 if any(wrong for _, wrong in checks) else 0


if __name__ == "__main__":
    sys.exit(main())
