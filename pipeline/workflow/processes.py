"""Stages as child processes: each by a plain dvc of its own, told of line by line."""

import os
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path

from pipeline.workflow.schedule import Task, TaskStatus

# Where a stage finds the process that must live on for it to be wanted; see stages/runtime.py.
PARENT_PID_ENV = "PTUNE_REPRO"

_TAIL_LINES = 20
# What dvc prints at the end of each run, for who runs one.
_HINTS = (
    "To track the changes with git", "git add", "To enable auto staging", "dvc config core.auto",
    "Use `dvc push`", "Updating lock file", "Generating lock file",
)  # fmt: skip


class StageProcesses:
    """Runs stages, from several threads at once, until it is told to stop.

    Attributes:
        tails: stage -> the last lines that it printed.
    """

    def __init__(
        self, say: Callable[[str, str], None], *, threads: int | None, folder: Path
    ) -> None:
        """Take how and where to run.

        Args:
            say: called with stage and line for each line that is printed.
            threads: of the CPU for each stage, where neither `runtime.threads` nor OMP_NUM_THREADS
                says it; None leaves it to torch.
            folder: of the project.
        """
        self.tails: dict[str, deque[str]] = {}
        self._say = say
        self._threads = threads
        self._folder = folder
        self._children: set[subprocess.Popen[str]] = set()
        self._stopping = False
        # A signal handler may stop while the same thread is at it already.
        self._lock = threading.RLock()

    def run(self, task: Task, gpu: str | None) -> TaskStatus:
        """Run a stage as `dvc repro --single-item` does, and return how it ended.

        Args:
            task: named as the stage.
            gpu: the only one that the stage sees; None, or an empty text, hides none.
        """
        child = self._start(task.name, gpu)
        if child is None:
            return TaskStatus.STOPPED
        ended = TaskStatus.UNCHANGED
        assert child.stdout is not None
        with child:
            # It ends when the last process that prints to it is gone: the stage, not only dvc.
            for line in child.stdout:
                text = line.rstrip()
                if text.startswith(f"Running stage '{task.name}'"):
                    ended = TaskStatus.RAN
                elif text.startswith(f"Stage '{task.name}' is cached"):
                    ended = TaskStatus.CACHED
                self._tell(task.name, text)
        with self._lock:
            self._children.discard(child)
            if child.returncode == 0:
                return ended
            return TaskStatus.STOPPED if self._stopping else TaskStatus.FAILED

    def stop(self) -> None:
        """End all that runs and start nothing more.

        Only dvc is told: its stage sees that it is gone and ends in order, with its MLflow run.
        """
        with self._lock:
            self._stopping = True
            for child in self._children:
                child.send_signal(signal.SIGTERM)

    def _start(self, name: str, gpu: str | None) -> subprocess.Popen[str] | None:
        with self._lock:
            if self._stopping:
                return None
            child = subprocess.Popen(
                [sys.executable, "-m", "dvc", "--wait-for-lock", "repro", "--single-item", name],
                cwd=self._folder,
                env=self._environment(gpu),
                text=True,
                errors="replace",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                # A terminal's Ctrl-C is for this process, which ends its children in order.
                start_new_session=True,
            )
            self._children.add(child)
            self.tails[name] = deque(maxlen=_TAIL_LINES)
            return child

    def _environment(self, gpu: str | None) -> dict[str, str]:
        programs = str(Path(sys.executable).parent)
        environment = {
            **os.environ,
            "PATH": f"{programs}{os.pathsep}{os.environ.get('PATH', '')}",
            "PYTHONUNBUFFERED": "1",
            PARENT_PID_ENV: str(os.getpid()),
        }
        if gpu:
            environment["CUDA_VISIBLE_DEVICES"] = gpu
        if self._threads is not None:
            environment.setdefault("OMP_NUM_THREADS", str(self._threads))
        return environment

    def _tell(self, name: str, text: str) -> None:
        if text and not text.strip().startswith(_HINTS):
            self.tails[name].append(text)
            self._say(name, text)
