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

from pipeline.doctor.findings import CheckResult

_GIGABYTE = 1e9
# `make repro` as cloned takes so much.
_DISK_GIGABYTES = 5
_MEMORY_GIGABYTES = 4
# Less than this and hardly a file can be written.
_FULL_GIGABYTES = 0.5


def check_python() -> CheckResult:
    """Tell which Python this is."""
    return CheckResult("python", "ok", f"{platform.python_version()}, {sys.executable}")


def check_torch(threads: int | None) -> CheckResult:
    """Tell the version of torch and how many threads it computes with.

    Args:
        threads: `runtime.threads`.
    """
    import torch

    used = threads or torch.get_num_threads()
    return CheckResult(
        "torch", "ok", f"{torch.__version__}, {used} of {os.cpu_count()} CPU threads"
    )


def check_gpu(device: str) -> CheckResult:
    """Tell which GPUs there are, and whether there is the one that is wanted.

    Args:
        device: `runtime.device`.

    Raises:
        ModelError: this machine has no such device.
    """
    import torch

    with warnings.catch_warnings(record=True) as told:  # such as: the driver is too old
        warnings.simplefilter("always")
        found = [_gpu_name(number) for number in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        found.append("MPS")
    if device not in ("auto", "cpu"):
        from pipeline.models.loading import choose_device

        choose_device(device)
    if found:
        return CheckResult("gpu", "ok", ", ".join(found))
    if told:
        reason = str(told[0].message).strip().partition("\n")[0]
        return CheckResult("gpu", "warning", reason, "mend the driver; until then the CPU is used")
    return CheckResult("gpu", "ok", "none; the CPU is used")


def _gpu_name(number: int) -> str:
    import torch

    about = torch.cuda.get_device_properties(number)
    return f"{about.name}, {about.total_memory / _GIGABYTE:.0f} GB"


def check_packages(lock: Path) -> CheckResult:
    """Compare what is installed with what the lock pins."""
    if not lock.is_file():
        return CheckResult("packages", "skipped", f"{lock}: no such file")
    pinned = dict(
        line.split("==", 1) for line in lock.read_text(encoding="utf-8").split() if "==" in line
    )
    installed = {name: _version(name) for name in pinned}
    missing = sorted(name for name, version in installed.items() if version is None)
    others = [
        f"{name} {version} for {pinned[name]}"
        for name, version in installed.items()
        if version not in (None, pinned[name])
    ]
    if missing:
        return CheckResult(
            "packages", "failed", f"not installed: {_listed(missing)}", "`make setup`"
        )
    if others:
        return CheckResult(
            "packages",
            "warning",
            f"{len(others)} of {len(pinned)} differ from {lock}: {_listed(others)}",
            "`make setup` installs what the lock pins; others may give other numbers",
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
    """Tell the free space where each folder is.

    Args:
        folders: what is there -> the folder.
    """
    free = {what: shutil.disk_usage(path).free / _GIGABYTE for what, path in folders.items()}
    found = ", ".join(f"{gigabytes:.1f} GB free for {what}" for what, gigabytes in free.items())
    if min(free.values()) < _FULL_GIGABYTES:
        return CheckResult("disk", "failed", found, "make room")
    if min(free.values()) < _DISK_GIGABYTES:
        return CheckResult(
            "disk", "warning", found, f"the pipeline as cloned takes {_DISK_GIGABYTES} GB"
        )
    return CheckResult("disk", "ok", found)


def check_memory() -> CheckResult:
    """Tell the memory, whole and free."""
    memory = psutil.virtual_memory()
    total = memory.total / _GIGABYTE
    found = f"{total:.1f} GB, {memory.available / _GIGABYTE:.1f} GB of it free"
    if total < _MEMORY_GIGABYTES:
        return CheckResult(
            "memory",
            "warning",
            found,
            f"the pipeline as cloned takes {_MEMORY_GIGABYTES} GB; "
            "lower runtime.max_rows_per_forward",
        )
    return CheckResult("memory", "ok", found)
