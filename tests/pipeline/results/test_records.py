"""Collecting reads a project as the stages leave it; the history is a function passed to it."""

import json
import shutil
import subprocess

import pytest

from pipeline.config.schema import load_params
from pipeline.errors import DataError
from pipeline.files import read_json
from pipeline.results.records import Record, collect
from tests.pipeline.report.conftest import SPLITS
from tests.project import edit_params

HARDWARE = {"processor": "Abacus", "cores": 2, "gpu": None}
SECONDS = {
    ("train", "lama", "p-tuning"): 90.0,
    ("evaluate", "stability", "manual"): 6.0,
    ("train", "superglue", "p-tuning", "rte"): 90.0,
}


def collected(project, benchmark="lama"):
    return collect(
        benchmark,
        load_params(project / "params.yaml"),
        project,
        {"name": "one", "note": "a note", "date": "2026-01-02", "hardware": HARDWARE},
        seconds_of=lambda *about: SECONDS.get(about),
    )


def test_a_record_of_lama_holds_what_the_files_hold(project):
    record = collected(project)
    assert json.loads(json.dumps(record)) == record
    assert (record["name"], record["note"], record["date"]) == ("one", "a note", "2026-01-02")
    assert record["hardware"] == HARDWARE
    assert record["splits"] == SPLITS | {"relations": 2}
    assert list(record["methods"]) == ["manual", "p-tuning"]
    for method, result in record["methods"].items():
        assert result["metrics"] == read_json(project / f"metrics/lama/{method}.json")
    assert record["methods"]["p-tuning"]["relations"][1] == {
        "relation": "P30",
        "label": "label 1",
        "facts": 41,
        "left_out": 1,
        "majority": 1 / 29,
        "constant": 1 / 28,
        "naive_bayes": 1 / 23,
        "p_at_1": 12 / 41,
    }
    assert [row["task"] for row in record["methods"]["p-tuning"]["trainings"]] == ["P17", "P30"]
    assert list(record["stability"]) == ["manual", "prompt-tuning"]
    stable = record["stability"]["prompt-tuning"]
    assert stable["metrics"] == read_json(project / "metrics/stability/prompt-tuning.json")
    assert stable["templates"][3] == {
        "relation": "P17",
        "number": 4,
        "template": "[P*3] {subject} is located in which country? In {mask}.",
        "facts": 930,
        "p_at_1": 4 / 9,
    }


def test_a_record_of_superglue_holds_what_the_files_hold(project):
    record = collected(project, "superglue")
    assert json.loads(json.dumps(record)) == record
    task = record["tasks"]["rte"]
    assert task["majority"] == {"label": "not_entailment", "score": 0.4, "accuracy": 0.4}
    assert task["constant"] == {"score": 0.6, "accuracy": 0.6}
    assert task["counts"]["test/examples"] == 5
    assert list(task["methods"]) == ["manual", "p-tuning"]
    tuned = task["methods"]["p-tuning"]
    assert tuned["metrics"] == read_json(project / "metrics/superglue/rte/p-tuning.json")
    assert tuned["seconds"] == {"train": 90.0, "evaluate": None}
    assert [row["seed"] for row in tuned["trainings"]] == [1, 2]
    assert len(tuned["settings"]) == 2
    glue = record["params"]["superglue"]
    assert (list(glue["training"]), list(glue["prompts"])) == (["manual", "p-tuning"], ["rte"])


def test_seconds_are_those_of_the_history_and_none_without_one(project):
    record = collected(project)
    assert record["methods"]["p-tuning"]["seconds"] == {"train": 90.0, "evaluate": None}
    assert record["methods"]["manual"]["seconds"] == {"train": None, "evaluate": None}
    assert record["stability"]["manual"]["seconds"] == {"train": None, "evaluate": 6.0}


def test_parameters_are_those_of_the_methods_and_no_others(project):
    splits = {"train_facts": 5, "dev_facts": None, "test_facts": 9}
    edit_params(project, seed=7, lama__splits=splits)
    params = collected(project)["params"]
    assert set(params) == {"seed", "model", "lama"}
    assert params["seed"] == 7
    assert params["model"]["name"] == "smollm2-135m-instruct"
    assert params["lama"]["splits"] == splits
    for section in ("prompts", "training"):
        assert set(params["lama"][section]) == {"manual", "p-tuning", "prompt-tuning"}


def test_of_a_model_in_a_folder_only_the_name_is_kept(project):
    (project / "weights" / "mine").mkdir(parents=True)
    edit_params(project, model__name=str(project / "weights" / "mine"))
    for benchmark in ("lama", "superglue"):
        record = collected(project, benchmark)
        assert record["params"]["model"]["name"] == "mine"
        assert str(project) not in json.dumps(record)


def test_without_git_the_commit_is_unknown(project, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(project.parent))
    assert collected(project)["git"] == {"commit": None, "dirty": None}


def test_a_change_of_code_or_parameters_is_noted_and_another_is_not(project):
    def git(*arguments):
        done = subprocess.run(["git", *arguments], cwd=project, check=True, capture_output=True)
        return done.stdout.decode().strip()

    git("init", "-q")
    git("add", "params.yaml")
    git("commit", "-qm", "start")
    assert collected(project)["git"] == {"commit": git("rev-parse", "HEAD"), "dirty": False}
    (project / "pipeline").mkdir()
    (project / "pipeline" / "new.py").write_text("")
    assert collected(project)["git"]["dirty"] is True


@pytest.mark.parametrize(
    ("edits", "methods", "stability"),
    [
        ({"lama__methods": []}, [], ["manual", "prompt-tuning"]),
        ({"lama__relations": []}, [], ["manual", "prompt-tuning"]),
        ({"lama__stability__methods": []}, ["manual", "p-tuning"], []),
        ({"lama__relations": "all"}, ["manual", "p-tuning"], ["manual", "prompt-tuning"]),
    ],
)
def test_only_what_params_yaml_lists_is_collected(project, edits, methods, stability):
    edit_params(project, **edits)
    record = collected(project)
    assert list(record["methods"]) == methods
    assert list(record["stability"]) == stability


@pytest.mark.parametrize(
    ("benchmark", "edits"),
    [
        ("lama", {"lama__methods": [], "lama__stability__methods": []}),
        ("superglue", {"superglue__tasks": []}),
    ],
)
def test_a_project_without_the_benchmark_is_refused(project, benchmark, edits):
    edit_params(project, **edits)
    with pytest.raises(DataError, match="nothing to collect"):
        collected(project, benchmark)


def test_files_about_other_relations_than_params_yaml_are_refused(project):
    edit_params(project, lama__relations=["P17", "P47"])
    with pytest.raises(DataError, match=r"evaluation/lama/manual is about P17, P30.*dvc repro"):
        collected(project)


def test_splits_that_are_missing_are_named(project):
    shutil.rmtree(project / "data")
    with pytest.raises(DataError, match=r"data/splits/superglue/rte: no such folder; run"):
        collected(project, "superglue")


def test_the_source_of_older_records_has_todays_name(project):
    content = collected(project)
    content["params"]["lama"]["source"] = "gazetteer"
    assert Record("lama", content).source == "geonames"
    assert Record("lama", content).seeds == [34, 35, 36]


def test_records_of_earlier_versions_have_one_seed_and_no_start(project):
    content = collected(project)
    assert Record("lama", content).start == "auto"
    del content["params"]["lama"]["seeds"], content["params"]["model"]["start"]
    record = Record("lama", content)
    assert (record.seeds, record.start) == ([34], None)
