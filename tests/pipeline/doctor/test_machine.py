import importlib.metadata
import sys
import warnings
from collections import namedtuple
from pathlib import Path

import psutil
import pytest
import torch

from pipeline.doctor import machine
from pipeline.errors import ModelError


def test_python_and_torch_are_reported_with_their_versions() -> None:
    assert sys.executable in machine.check_python()
    found = machine.check_torch(3)
    assert found.startswith(f"{torch.__version__}, 3 of ")


def test_packages_are_held_against_the_lock(tmp_path: Path) -> None:
    lock = tmp_path / "requirements.lock"
    assert machine.check_packages(lock)[0] == "skipped"
    version = importlib.metadata.version("typer")
    lock.write_text(f"typer=={version}\n")
    assert machine.check_packages(lock) == f"1, as in {lock}"
    lock.write_text(f"typer==0.0.1\npsutil=={importlib.metadata.version('psutil')}\n")
    differs = machine.check_packages(lock)
    assert differs.state == "warning"
    assert f"1 of 2 differ from {lock}: typer {version} instead of 0.0.1" in differs.message
    lock.write_text("".join(f"no-such-{n}==1\n" for n in range(5)))
    missing = machine.check_packages(lock)
    assert missing.state == "failed"
    assert missing.message == "not installed: no-such-0, no-such-1, no-such-2 and 2 more"


def test_a_machine_without_a_gpu_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert machine.check_gpu("auto") == "none; using the CPU"
    with pytest.raises(ModelError, match="cuda:1 is not on this machine"):
        machine.check_gpu("cuda:1")


def test_gpus_are_reported_with_their_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    about = namedtuple("about", ["name", "total_memory"])
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda number: about(f"H{number}", 80e9)
    )
    assert machine.check_gpu("auto") == "H0, 80 GB, H1, 80 GB"


def test_a_training_that_takes_more_gpus_than_there_are_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    about = namedtuple("about", ["name", "total_memory"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: about("H", 80e9))
    assert machine.check_gpu("cuda", 2) == "H, 80 GB, H, 80 GB"
    for device in ("auto", "cuda"):
        with pytest.raises(ModelError, match="gpus_per_training is 4, but this process sees 2"):
            machine.check_gpu(device, 4)


def test_a_driver_that_does_not_fit_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def count() -> int:
        warnings.warn("CUDA initialization: the driver is too old\nmore", stacklevel=1)
        return 0

    monkeypatch.setattr(torch.cuda, "device_count", count)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    finding = machine.check_gpu("auto")
    assert finding.state == "warning"
    assert finding.message == "CUDA initialization: the driver is too old"


@pytest.mark.parametrize(("free", "state"), [(20e9, "ok"), (2e9, "warning"), (0.1e9, "failed")])
def test_the_fullest_disk_decides(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, free: float, state: str
) -> None:
    usage = namedtuple("usage", ["free"])
    monkeypatch.setattr(
        machine.shutil, "disk_usage", lambda path: usage(free if path == tmp_path else 90e9)
    )
    finding = machine.check_disk({"the checkout": Path("/"), "the DVC cache": tmp_path})
    found_state, message = ("ok", finding) if isinstance(finding, str) else finding[:2]
    assert found_state == state
    assert "90.0 GB free for the checkout" in message


def test_little_memory_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = namedtuple("memory", ["total", "available"])
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory(2e9, 1e9))
    assert machine.check_memory()[0] == "warning"
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory(16e9, 1e9))
    assert machine.check_memory() == "16.0 GB, 1.0 GB of it available"
