"""What stages that run side by side share: GPUs and the threads of the CPU."""

import os
from collections.abc import Sequence

from pipeline.errors import ParamsError

_VISIBLE = "CUDA_VISIBLE_DEVICES"


def gpu_slots(device: str, named: Sequence[str] = ()) -> list[str]:
    """Return the GPUs that stages can have, each for one stage at a time.

    Args:
        device: as in `runtime.device`.
        named: by the user; without any, those that torch sees, which minds CUDA_VISIBLE_DEVICES.

    Returns:
        What CUDA_VISIBLE_DEVICES takes; an empty text stands for a GPU that needs no naming, as
        `runtime.device` names it.

    Raises:
        ParamsError: GPUs are named and `runtime.device` says otherwise, or torch cannot use one.
    """
    if device in ("auto", "cuda"):
        if not named:
            return _seen_gpus()
        _check_named(named)
        return list(named)
    if named:
        raise ParamsError(
            f"--gpus names GPUs, but runtime.device is {device}; set it to auto or cuda, or leave "
            "--gpus out"
        )
    return [""] if device.startswith("cuda:") else []


def threads_each(jobs: int) -> int:
    """Return each stage's share of the cores, at least one.

    It hangs on the number of jobs alone, not on what else runs at the moment: the number of threads
    can change the last bits of a sum, and so what training ends with.
    """
    return max(1, _cores() // jobs)


def _check_named(named: Sequence[str]) -> None:
    """Check that torch can use each GPU, where a stage would take the CPU without a word."""
    count = _count_gpus()
    for gpu in named:
        usable = int(gpu) < count if gpu.isdecimal() else count > 0 and _count_gpus(gpu) > 0
        if usable:
            continue
        if count:
            seen = f"sees {', '.join(map(str, range(count)))} here; name some of these"
        else:
            seen = "sees no GPU here; see what `ptune doctor` says of it"
        raise ParamsError(f"--gpus {gpu}: torch {seen}, or leave --gpus out")


def _count_gpus(visible: str | None = None) -> int:
    """Return how many GPUs torch sees where this is CUDA_VISIBLE_DEVICES; None: of all."""
    import torch

    before = os.environ.pop(_VISIBLE, None)
    if visible is not None:
        os.environ[_VISIBLE] = visible
    try:
        return torch.cuda.device_count()
    finally:
        os.environ.pop(_VISIBLE, None)
        if before is not None:
            os.environ[_VISIBLE] = before


def _seen_gpus() -> list[str]:
    hidden = os.environ.get(_VISIBLE)
    if hidden is not None:
        return [gpu.strip() for gpu in hidden.split(",") if gpu.strip() not in ("", "-1")]
    import torch

    return [str(number) for number in range(torch.cuda.device_count())]


def _cores() -> int:
    """Return how many cores this process may use, which may be fewer than there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
