"""What a command is about; the whole of `ptune sync` is tried in tests/test_pipeline.py."""

import os
import shlex
import subprocess
import sys

import pytest
from ruamel.yaml import YAML

from pipeline.workflow.command import EXPERIMENTS, StageInfo
from tests.project import ROOT

STAGES = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]


@pytest.mark.parametrize(
    ("command", "about", "name"),
    [
        ("validate --out x", StageInfo("validate"), "validate"),
        ("download model --out x", StageInfo("download", "model"), "download/model"),
        (
            "download superglue rte --out x",
            StageInfo("download", "superglue", "rte"),
            "download/superglue/rte",
        ),
        ("splits lama --raw x", StageInfo("splits", "lama"), "splits/lama"),
        (
            "train lama manual --model x",
            StageInfo("train", "lama", "", "manual"),
            "train/lama/manual",
        ),
        (
            "evaluate stability p-tuning --model x",
            StageInfo("evaluate", "stability", "", "p-tuning"),
            "evaluate/stability/p-tuning",
        ),
        (
            "train superglue rte p-tuning --model x",
            StageInfo("train", "superglue", "rte", "p-tuning"),
            "train/superglue/rte/p-tuning",
        ),
        ("report build --metrics x", StageInfo("report"), "report"),
    ],
)
def test_a_command_says_what_its_stage_is_about(command: str, about: StageInfo, name: str) -> None:
    found = StageInfo.from_command(f"python -m stages.{command}")
    assert found == about
    assert found.name == name
    assert found.tags == {
        key: value
        for key, value in {
            "stage": about.stage,
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
        "python -m",
        "echo 1 > a",
        "echo it's",
        "python -m stages.report --out a\necho 1 > b",
        "python -m stages.other x",
        "python -m stages.train lama p-tuning again",
        "python -m stages.train superglue rte p-tuning again",
    ],
)
def test_a_command_of_somebody_elses_is_left_alone(command: str) -> None:
    assert StageInfo.from_command(command) is None


def test_the_options_of_a_command_are_read() -> None:
    info = StageInfo.from_command("python -m stages.train lama manual --out 'a b' --model c\n")
    assert info == StageInfo("train", "lama", "", "manual")
    assert info.options == {"--out": "a b", "--model": "c"}
    assert info.experiment == "p-tuning-train"


@pytest.mark.parametrize("name", STAGES)
def test_each_stage_of_the_pipeline_is_understood(name: str) -> None:
    """Its own interpolations represent task and method."""
    command = STAGES[name].get("do", STAGES[name])["cmd"].replace("${key}", "${item.task}")
    found = StageInfo.from_command(command)
    assert found is not None
    assert found.stage in EXPERIMENTS
    assert found.stage == name.partition("-")[0]
    words = shlex.split(command)
    assert (found.method == "${item.method}") == ("${item.method}" in words)
    assert (found.task == "${item.task}") == ("${item.task}" in words)


def test_the_experiments_have_the_prefix_that_mlflows_variable_gives() -> None:
    code = "from pipeline.workflow.command import EXPERIMENTS as e; print(*sorted(set(e.values())))"
    for name, prefix in (("", "p-tuning"), ("team a", "team a")):
        done = subprocess.run(
            [sys.executable, "-c", code], text=True, capture_output=True, check=True,
            env={**os.environ, "MLFLOW_EXPERIMENT_NAME": name},
        )  # fmt: skip
        ends = ("data", "evaluate", "promote", "report", "train")
        assert done.stdout.strip() == " ".join(f"{prefix}-{end}" for end in ends)
