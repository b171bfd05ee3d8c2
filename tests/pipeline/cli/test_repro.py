"""How `ptune repro` takes signals; stages that run: tests/test_parallel.py."""

import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest
import typer

from pipeline.cli.repro import _signals


@pytest.fixture
def ignored() -> Iterator[signal.Signals]:
    """A signal that this process ignores, as under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    yield signal.SIGHUP
    signal.signal(signal.SIGHUP, before)


def test_a_signal_that_the_caller_ignores_stops_nothing(ignored: signal.Signals) -> None:
    stopped: list[str] = []
    before = signal.getsignal(signal.SIGTERM)
    with _signals(lambda: stopped.append("stopped")) as caught:
        os.kill(os.getpid(), ignored)
        assert signal.getsignal(signal.SIGTERM) is not before
    assert (caught, stopped) == ([], [])
    assert signal.getsignal(ignored) is signal.SIG_IGN
    assert signal.getsignal(signal.SIGTERM) is before


def test_stages_are_stopped_where_nothing_can_be_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(typer, "echo", fail)
    stopped: list[str] = []
    with _signals(lambda: stopped.append("stopped")) as caught:
        os.kill(os.getpid(), signal.SIGTERM)
    assert (caught, stopped) == ([signal.SIGTERM], ["stopped"])
