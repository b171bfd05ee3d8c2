"""Gathering reads a project as the stages leave it; the history is a function given to it."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipeline.config.schema import load_params
from pipeline.errors import DataError
from pipeline.files import read_json, write_json
from pipeline.report.collect import About, gather
from stages import report as stage
from tests.pipeline.report.conftest import SPLITS, Files
from tests.project import ROOT, edit_params

HARDWARE = {"processor": "Abacus", "cores": 2, "gpu": None}
SECONDS = {("train", "lama", "p-tuning"): 90.0, ("evaluate", "stability", "manual"): 6.0}


@pytest.fixture
def project(tmp_path):
    """A project with files of evaluation but without git."""
    shutil.copyfile(ROOT / "params.yaml", tmp_path / "params.yaml")
    edit_params(
        tmp_path,
        model__name="smollm2-135m-instruct",
        lama__relations=["P17", "P30"],
        lama__methods=["manual", "p-tuning"],
        lama__stability__methods=["manual", "prompt-tuning"],
        lama__stability__relations=["P17"],
    )
    files = Files(tmp_path)
    files.add_lama(relations=["P17", "P30"])
    files.add_stability(["manual", "prompt-tuning"])
    return tmp_path


def _gather(project):
    return gather(
        load_params(project / "params.yaml"),
        project,
        About("one", "a note", "2026-01-02", HARDWARE),
        seconds_of=lambda *about: SECONDS.get(about),
    )


def test_a_record_holds_what_the_files_hold(project):
    record = _gather(project)
    assert json.loads(json.dumps(record)) == record
    assert (record["name"], record["note"], record["date"]) == ("one", "a note", "2026-01-02")
    assert record["hardware"] == HARDWARE
    assert record["splits"] == SPLITS | {"relations": 2}
    assert list(record["methods"]) == ["manual", "p-tuning"]
    for method, own in record["methods"].items():
        assert own["metrics"] == read_json(project / f"metrics/lama/{method}.json")
    assert record["methods"]["p-tuning"]["relations"][1] == {
        "relation": "P30",
        "label": "label 1",
        "facts": 41,
        "left_out": 1,
        "majority": 1 / 29,
        "naive_bayes": 1 / 23,
        "p_at_1": 12 / 41,
    }
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


def test_seconds_are_those_of_the_history_and_none_without_one(project):
    record = _gather(project)
    assert record["methods"]["p-tuning"]["seconds"] == {"train": 90.0, "evaluate": None}
    assert record["methods"]["manual"]["seconds"] == {"train": None, "evaluate": None}
    assert record["stability"]["manual"]["seconds"] == {"train": None, "evaluate": 6.0}


def test_parameters_are_those_of_the_methods_and_no_others(project):
    edit_params(project, seed=7, lama__splits={"train_facts": 5, "dev_facts": None,
                                               "test_facts": 9})  # fmt: skip
    params = _gather(project)["params"]
    assert set(params) == {"seed", "model", "lama"}
    assert params["seed"] == 7
    assert params["model"]["name"] == "smollm2-135m-instruct"
    assert params["lama"]["splits"] == {"train_facts": 5, "dev_facts": None, "test_facts": 9}
    for section in ("prompts", "training"):
        assert set(params["lama"][section]) == {"manual", "p-tuning", "prompt-tuning"}


def test_of_a_model_in_a_folder_only_the_name_is_kept(project):
    (project / "weights" / "mine").mkdir(parents=True)
    edit_params(project, model__name=str(project / "weights" / "mine"))
    assert _gather(project)["params"]["model"]["name"] == "mine"
    assert str(project) not in json.dumps(_gather(project))


def test_without_git_the_commit_is_unknown(project, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(project.parent))
    assert _gather(project)["git"] == {"commit": None, "dirty": None}


def test_a_change_of_code_or_parameters_is_noted_and_another_is_not(project):
    def git(*arguments):
        done = subprocess.run(["git", *arguments], cwd=project, check=True, capture_output=True)
        return done.stdout.decode().strip()

    git("init", "-q")
    git("add", "params.yaml")
    git("commit", "-qm", "start")
    assert _gather(project)["git"] == {"commit": git("rev-parse", "HEAD"), "dirty": False}
    (project / "pipeline").mkdir()
    (project / "pipeline" / "new.py").write_text("")
    assert _gather(project)["git"]["dirty"] is True


@pytest.mark.parametrize(
    ("edits", "methods", "stability"),
    [
        ({"lama__methods": []}, [], ["manual", "prompt-tuning"]),
        ({"lama__relations": []}, [], ["manual", "prompt-tuning"]),
        ({"lama__stability__methods": []}, ["manual", "p-tuning"], []),
        ({"lama__relations": "all"}, ["manual", "p-tuning"], ["manual", "prompt-tuning"]),
    ],
)
def test_what_params_yaml_does_not_list_is_not_gathered(project, edits, methods, stability):
    edit_params(project, **edits)
    record = _gather(project)
    assert list(record["methods"]) == methods
    assert list(record["stability"]) == stability


def test_a_project_without_knowledge_probing_is_refused(project):
    edit_params(project, lama__methods=[], lama__stability__methods=[])
    with pytest.raises(DataError, match="nothing to collect"):
        _gather(project)


def test_files_about_other_relations_than_params_yaml_are_refused(project):
    edit_params(project, lama__relations=["P17", "P47"])
    with pytest.raises(DataError, match=r"evaluation/lama/manual is about P17, P30.*dvc repro"):
        _gather(project)


def _invoke(*arguments):
    return CliRunner().invoke(stage.app, list(map(str, arguments)))


def test_the_commands_keep_a_record_and_write_the_page(project, monkeypatch):
    monkeypatch.chdir(project)
    monkeypatch.setattr(stage, "stage_seconds", lambda _, *about: SECONDS.get(about))
    edit_params(project, runtime__device="cpu")
    folder, page = Path("docs/results/lama"), Path("docs/results/lama.md")
    done = _invoke("collect", "--name", "one", "--out", folder, "--note", "a note")
    assert done.exit_code == 0, done.output
    record = read_json(folder / "one.json")
    assert record["note"] == "a note"
    assert record["hardware"]["gpu"] is None
    assert record["hardware"]["cores"] > 0
    assert record["methods"]["p-tuning"]["seconds"]["train"] == 90.0

    write_json(folder / "another.json", record | {"name": "another"})
    assert _invoke("results", "--results", folder, "--out", page).exit_code == 0
    text = page.read_text()
    assert text.index("| `another` |") < text.index("| `one` |")
    assert _invoke("results", "--results", folder, "--out", "again.md").exit_code == 0
    assert Path("again.md").read_text() == text


@pytest.mark.parametrize("name", ["", "a/b", "../a", ".hidden", "a b", "ä"])
def test_a_name_that_is_no_file_name_is_refused(project, monkeypatch, name):
    monkeypatch.chdir(project)
    done = _invoke("collect", "--name", name, "--out", "out")
    assert done.exit_code == 1
    assert "error: --name" in done.output
    assert not Path("out").exists()


def test_a_folder_without_records_is_named(tmp_path):
    done = _invoke("results", "--results", tmp_path, "--out", tmp_path / "page.md")
    assert done.exit_code == 1
    assert "no records" in done.output
    assert not (tmp_path / "page.md").exists()
