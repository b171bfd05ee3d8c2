import os

import pytest
import torch

from pipeline.errors import ParamsError
from pipeline.workflow.resources import gpu_slots, threads_each


@pytest.mark.parametrize(
    ("visible", "expected"),
    [("0,1", ["0", "1"]), ("", []), ("-1", []), ("GPU-5a, 2", ["GPU-5a", "2"])],
)
def test_the_gpus_are_those_that_the_environment_leaves_visible(
    monkeypatch: pytest.MonkeyPatch, visible: str, expected: list[str]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert gpu_slots("auto") == expected


def test_where_nothing_is_said_torch_counts_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert gpu_slots("auto") == ["0", "1", "2"]


# Of a machine with two GPUs: what is in CUDA_VISIBLE_DEVICES -> how many torch counts.
COUNTS = {None: 2, "0": 1, "GPU-5a": 1, "GPU-77": 0, "-1": 0}


def count_two() -> int:
    return COUNTS[os.environ.get("CUDA_VISIBLE_DEVICES")]


@pytest.mark.parametrize("visible", [None, "0", "-1"])
def test_named_gpus_count_whatever_the_environment_shows(
    monkeypatch: pytest.MonkeyPatch, visible: str | None
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", count_two)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert gpu_slots("auto", ["1", "0"]) == ["1", "0"]
    assert gpu_slots("cuda", ["GPU-5a"]) == ["GPU-5a"]
    assert os.environ.get("CUDA_VISIBLE_DEVICES") == visible


@pytest.mark.parametrize("gpu", ["2", "7", "-1", "GPU-77"])
def test_a_named_gpu_that_is_not_there_is_told_with_those_that_are(
    monkeypatch: pytest.MonkeyPatch, gpu: str
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", count_two)
    with pytest.raises(ParamsError, match=f"--gpus {gpu}: torch sees 0, 1 here; choose from"):
        gpu_slots("auto", ["0", gpu])


@pytest.mark.parametrize("gpu", ["0", "GPU-5a"])
def test_where_torch_sees_no_gpu_none_can_be_named(
    monkeypatch: pytest.MonkeyPatch, gpu: str
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(ParamsError, match=f"--gpus {gpu}: torch sees no GPU here"):
        gpu_slots("cuda", [gpu])


def test_a_gpu_that_params_name_is_one_slot_and_needs_no_naming() -> None:
    assert gpu_slots("cuda:1") == [""]
    assert gpu_slots("cpu") == gpu_slots("mps") == []


@pytest.mark.parametrize("device", ["cpu", "mps", "cuda:1"])
def test_gpus_that_params_forbid_are_refused(device: str) -> None:
    with pytest.raises(ParamsError, match=f"runtime.device is {device}"):
        gpu_slots(device, ["0"])


def test_stages_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    assert [threads_each(jobs) for jobs in (1, 2, 3, 8, 9)] == [8, 4, 2, 1, 1]
