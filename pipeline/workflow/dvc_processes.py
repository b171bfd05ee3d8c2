"""Which processes are dvc."""

import contextlib
import os
from pathlib import Path

import psutil


def is_dvc(process: psutil.Process) -> bool:
    """Whether a process is dvc, by its command."""
    with contextlib.suppress(psutil.Error):
        return any(Path(argument).name == "dvc" for argument in process.cmdline()[:3])
    return False


def dvc_processes(root: Path) -> list[int]:
    """Return the ids of the dvc processes in a project, except for those that started this one.

    One whose folder this user may not see counts as one in the project.
    """
    above = {process.pid for process in psutil.Process().parents()}
    found = []
    for process in psutil.process_iter():
        if process.pid in above or process.pid == os.getpid() or not is_dvc(process):
            continue
        with contextlib.suppress(psutil.NoSuchProcess):
            try:
                inside = Path(process.cwd()).is_relative_to(root)
            except psutil.AccessDenied:
                inside = True
            if inside:
                found.append(process.pid)
    return found
