"""Records of SuperGLUE and the page that is written from them."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from pipeline.config.schema import load_params
from pipeline.errors import DataError
from pipeline.files import read_json, write_json, write_jsonl
from pipeline.report.collect import About
from pipeline.report.tasks_collect import gather_tasks
from pipeline.report.tasks_page import tasks_page
from stages import report as stage
from tests.pipeline.report.conftest import Files
from tests.project import ROOT, edit_params

SECONDS = {("train", "superglue", "p-tuning", "rte"): 90.0}


def _rte(labels: str) -> list[dict[str, Any]]:
    names = {"e": "entailment", "n": "not_entailment"}
    return [
        {"premise": f"a {i}", "hypothesis": "b", "label": names[label], "idx": i}
        for i, label in enumerate(labels)
    ]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with files of evaluation but without git."""
    shutil.copyfile(ROOT / "params.yaml", tmp_path / "params.yaml")
    edit_params(
        tmp_path, superglue__source="superglue", superglue__seeds=[1, 2],
        superglue__methods=["manual", "p-tuning"],
        superglue__overrides__rte={"p-tuning": {"batch": 4}},
    )  # fmt: skip
    Files(tmp_path).add_task("rte")
    splits = tmp_path / "data" / "splits" / "superglue" / "rte"
    (splits / "1").mkdir(parents=True)
    write_jsonl(splits / "1" / "train.jsonl", _rte("ennn"))
    write_jsonl(splits / "test.jsonl", _rte("eeenn"))
    counts = {"1/train/examples": 4, "1/dev/examples": 2, "test/examples": 5}
    write_json(splits / "counts.json", counts)
    return tmp_path


def _gather(project: Path) -> Any:
    return gather_tasks(
        load_params(project / "params.yaml"),
        project,
        About("one", "a note", "2026-01-02", {"processor": "Abacus", "cores": 2, "gpu": None}),
        seconds_of=lambda *about: SECONDS.get(about),
    )


def test_a_record_holds_what_the_files_hold(project: Path) -> None:
    record = _gather(project)
    assert json.loads(json.dumps(record)) == record
    own = record["tasks"]["rte"]
    assert own["majority"] == {"label": "not_entailment", "score": 0.4, "accuracy": 0.4}
    assert own["counts"]["test/examples"] == 5
    assert list(own["methods"]) == ["manual", "p-tuning"]
    tuned = own["methods"]["p-tuning"]
    assert tuned["metrics"] == read_json(project / "metrics/superglue/rte/p-tuning.json")
    assert tuned["seconds"] == {"train": 90.0, "evaluate": None}
    assert [row["seed"] for row in tuned["trainings"]] == [1, 2]
    assert len(tuned["settings"]) == 2
    glue = record["params"]["superglue"]
    assert (list(glue["training"]), list(glue["prompts"])) == (["manual", "p-tuning"], ["rte"])


def test_splits_that_are_missing_are_named(project: Path) -> None:
    shutil.rmtree(project / "data")
    with pytest.raises(DataError, match=r"data/splits/superglue/rte: no such folder; run"):
        _gather(project)


def test_no_task_is_nothing_to_collect(project: Path) -> None:
    edit_params(project, superglue__tasks=[])
    with pytest.raises(DataError, match="nothing to collect"):
        _gather(project)


def _table(page: str, heading: str) -> list[list[str]]:
    """Return the rows of the first table below a heading."""
    below = page.partition(f"# {heading}\n")[2]
    lines = re.findall(r"(?:^\|.*\|\n)+", below, re.MULTILINE)[0].splitlines()
    return [line.strip("| ").split(" | ") for line in lines[2:]]


def test_the_page_shows_the_numbers_of_the_record(project: Path) -> None:
    page = tasks_page([_gather(project)])
    scores = _table(page, "Scores")
    assert scores[1][:3] == ["rte", "p-tuning", "65.3 ± 0.7"]
    assert [row[4:8] for row in _table(page, "By training")] == [
        ["1", "2", "62.0", "65.3"],
        ["2", "2", "64.0", "66.3"],
    ]
    assert _table(page, "Training and prompts")[1][5:7] == ["batch: 4", "1.5"]
    assert _table(page, "Examples and majority class") == [
        ["rte", "4", "2", "5", r"not\_entailment", "40.0", "accuracy 40.0"]
    ]


def test_what_guessing_explains_is_said_to_be_chance(project: Path) -> None:
    # Of 5 examples, 50 % and 43.8 % more is what guessing may reach.
    record = _gather(project)
    assert "- rte: manual, p-tuning (" in tasks_page([record])
    # Of 400 it is 54.9 %, below the 65.3 % of p-tuning.
    record["tasks"]["rte"]["counts"]["test/examples"] = 400
    assert "- rte: manual (accuracy of at most 50.0 by guessing, plus 4.9 " in tasks_page([record])


def test_the_page_says_what_was_not_run(project: Path) -> None:
    page = tasks_page([_gather(project)])
    assert "- Tasks not run with any method: boolq, cb, copa, multirc, wic, wsc\n" in page
    assert "- Methods not run on any task: classifier, manual-fine-tuning, prompt-tuning\n" in page
    assert "- Protocols not run: multi-split, full-held-out, full-paper\n" in page
    assert "No setting was searched" not in page


def test_the_commands_write_record_and_page(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    monkeypatch.setattr(stage, "stage_seconds", lambda _, *about: SECONDS.get(about))
    for command in (
        ["collect-tasks", "--name", "few", "--out", "records"],
        ["tasks-results", "--results", "records", "--out", "page.md"],
    ):
        done = CliRunner().invoke(stage.app, command)
        assert done.exit_code == 0, done.output
    record = read_json(project / "records" / "few.json")
    assert (project / "page.md").read_text() == tasks_page([record])
