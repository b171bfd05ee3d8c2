"""The machine of a benchmark: its name, clock, memory and fastest matrix product."""

import os
import platform
import re
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from pipeline.history import context

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")
_KIBIBYTE = 1024

# Size of the matrices whose product is timed; one product takes from a few ms to 0.1 s.
_SIDE = {"cpu": 2048, "cuda": 8192, "mps": 4096}
_PRODUCTS = 10


# Formulas for the floating-point operations of matrix products, by operator.
_FLOPS = dict(flop_registry)
if hasattr(torch.ops.mkldnn, "_linear_pointwise"):  # of `pipeline.models.linear`
    _FLOPS[torch.ops.mkldnn._linear_pointwise] = lambda rows, weight, *_, **__: (
        2 * rows.numel() * len(weight)
    )

# The phases of a training. Planning the passes of dev is set-up as well, as it is done once.
SETUP, STEP, DEV, TEST = PHASES = ("set-up", "step", "dev", "test")
_REST = "rest"


@dataclass
class Cost:
    """What a phase costs.

    Attributes:
        seconds: wall-clock time.
        cpu_seconds: CPU time of all threads of this process, including busy waiting.
        passes: forward passes of the language model.
        positions: of these passes, padding included.
        operations: that torch runs, views included; on a GPU each is a launch.
        flops: floating-point operations of the matrix products among them.
    """

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    passes: int = 0
    positions: int = 0
    operations: int = 0
    flops: int = 0


class Meter(TorchDispatchMode):
    """Measures the phases of one run; a phase within another one is not counted to that.

    The device is synchronized where phases begin and end. Operations are counted in a `with`
    statement only, as that takes time. Products within an LSTM module are in one operation and not
    counted.
    """

    def __init__(self, network: nn.Module) -> None:
        """Measure runs of a transformers model that takes `inputs_embeds`."""
        super().__init__()
        self.costs: defaultdict[str, Cost] = defaultdict(Cost)
        self._network: Any = network
        self._device = next(network.parameters()).device
        self._phases = [_REST]

    def measure(self, run: Callable[["Meter"], Any]) -> Any:
        """Call a function with the meter, and return what it returns; once only."""
        hook = self._network.base_model.register_forward_pre_hook(self._note, with_kwargs=True)
        _reset_peak(self._device)
        self._mark = self._now()
        try:
            return run(self)
        finally:
            hook.remove()
            self.peak_bytes = _peak(self._device)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count what happens within to a phase."""
        self._lap()
        self._phases.append(name)
        try:
            yield
        finally:
            self._lap()
            self._phases.pop()

    @contextmanager
    def watched(self, owner: type, **phases: str) -> Iterator[None]:
        """Count the calls of some methods of a class to phases: name of the method -> phase."""
        with ExitStack() as stack:
            for name, phase in phases.items():
                method = self.phase(phase)(getattr(owner, name))
                stack.enter_context(patch.object(owner, name, method))
            yield

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count an operation and run it."""
        result = func(*args, **(kwargs or {}))
        cost, formula = self.costs[self._phases[-1]], _FLOPS.get(func._overloadpacket)
        cost.operations += 1
        if formula is not None:
            cost.flops += formula(*args, **(kwargs or {}), out_val=result)
        return result

    def _note(self, _: nn.Module, __: Any, inputs: dict[str, Any]) -> None:
        cost = self.costs[self._phases[-1]]
        cost.passes += 1
        cost.positions += inputs["inputs_embeds"].shape[:2].numel()

    def _now(self) -> tuple[float, float]:
        _synchronize(self._device)
        return time.perf_counter(), time.process_time()

    def _lap(self) -> None:
        (before, cpu_before), self._mark = self._mark, self._now()
        cost = self.costs[self._phases[-1]]
        cost.seconds += self._mark[0] - before
        cost.cpu_seconds += self._mark[1] - cpu_before


def peak_flops(device: torch.device, dtype: torch.dtype, clock: str) -> float:
    """FLOP/s of the fastest of several large matrix products; `clock` is a time of `Cost`."""
    now = time.process_time if clock == "cpu_seconds" else time.perf_counter
    side = _SIDE[device.type]
    left, right = (torch.randn(side, side).to(device, dtype) for _ in range(2))

    def seconds() -> float:
        _synchronize(device)
        start = now()
        left @ right
        _synchronize(device)
        return now() - start

    return 2 * side**3 / min(seconds() for _ in range(_PRODUCTS))


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
    """The versions that determine speed; packages that are missing are left out."""
    found = {"python": platform.python_version()}
    for name in ("torch", "transformers", "peft", "accelerate"):
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif sys.platform == "linux":
        # Where this is denied, the peak is that of the process since its start.
        with suppress(OSError):
            _CLEAR.write_text("5")


def _peak(device: torch.device) -> int | None:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    text = _STATUS.read_text() if _STATUS.exists() else ""
    match = re.search(r"^VmHWM:\s+(\d+) kB", text, re.M)
    return int(match[1]) * _KIBIBYTE if match else None
