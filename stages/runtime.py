"""The common frame of all stages: one MLflow run, clear errors, and no orphans."""

import contextlib
import hashlib
import json
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import psutil
import typer

from pipeline.cli import console
from pipeline.cli.console import LiveLine, print_warning
from pipeline.errors import ParamsError, PipelineError, memory_errors_named
from pipeline.history.executions import RUN_ID
from pipeline.history.run import StageRun, stage_run
from pipeline.tasks import check_task
from pipeline.workflow.command import StageInfo
from pipeline.workflow.dvc_processes import is_dvc
from pipeline.workflow.processes import PARENT_PID_ENV
from pipeline.workflow.project import StageIdentity, project_root, recorded_run_keys, running_stage
from pipeline.workflow.workdir import WorkFolder, clear_recorded, clear_unused, work_folder
from stages import importing

ParamsFile = Annotated[
    Path, typer.Option("--params", help="The parameters, checked before anything is done.")
]
Out = Annotated[Path, typer.Option("--out", help="Folder to write; it appears when all is done.")]

ModelFolder = Annotated[Path, typer.Option("--model", help="Folder of the language model.")]
SplitsFolder = Annotated[Path, typer.Option("--splits", help="Folder of the splits.")]

# For the step that is under way on a busy machine, and to log the end.
_GRACE_SECONDS = 60


def _known_task(name: str) -> str:
    try:
        return check_task(name)
    except ParamsError as error:
        raise typer.BadParameter(str(error)) from None


TaskName = Annotated[str, typer.Argument(callback=_known_task, help="Name of a task.")]
OwnTaskName = Annotated[str, typer.Argument(help="Name of a task under `tasks` in params.yaml.")]


@contextlib.contextmanager
def stage(
    name: str, benchmark: str = "", task: str = "", method: str = ""
) -> Iterator["RunningStage"]:
    """Run a stage's work as one MLflow run.

    An error that the user can fix ends in its message and exit code 1; so does one of the file
    system. `PTUNE_TRACEBACK=1` shows the traceback as well. The process ends when the dvc that
    started it does.

    Args:
        name: `validate`, `download`, `splits`, `train`, `evaluate` or `report`.
        benchmark: empty where there is none, as are task and method.
        task: of SuperGLUE or of the user.
        method: of `train` and `evaluate`.
    """
    importing.close()
    _end_with_dvc()
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    info = StageInfo(name, benchmark, task, method)
    try:
        with (
            LiveLine(info.name) as line,
            _file_errors_named(),
            _work(name, identity := running_stage()) as work,
        ):
            resumes = work.noted("run_id", _run_id) if work is not None else None
            with (
                stage_run(identity, info, resumes=resumes) as run,
                _file_errors_named(),
                memory_errors_named(),
                _timed(run, work),
            ):
                if work is not None:
                    work.note("run_id", run.run_id)
                yield RunningStage(run, identity, work, info.tags, line)
    except PipelineError as error:
        if os.environ.get("PTUNE_TRACEBACK"):
            raise
        print_warning(f"error: {error}", color="red")
        raise typer.Exit(1) from None


@dataclass(frozen=True)
class RunningStage:
    """A stage's MLflow run with its tags, its identity in DVC, and the folder of its progress."""

    run: StageRun
    _identity: StageIdentity | None
    _work: WorkFolder | None
    _tags: Mapping[str, str]
    _line: LiveLine

    @property
    def run_id(self) -> str:
        """The id of the MLflow run."""
        return self.run.run_id

    @property
    def work(self) -> WorkFolder:
        """The folder of a stage that can resume after a kill."""
        assert self._work is not None, "only stages of _RESUMABLE have one"
        return self._work

    def unit_folder(
        self, name: str, content: Mapping[str, Any], *, shared: Mapping[str, Any], excluded: Path
    ) -> Path:
        """Return the folder of a unit's progress, to be used with `unit_locked`.

        Args:
            name: unique within the stage.
            content: all that determines the unit's result, except the stage's inputs; as JSON.
            shared: the same, of all units.
            excluded: the stage's input that does not count, as `content` has what the unit reads
                of it.
        """
        key = None
        if self._identity is not None:
            inputs = dict(self._identity.inputs)
            del inputs[excluded.as_posix()]
            text = json.dumps([inputs, shared, content], sort_keys=True)
            key = hashlib.sha256(text.encode()).hexdigest()
        return self.work.unit(
            name, key, lambda: echo(f"{name}: another process is training it; waiting")
        )

    def child(
        self, name: str, params: Mapping[str, Any]
    ) -> contextlib.AbstractContextManager[StageRun]:
        """Open a run below the stage's, with its tags."""
        return self.run.child(name, tags=self._tags, params=params)

    def echo(self, text: str) -> None:
        """Print a line for the user."""
        echo(text)

    def show_progress(self, text: str, done: int, total: int) -> None:
        """Show on a terminal how far the work is, in steps, for example."""
        self._line.update(text, done, total)

    def log_dataset(self, name: str, path: Path, context: str) -> None:
        """Log an input of the stage as a dataset, under DVC's hash of it."""
        digest = self._identity.inputs.get(path.as_posix()) if self._identity else None
        self.run.log_dataset(name, path.as_posix(), digest, context)


def downloads_folder() -> Path:
    """Folder of fetched packages, shared by all checkouts of `dvc exp`."""
    return project_root() / ".work" / "downloads"


def echo(text: str) -> None:
    """Print a line on standard error; a closed terminal or a full disk is not an error."""
    with contextlib.suppress(OSError):
        console.echo(text, err=True)


# Those that may take hours.
_RESUMABLE = ("train", "evaluate")


@contextlib.contextmanager
def _work(name: str, identity: StageIdentity | None) -> Iterator[WorkFolder | None]:
    root = project_root()
    if identity is not None:
        clear_recorded(root, recorded_run_keys)
        clear_unused(root)
    if name not in _RESUMABLE:
        yield None
        return
    with work_folder(
        root,
        identity.run_key if identity is not None else None,
        recorded=recorded_run_keys,
        on_wait=lambda: echo("another process runs this stage; waiting for it to end"),
    ) as work:
        yield work


def _run_id(text: str) -> str:
    if RUN_ID.fullmatch(text) is None:
        raise ValueError("not the id of a run")
    return text


@contextlib.contextmanager
def _timed(run: StageRun, work: WorkFolder | None) -> Iterator[None]:
    """Log how long the stage took, the attempts that were killed in order included."""
    started = time.monotonic()
    before = (work.noted("seconds", float) if work is not None else None) or 0.0
    try:
        yield
    finally:
        seconds = before + time.monotonic() - started
        # A full disk must not hide the error of the stage.
        with contextlib.suppress(OSError):
            if work is not None:
                work.note("seconds", repr(seconds))
        run.log_metrics({"seconds": round(seconds, 1)}, run.attempt)


@contextlib.contextmanager
def _file_errors_named() -> Iterator[None]:
    """Say of an error of the file system which path it is about."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            raise PipelineError(str(error)) from error
        raise PipelineError(
            f"{error.filename}: {error.strerror}; check the path and its permissions"
        ) from error


def _end_with_dvc() -> None:
    """End this process when what started it is gone, so that no training continues unattended.

    dvc does not pass SIGTERM or kill -9 on to the command it runs, and a shell may run between
    the two, so a thread watches dvc, and the `ptune repro` above it if there is one.
    """
    ignored_until = 0.0

    def end(number: int, _: FrameType | None) -> None:
        nonlocal ignored_until
        # Another one, such as that of _watch after Ctrl-C, must not interrupt the run's end.
        if time.monotonic() > ignored_until:
            ignored_until = time.monotonic() + _GRACE_SECONDS
            raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(143)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # as under nohup
            signal.signal(number, end)
    above = psutil.Process().parents()
    started_by = {"dvc": next((p for p in above if is_dvc(p)), None)}
    if pid := os.environ.get(PARENT_PID_ENV):
        started_by["ptune repro"] = next((p for p in above if str(p.pid) == pid), None)
    gone = next((name for name, process in started_by.items() if process is None), None)
    if gone is None:
        watched = list(filter(None, started_by.values()))
        threading.Thread(target=_watch, args=(watched,), daemon=True).start()
    elif name := os.environ.get("DVC_STAGE"):
        # Whoever adopts an orphan differs (init, a supervisor), so only an absence tells.
        echo(f"stage {name}: the {gone} that started it is gone; nothing was done")
        raise SystemExit(143)


def _watch(processes: Sequence[psutil.Process]) -> None:
    while all(map(_lives, processes)):
        time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_GRACE_SECONDS)
    os._exit(143)


def _lives(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False
