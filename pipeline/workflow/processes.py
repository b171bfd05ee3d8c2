"""Stages as child processes, each run by a separate `dvc`, with their output line by line."""

import os
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path

from pipeline.workflow.scheduler import Task, TaskStatus

# The process that a stage must not outlive; see stages/runtime.py.
PARENT_PID_ENV = "PTUNE_REPRO"

_LAST_LINES = 20
# Hints that dvc prints at the end of each run.
_HINTS = (
    "To track the changes with git", "git add", "To enable auto staging", "dvc config core.auto",
    "Use `dvc push`", "Updating lock file", "Generating lock file",
)  # fmt: skip


class StageProcesses:
    """Runs stages, from several threads at once, until it is stopped.

    Attributes:
        last_lines: stage -> the last lines of its output.
    """

    def __init__(
        self,
        echo: Callable[[str, str], None],
        *,
        threads: int | None,
        folder: Path,
        environment: Mapping[str, str],
    ) -> None:
        """Initialize without any process, in the root folder of the project.

        `echo` is called with stage and line for each line of output. `threads` is the number of CPU
        threads of each stage, unless `runtime.threads` or OMP_NUM_THREADS is set; None leaves it to
        torch. `environment` is added to that of this process.
        """
        self.last_lines: dict[str, deque[str]] = {}
        self._echo = echo
        self._threads = threads
        self._folder = folder
        self._environment = environment
        self._children: set[subprocess.Popen[str]] = set()
        self._stopping = False
        # A signal handler may call stop() while the same thread holds the lock.
        self._lock = threading.RLock()

    def run(self, task: Task) -> TaskStatus:
        """Run the task's stage with `dvc repro --single-item`."""
        child = self._start(task.name)
        if child is None:
            return TaskStatus.STOPPED
        status = TaskStatus.UNCHANGED
        assert child.stdout is not None
        with child:
            # It closes when the last process that prints to it exits: the stage, not only dvc.
            for line in child.stdout:
                text = line.rstrip()
                if text.startswith(f"Running stage '{task.name}'"):
                    status = TaskStatus.RAN
                elif text.startswith(f"Stage '{task.name}' is cached"):
                    status = TaskStatus.CACHED
                if text and not text.strip().startswith(_HINTS):
                    self.last_lines[task.name].append(text)
                    self._echo(task.name, text)
        with self._lock:
            self._children.discard(child)
            if child.returncode == 0:
                return status
            return TaskStatus.STOPPED if self._stopping else TaskStatus.FAILED

    def stop(self) -> None:
        """Stop all running stages and start no more.

        Only dvc gets the signal: its stage notices that dvc is gone and ends its MLflow run.
        """
        with self._lock:
            self._stopping = True
            for child in self._children:
                child.send_signal(signal.SIGTERM)

    def _start(self, name: str) -> subprocess.Popen[str] | None:
        with self._lock:
            if self._stopping:
                return None
            programs = str(Path(sys.executable).parent)
            environment = {
                **os.environ,
                "PATH": f"{programs}{os.pathsep}{os.environ.get('PATH', '')}",
                "PYTHONUNBUFFERED": "1",
                PARENT_PID_ENV: str(os.getpid()),
                **self._environment,
            }
            if self._threads is not None:
                environment.setdefault("OMP_NUM_THREADS", str(self._threads))
            child = subprocess.Popen(
                [sys.executable, "-m", "dvc", "--wait-for-lock", "repro", "--single-item", name],
                cwd=self._folder,
                env=environment,
                text=True,
                errors="replace",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                # A terminal's Ctrl-C must reach only this process, which stops the others.
                start_new_session=True,
            )
            self._children.add(child)
            self.last_lines[name] = deque(maxlen=_LAST_LINES)
            return child


def threads_each(jobs: int) -> int:
    """Number of CPU threads of each stage, at least one.

    It depends only on the number of jobs, not on the load: the number of threads can change the
    last bits of a sum, and so the result of training.
    """
    # This process may be allowed fewer cores than the machine has.
    allowed = getattr(os, "sched_getaffinity", None)
    cores = len(allowed(0)) if allowed else os.cpu_count() or 1
    return max(1, cores // jobs)
