"""GPUs and CPU threads for stages that run side by side."""

import os
from collections.abc import Sequence

from pipeline.errors import ParamsError

_VISIBLE = "CUDA_VISIBLE_DEVICES"


def gpu_slots(device: str, named: Sequence[str] = ()) -> list[str]:
    """The GPUs available to stages, each for one stage at a time, with this `runtime.device`.

    Without any that the user named, they are those that torch sees, given CUDA_VISIBLE_DEVICES.

    Returns:
        Values for CUDA_VISIBLE_DEVICES; an empty string is the GPU that `runtime.device` names.

    Raises:
        ParamsError: GPUs are named but `runtime.device` names another device, or torch cannot use
            one of them.
    """
    if device in ("auto", "cuda"):
        if not named:
            hidden = os.environ.get(_VISIBLE)
            if hidden is None:
                return [str(number) for number in range(_count_gpus())]
            return [gpu.strip() for gpu in hidden.split(",") if gpu.strip() not in ("", "-1")]
        _check_named(named)
        return list(named)
    if named:
        raise ParamsError(
            f"--gpus names GPUs, but runtime.device is {device}; set it to auto or cuda, or leave "
            "--gpus out"
        )
    return [""] if device.startswith("cuda:") else []


def threads_each(jobs: int) -> int:
    """Number of CPU threads of each stage, at least one.

    It depends only on the number of jobs, not on the load: the number of threads can change the
    last bits of a sum, and so the result of training.
    """
    # This process may be allowed fewer cores than the machine has.
    allowed = getattr(os, "sched_getaffinity", None)
    cores = len(allowed(0)) if allowed else os.cpu_count() or 1
    return max(1, cores // jobs)


def _check_named(named: Sequence[str]) -> None:
    """Check that torch can use each GPU; otherwise a stage would silently use the CPU."""
    count = _count_gpus()
    for gpu in named:
        usable = int(gpu) < count if gpu.isdecimal() else count > 0 and _count_gpus(gpu) > 0
        if not usable:
            seen = "sees no GPU here; see `ptune doctor`"
            if count:
                seen = f"sees {', '.join(map(str, range(count)))} here; choose from these"
            raise ParamsError(f"--gpus {gpu}: torch {seen}, or leave --gpus out")


def _count_gpus(visible: str | None = None) -> int:
    """Number of GPUs that torch sees with this CUDA_VISIBLE_DEVICES; None: of all."""
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
