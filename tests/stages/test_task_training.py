import contextlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.training.loop import Trained
from pipeline.training.selection import Unit
from stages import task_training
from stages.task_training import TaskTraining

UNIT = Unit(1, 1, 34)


@pytest.mark.parametrize("discarded", [False, True])
def test_vectors_and_scores_are_those_of_the_weights_that_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, discarded: bool
) -> None:
    progress, out = tmp_path / "progress", tmp_path / "out"
    first, again = (Trained(best_epoch=epoch) for epoch in (1, 2))
    weights = task_training.weights_file(progress, "rte")
    weights.parent.mkdir(parents=True)
    if not discarded:
        weights.write_text("of the first")
    training: Any = object.__new__(TaskTraining)
    training.task = "rte"
    training.settings = [SimpleNamespace(training=SimpleNamespace(tune=["prompt", "model"]))]

    @contextlib.contextmanager
    def folder(unit: Unit) -> Iterator[Path]:
        yield progress

    def train(unit: Unit, folder: Path, report: object) -> Trained:
        weights.write_text("of the second")
        return again

    monkeypatch.setattr(training, "_folder", folder)
    monkeypatch.setattr(training, "_train", train)
    kept = training.keep(UNIT, first, out)
    assert kept is (again if discarded else first)
    linked = task_training.weights_file(out, UNIT.name).read_text()
    assert linked == ("of the second" if discarded else "of the first")
