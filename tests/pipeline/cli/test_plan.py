"""`ptune plan` on its own; in a project: tests/test_pipeline.py."""

from pathlib import Path

import pytest

from pipeline.cli import plan
from pipeline.errors import ParamsError
from pipeline.history.forecast import Estimate
from pipeline.workflow.project import Forecast, PlannedStage
from tests.project import ROOT


def test_the_total_says_for_how_many_stages_no_time_is_known() -> None:
    stage = PlannedStage("train-lama@manual", "", {}, Forecast.RUN)
    known = (stage, Estimate("r", 90.0, ()))
    total = "About 3.0 minutes, one stage at a time, by the history"
    assert plan._total([known, known]) == f"{total}."
    assert plan._total([known, (stage, None), known]) == (
        f"{total}; no time known for 1 of 3 stages."
    )
    assert plan._total([(stage, None)]) == (
        "No time known on this machine for any of the 1 stages to run."
    )


@pytest.mark.parametrize(
    ("differing", "cell"),
    [((), "nothing"), (("a", "b"), "a, b"), (("a", "b", "c", "d", "e"), "a, b, c and 2 more")],
)
def test_the_settings_that_differ_are_named(differing: tuple[str, ...], cell: str) -> None:
    assert plan._differing(Estimate("r", 1.0, differing)) == cell


def test_only_the_parameters_of_a_project_have_a_cost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert plan.cost_line(Path("params.yaml")) is None
    (tmp_path / "dvc.yaml").touch()
    assert plan.cost_line(ROOT / "params.yaml") is None


def test_invalid_parameters_end_in_the_message_of_the_first_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (ROOT / "params.yaml").read_text().replace("seed: 34", "sede: 34", 1)
    (tmp_path / "params.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ParamsError, match="did you mean 'seed'"):
        plan.plan()
