"""The machine that a run is on, by name."""

import os
import platform
import re
import sys
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")


def processor_name() -> str:
    """Return the processor's name as the system knows it."""
    if _CPUINFO.exists():
        found = re.search(r"^model name\s*:\s*(.+)$", _CPUINFO.read_text("utf-8"), re.MULTILINE)
        if found:
            return found[1].strip()
    return platform.processor() or platform.machine()


def hardware_name(gpu: str | None) -> str:
    """Return a name such as `NVIDIA H200` or `2 cores of AMD EPYC`."""
    return gpu or f"{os.cpu_count()} cores of {processor_name()}"


def gpu_in_use() -> str | None:
    """Return the name of the GPU that this process computes on; None if it has used none."""
    # Stages without a model need not wait for an import of torch.
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return None
    return str(torch.cuda.get_device_name())
