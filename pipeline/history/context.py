"""The context of a run: machine, process, libraries and commit."""

import contextlib
import importlib.metadata
import json
import os
import platform
import re
import socket
import sys
from pathlib import Path

import psutil

from pipeline.workflow.git import git_text

# Files that decide what a stage computes; changes elsewhere do not make the tree dirty.
SOURCES = ("dvc.yaml", "params.yaml", "pipeline", "stages", "requirements.lock")
_LIBRARIES = ("torch", "transformers", "dvc", "mlflow", "numpy", "safetensors", "tokenizers")
_CPUINFO = Path("/proc/cpuinfo")


def processor_name() -> str:
    """Return the processor's name as the system reports it."""
    if _CPUINFO.exists():
        match = re.search(r"^model name\s*:\s*(.+)$", _CPUINFO.read_text("utf-8"), re.MULTILINE)
        if match:
            return match[1].strip()
    return platform.processor() or platform.machine()


def hardware_name(gpu: str | None) -> str:
    """Return a name such as `NVIDIA H200` or `2 cores of AMD EPYC`."""
    return gpu or f"{os.cpu_count()} cores of {processor_name()}"


def gpu_in_use() -> str | None:
    """Return the name of the GPU that this process uses; None if it has used none."""
    # Stages without a model should not wait for the import of torch.
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return None
    return str(torch.cuda.get_device_name())


def library_versions() -> dict[str, str]:
    """Return library -> version, for installed libraries that can change a result."""
    versions = {}
    for library in _LIBRARIES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[library] = importlib.metadata.version(library)
    return versions


def environment() -> str:
    """Return Python, platform and libraries as JSON."""
    values = {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "libraries": library_versions(),
    }
    return json.dumps(values, indent=2)


def machine_tags() -> dict[str, str]:
    """Return tags that identify this process; see `has_ended`."""
    process = psutil.Process()
    return {
        "host": socket.gethostname(),
        "process": f"{process.pid} {process.create_time():.2f}",
    }


def has_ended(tags: dict[str, str]) -> bool:
    """Whether the process of a run, by the tags of `machine_tags`, ran here and is gone."""
    if tags.get("host") != socket.gethostname():
        return False
    pid, _, created = tags.get("process", "").partition(" ")
    try:
        return f"{psutil.Process(int(pid)).create_time():.2f}" != created
    except (psutil.Error, ValueError):
        return True


def git_state(root: Path | None = None) -> tuple[str, bool] | None:
    """Return the commit and whether the sources differ from it; None without a commit."""
    commit = git_text("rev-parse", "HEAD", root=root)
    if commit is None:
        return None
    return commit.strip(), bool(git_text("status", "--porcelain", "--", *SOURCES, root=root))
