"""Checks of the machine and of what is installed."""

import importlib.metadata
import os
import platform
import shutil
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path

import psutil

from pipeline.doctor.checks import CheckResult

_GIGABYTE = 1e9
# What the default parameters need.
_DISK_GIGABYTES = 5
_MEMORY_GIGABYTES = 4
# With less, hardly a file can be written.
_FULL_GIGABYTES = 0.5


def check_python() -> CheckResult:
    """Report the version of Python."""
    return CheckResult("python", "ok", f"{platform.python_version()}, {sys.executable}")


def check_torch(threads: int | None) -> CheckResult:
    """Report the version of torch and its number of threads.

    Args:
        threads: `runtime.threads`.
    """
    import torch

    count = threads or torch.get_num_threads()
    return CheckResult(
        "torch", "ok", f"{torch.__version__}, {count} of {os.cpu_count()} CPU threads"
    )


def check_gpu(device: str) -> CheckResult:
    """List the GPUs, and check that the configured device is available.

    Args:
        device: `runtime.device`.

    Raises:
        ModelError: the device is not available.
    """
    import torch

    with warnings.catch_warnings(record=True) as caught:  # such as: the driver is too old
        warnings.simplefilter("always")
        gpus = [_gpu_name(number) for number in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        gpus.append("MPS")
    if device not in ("auto", "cpu"):
        from pipeline.models.loading import choose_device

        choose_device(device)
    if gpus:
        return CheckResult("gpu", "ok", ", ".join(gpus))
    if caught:
        reason = str(caught[0].message).strip().partition("\n")[0]
        return CheckResult("gpu", "warning", reason, "update the driver; falling back to CPU")
    return CheckResult("gpu", "ok", "none; using the CPU")


def _gpu_name(number: int) -> str:
    import torch

    properties = torch.cuda.get_device_properties(number)
    return f"{properties.name}, {properties.total_memory / _GIGABYTE:.0f} GB"


def check_packages(lock: Path) -> CheckResult:
    """Compare the installed packages with the lock file."""
    if not lock.is_file():
        return CheckResult("packages", "skipped", f"{lock}: no such file")
    pinned = dict(
        line.split("==", 1) for line in lock.read_text(encoding="utf-8").split() if "==" in line
    )
    installed = {name: _version(name) for name in pinned}
    missing = sorted(name for name, version in installed.items() if version is None)
    different = [
        f"{name} {version} instead of {pinned[name]}"
        for name, version in installed.items()
        if version not in (None, pinned[name])
    ]
    if missing:
        return CheckResult(
            "packages", "failed", f"not installed: {_listed(missing)}", "run `make setup`"
        )
    if different:
        return CheckResult(
            "packages",
            "warning",
            f"{len(different)} of {len(pinned)} differ from {lock}: {_listed(different)}",
            "`make setup` installs the versions of the lock; with others, results may differ",
        )
    return CheckResult("packages", "ok", f"{len(pinned)}, as in {lock}")


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _listed(names: list[str]) -> str:
    shown = ", ".join(names[:3])
    return f"{shown} and {len(names) - 3} more" if len(names) > 3 else shown


def check_disk(folders: Mapping[str, Path]) -> CheckResult:
    """Report the free space on the disk of each folder.

    Args:
        folders: description -> folder.
    """
    free = {what: shutil.disk_usage(path).free / _GIGABYTE for what, path in folders.items()}
    message = ", ".join(f"{gigabytes:.1f} GB free for {what}" for what, gigabytes in free.items())
    if min(free.values()) < _FULL_GIGABYTES:
        return CheckResult("disk", "failed", message, "free some space")
    if min(free.values()) < _DISK_GIGABYTES:
        return CheckResult(
            "disk", "warning", message, f"the default parameters need {_DISK_GIGABYTES} GB"
        )
    return CheckResult("disk", "ok", message)


def check_memory() -> CheckResult:
    """Report the total and the available memory."""
    memory = psutil.virtual_memory()
    total = memory.total / _GIGABYTE
    message = f"{total:.1f} GB, {memory.available / _GIGABYTE:.1f} GB of it available"
    if total < _MEMORY_GIGABYTES:
        return CheckResult(
            "memory",
            "warning",
            message,
            f"the default parameters need {_MEMORY_GIGABYTES} GB; "
            "lower runtime.max_rows_per_forward",
        )
    return CheckResult("memory", "ok", message)
