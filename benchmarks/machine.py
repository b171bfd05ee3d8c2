"""The machine under a benchmark: its name, its clock, its memory and its fastest matrix product."""

import os
import platform
import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from pipeline.history import context

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")
_KIBIBYTE = 1024

# Side of the matrices whose product is timed; one product takes from 0.1 s to some milliseconds.
_SIDE = {"cpu": 2048, "cuda": 8192, "mps": 4096}
_PRODUCTS = 10


@dataclass(frozen=True)
class Timed:
    """What one run took.

    Attributes:
        seconds: by the clock on the wall.
        cpu_seconds: of all threads of this process, those that wait for others included.
        peak_bytes: of the process (CPU) or of torch's tensors (CUDA); None where unknown.
        result: of the function.
    """

    seconds: float
    cpu_seconds: float
    peak_bytes: int | None
    result: Any


def timed(function: Callable[[], Any], device: torch.device) -> Timed:
    """Run a function once; the device has nothing left to do when the clock stops."""
    _reset_peak(device)
    _synchronise(device)
    start, cpu_start = time.perf_counter(), time.process_time()
    result = function()
    _synchronise(device)
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
    return Timed(seconds, cpu_seconds, _peak(device), result)


def peak_flops(device: torch.device, dtype: torch.dtype) -> float:
    """Return the FLOP/s of the fastest of some large matrix products."""
    side = _SIDE[device.type]
    left, right = (torch.randn(side, side).to(device, dtype) for _ in range(2))
    left @ right
    seconds = min(timed(lambda: left @ right, device).seconds for _ in range(_PRODUCTS))
    return 2 * side**3 / seconds


def count_flops(run: Callable[[], Any]) -> int:
    """Return the floating-point operations of the matrix products of a run.

    Those of an LSTM are not counted: one kernel hides them. torch's own FlopCounterMode does not
    stand modules that are called without gradients.
    """
    with _FlopCounter() as counter:
        run()
    return counter.total


def describe(device: torch.device) -> dict[str, Any]:
    """Return the hardware's name, its cores and torch's threads."""
    return {
        "name": hardware_name(device),
        "device": device.type,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }


def hardware_name(device: torch.device) -> str:
    """Return a name such as `NVIDIA H200` or `2 cores of AMD EPYC`."""
    return context.hardware_name(
        torch.cuda.get_device_name(device) if device.type == "cuda" else None
    )


def slug(text: str) -> str:
    """Return a text as part of a file's name."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def versions() -> dict[str, str]:
    """Return the versions that speed hangs on."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


class _FlopCounter(TorchDispatchMode):
    total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.total += formula(*args, **(kwargs or {}), out_val=result)
        return result


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif sys.platform == "linux":
        try:
            _CLEAR.write_text("5")
        except OSError:
            return  # the peak is then that of the whole process so far


def _peak(device: torch.device) -> int | None:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    found = (
        re.search(r"^VmHWM:\s+(\d+) kB", _STATUS.read_text(), re.M) if _STATUS.exists() else None
    )
    return int(found[1]) * _KIBIBYTE if found else None
