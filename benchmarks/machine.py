"""The machine of a benchmark: its name, clock, memory and fastest matrix product."""

import contextlib
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
from torch.utils.flop_counter import FlopCounterMode

from pipeline.history import context

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")
_KIBIBYTE = 1024

# Size of the matrices whose product is timed; one product takes from a few ms to 0.1 s.
_SIDE = {"cpu": 2048, "cuda": 8192, "mps": 4096}
_PRODUCTS = 10


@dataclass(frozen=True)
class Timed:
    """Cost of one run.

    Attributes:
        seconds: wall-clock time.
        cpu_seconds: CPU time of all threads of this process, including busy waiting.
        peak_bytes: peak memory of the process (CPU) or of torch's tensors (CUDA); None if unknown.
        result: return value of the function.
    """

    seconds: float
    cpu_seconds: float
    peak_bytes: int | None
    result: Any


def timed(function: Callable[[], Any], device: torch.device) -> Timed:
    """Run a function once; the device is synchronized before the clock stops."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif sys.platform == "linux":
        # Where this is denied, the peak is that of the process since its start.
        with contextlib.suppress(OSError):
            _CLEAR.write_text("5")
    _synchronize(device)
    start, cpu_start = time.perf_counter(), time.process_time()
    result = function()
    _synchronize(device)
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
    return Timed(seconds, cpu_seconds, _peak(device), result)


def peak_flops(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of the fastest of several large matrix products."""
    side = _SIDE[device.type]
    left, right = (torch.randn(side, side).to(device, dtype) for _ in range(2))
    left @ right
    seconds = min(timed(lambda: left @ right, device).seconds for _ in range(_PRODUCTS))
    return 2 * side**3 / seconds


def count_flops(run: Callable[[], Any]) -> int:
    """Floating-point operations of the matrix products of a run.

    Those of an LSTM are not counted, as they are inside one kernel.
    """
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def describe(device: torch.device) -> dict[str, Any]:
    """A name such as `NVIDIA H200` or `2 cores of AMD EPYC`, the cores and torch's threads."""
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return {
        "name": context.hardware_name(gpu),
        "device": device.type,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }


def slug(text: str) -> str:
    """A text as part of a file's name."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def versions() -> dict[str, str]:
    """The versions that determine speed."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _peak(device: torch.device) -> int | None:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    text = _STATUS.read_text() if _STATUS.exists() else ""
    match = re.search(r"^VmHWM:\s+(\d+) kB", text, re.M)
    return int(match[1]) * _KIBIBYTE if match else None
