"""The frame of all stages, where the disk is full or the terminal closed."""

import errno
import io
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from pipeline.errors import DataError, warn
from pipeline.history.run import StageRun
from pipeline.training import jobs
from pipeline.workflow.workdir import WorkFolder
from stages import runtime
from tests.project import ROOT


def refuse(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


class Log(StageRun):
    """A run that logs nowhere."""

    def __init__(self) -> None:
        super().__init__("", None)  # type: ignore[arg-type]
        self.logged: list[dict[str, float]] = []

    def log_metrics(self, metrics: Mapping[str, float], _: int | None = None) -> None:
        self.logged.append(dict(metrics))


def test_the_first_error_is_raised_where_the_time_cannot_be_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(WorkFolder, "note", refuse)
    run = Log()
    with pytest.raises(DataError, match="first"), runtime._timed(run, WorkFolder(tmp_path)):
        raise DataError("first")
    assert list(run.logged[0]) == ["seconds"]


def test_the_error_of_a_training_is_raised_where_its_cost_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "write_json", refuse)
    unit = object.__new__(jobs.BankUnit)
    object.__setattr__(unit, "folder", tmp_path)
    object.__setattr__(unit, "run_id", "abc")
    with pytest.raises(DataError, match="first"), unit._timed(0.0):
        raise DataError("first")


class Closed(io.StringIO):
    """A terminal that was closed."""

    def write(self, _: str) -> int:
        raise OSError(errno.EIO, "Input/output error")


def test_a_closed_terminal_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Closed())
    runtime.echo("P17 epoch 3")
    warn("a file was damaged")


_STOPPED_TWICE = """
import signal, sys
from stages import runtime
first = signal.Signals[sys.argv[1]]
signal.signal(first, signal.default_int_handler if first == signal.SIGINT else signal.SIG_DFL)
runtime._end_with_dvc()
try:
    signal.raise_signal(first)
finally:
    signal.raise_signal(signal.SIGTERM)
    print("the run has ended")
"""


@pytest.mark.parametrize(
    ("first", "code"), [("SIGTERM", 143), ("SIGHUP", 143), ("SIGINT", -signal.SIGINT)]
)
def test_a_second_signal_does_not_interrupt_the_end_of_a_stage(first: str, code: int) -> None:
    """As when the dvc above a stage ends while the stage, stopped by Ctrl-C, ends its run."""
    done = subprocess.run(
        [sys.executable, "-c", _STOPPED_TWICE, first],
        cwd=ROOT, timeout=600, check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert (done.stdout, done.returncode) == ("the run has ended\n", code), done.stderr
