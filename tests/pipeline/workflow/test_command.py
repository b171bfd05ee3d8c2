"""What a command is about; the whole of `ptune sync` is tried in tests/test_pipeline.py."""

import shlex

import pytest
from ruamel.yaml import YAML

from pipeline.history.store import EXPERIMENTS
from pipeline.workflow.command import About, about_command
from tests.project import ROOT

STAGES = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]


@pytest.mark.parametrize(
    ("command", "about", "name"),
    [
        ("validate --out x", About("validate"), "validate"),
        ("download model --out x", About("download", "model"), "download/model"),
        (
            "download superglue rte --out x",
            About("download", "superglue", "rte"),
            "download/superglue/rte",
        ),
        ("splits lama --raw x", About("splits", "lama"), "splits/lama"),
        ("train lama manual --model x", About("train", "lama", "", "manual"), "train/lama/manual"),
        (
            "evaluate stability p-tuning --model x",
            About("evaluate", "stability", "", "p-tuning"),
            "evaluate/stability/p-tuning",
        ),
        (
            "train superglue rte p-tuning --model x",
            About("train", "superglue", "rte", "p-tuning"),
            "train/superglue/rte/p-tuning",
        ),
        ("report build --metrics x", About("report"), "report"),
    ],
)
def test_a_command_says_what_its_stage_is_about(command: str, about: About, name: str) -> None:
    found = about_command(f"python -m stages.{command}")
    assert found == about
    assert found.name == name
    assert found.tags == {
        key: value
        for key, value in {
            "stage": about.kind,
            "benchmark": about.benchmark,
            "task": about.task,
            "method": about.method,
        }.items()
        if value
    }


@pytest.mark.parametrize(
    "command",
    [
        "",
        "python",
        "python -m other.thing",
        "echo 1 > a",
        "python -m stages.other x",
        "python -m stages.train lama p-tuning again",
        "python -m stages.train superglue rte p-tuning again",
    ],
)
def test_a_command_of_somebody_elses_is_left_alone(command: str) -> None:
    assert about_command(command) is None


@pytest.mark.parametrize("name", STAGES)
def test_each_stage_of_the_pipeline_is_understood(name: str) -> None:
    """Its own interpolations stand for task and method."""
    found = about_command(STAGES[name]["cmd"])
    assert found is not None
    assert found.kind in EXPERIMENTS
    assert found.kind == name.partition("-")[0]
    words = shlex.split(STAGES[name]["cmd"])
    assert (found.method == "${item.method}") == ("${item.method}" in words)
    assert (found.task == "${item.task}") == ("${item.task}" in words)
