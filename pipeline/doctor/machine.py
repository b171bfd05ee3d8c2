"""Checks of the machine and of what is installed."""

import importlib.metadata
import os
import platform
import shutil
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from pipeline.doctor.checks import Problem

if TYPE_CHECKING:
    from pipeline.config.schema import RuntimeParams

_GIGABYTE = 1e9
# What the default parameters need.
_DISK_GIGABYTES = 5
_MEMORY_GIGABYTES = 4
# With less, hardly a file can be written.
_FULL_GIGABYTES = 0.5


def check_python() -> str:
    """The version of Python."""
    return f"{platform.python_version()}, {sys.executable}"


def check_torch(threads: int | None) -> str:
    """The version of torch, and its number of threads if `runtime.threads` is `threads`."""
    import torch

    count = threads or torch.get_num_threads()
    return f"{torch.__version__}, {count} of {os.cpu_count()} CPU threads"


def check_gpu(device: str, needed: int = 1) -> str | Problem:
    """List the GPUs, and check that the configured device (`runtime.device`) is available.

    Args:
        device: as in `runtime.device`.
        needed: GPUs that one training takes.

    Raises:
        ModelError: it is not, or there are fewer GPUs.
    """
    import torch

    with warnings.catch_warnings(record=True) as caught:  # such as: the driver is too old
        warnings.simplefilter("always")
        found = [torch.cuda.get_device_properties(n) for n in range(torch.cuda.device_count())]
    gpus = [f"{gpu.name}, {gpu.total_memory / _GIGABYTE:.0f} GB" for gpu in found]
    if torch.backends.mps.is_available():
        gpus.append("MPS")
    if device != "cpu":
        from pipeline.training.ranks import check_devices

        check_devices(needed, device)
    if caught and not gpus:
        reason = str(caught[0].message).strip().partition("\n")[0]
        return Problem("warning", reason, "update the driver; falling back to CPU")
    return ", ".join(gpus) or "none; using the CPU"


def check_cluster(runtime: "RuntimeParams", folder: Path) -> str:
    """Check that units can run with engine ray, and list the machines with their CPUs and GPUs.

    Raises:
        PipelineError: they cannot; `folder` is one that all machines must have.
    """
    from pipeline.engine.cluster import RayCluster

    folder.mkdir(exist_ok=True)
    with RayCluster(runtime, folder) as cluster:
        return cluster.describe()


def check_packages(lock: Path) -> str | Problem:
    """Compare the installed packages with the lock file."""
    if not lock.is_file():
        return Problem("skipped", f"{lock}: no such file")
    pinned = dict(
        line.split("==", 1) for line in lock.read_text(encoding="utf-8").split() if "==" in line
    )
    missing, different = [], []
    for name, version in pinned.items():
        try:
            installed = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
            continue
        if installed != version:
            different.append(f"{name} {installed} instead of {version}")
    if missing:
        return Problem("failed", f"not installed: {_listed(sorted(missing))}", "run `make setup`")
    if different:
        return Problem(
            "warning",
            f"{len(different)} of {len(pinned)} differ from {lock}: {_listed(different)}",
            "`make setup` installs the versions of the lock; with others, results may differ",
        )
    return f"{len(pinned)}, as in {lock}"


def _listed(names: list[str]) -> str:
    shown = ", ".join(names[:3])
    return f"{shown} and {len(names) - 3} more" if len(names) > 3 else shown


def check_disk(folders: Mapping[str, Path]) -> str | Problem:
    """The free space on the disk of each folder (description -> folder)."""
    free = {what: shutil.disk_usage(path).free / _GIGABYTE for what, path in folders.items()}
    message = ", ".join(f"{gigabytes:.1f} GB free for {what}" for what, gigabytes in free.items())
    if min(free.values()) < _FULL_GIGABYTES:
        return Problem("failed", message, "free some space")
    if min(free.values()) < _DISK_GIGABYTES:
        return Problem("warning", message, f"the default parameters need {_DISK_GIGABYTES} GB")
    return message


def check_memory() -> str | Problem:
    """The total and the available memory."""
    memory = psutil.virtual_memory()
    total = memory.total / _GIGABYTE
    message = f"{total:.1f} GB, {memory.available / _GIGABYTE:.1f} GB of it available"
    if total < _MEMORY_GIGABYTES:
        needed = f"the default parameters need {_MEMORY_GIGABYTES} GB"
        return Problem("warning", message, f"{needed}; lower runtime.max_tokens_per_forward")
    return message
