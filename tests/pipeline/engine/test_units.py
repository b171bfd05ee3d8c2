from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.engine.units import Progress, Report, Serial, Unit, open_engine
from pipeline.errors import ModelError
from tests.pipeline.training.test_jobs import RUNTIME


def test_serial_runs_one_unit_after_the_other_and_passes_reports_on_at_once() -> None:
    happened: list[Any] = []

    def do(report: Report) -> int:
        happened.append("begins")
        report(Progress(1, 2))
        happened.append("ends")
        return len(happened)

    for name, outcome in Serial().run(
        [Unit("a", do), Unit("b", do)], lambda name, report: happened.append((name, report))
    ):
        happened.append((name, outcome.result()))
    assert happened == [
        "begins", ("a", Progress(1, 2)), "ends", ("a", 3),
        "begins", ("b", Progress(1, 2)), "ends", ("b", 7),
    ]  # fmt: skip


def test_an_error_is_the_outcome_of_its_unit() -> None:
    def fail(_: Report) -> None:
        raise ModelError("P17: no model")

    ended = Serial().run([Unit("a", fail), Unit("b", lambda _: 1)], print)
    (_, failed), (_, other) = ended
    with pytest.raises(ModelError, match=r"^P17: no model$"):
        failed.result()
    assert other.result() == 1


def test_a_signal_ends_the_stage_not_only_the_unit() -> None:
    def end(_: Report) -> None:
        raise SystemExit(143)

    running: Iterator[Any] = Serial().run([Unit("a", end)], print)
    with pytest.raises(SystemExit):
        next(running)


def test_the_parameters_name_the_engine(tmp_path: Path) -> None:
    with open_engine(RUNTIME, tmp_path) as engine:
        assert isinstance(engine, Serial)
