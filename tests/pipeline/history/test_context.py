import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline.history import context
from pipeline.history.context import gpu_in_use, hardware_name, processor_name


def test_the_processor_is_named_as_the_system_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "cpuinfo"
    info.write_text("processor\t: 0\nmodel name\t: Fast One\nflags\t: a\nmodel name\t: Other\n")
    monkeypatch.setattr(context, "_CPUINFO", info)
    assert processor_name() == "Fast One"
    assert hardware_name(None) == f"{os.cpu_count()} cores of Fast One"
    monkeypatch.setattr(context, "_CPUINFO", tmp_path / "none")
    monkeypatch.setattr("platform.processor", lambda: "")
    monkeypatch.setattr("platform.machine", lambda: "arm64")
    assert processor_name() == "arm64"


def test_a_gpu_is_named_where_one_was_used(monkeypatch: pytest.MonkeyPatch) -> None:
    used = SimpleNamespace(is_initialized=lambda: True, get_device_name=lambda: "NVIDIA H200")
    unused = SimpleNamespace(is_initialized=lambda: False)
    for cuda, name in ((used, "NVIDIA H200"), (unused, None)):
        monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
        assert gpu_in_use() == name
    monkeypatch.delitem(sys.modules, "torch")
    assert gpu_in_use() is None
    assert hardware_name("NVIDIA H200") == "NVIDIA H200"
