"""The script of bad inputs: what it finds fault with, and a sample of its cases."""

import shutil
from pathlib import Path

import pytest

from benchmarks.bad_cases import Case, all_cases
from benchmarks.bad_inputs import (
    BEGIN,
    END,
    README,
    RESULTS,
    Ended,
    judge,
    markdown_counts,
    try_all,
)
from pipeline.files import read_json
from tests.project import make_project

CASE = Case("yaml", "one", ("ptune", "doctor"), says="params.yaml")


@pytest.mark.parametrize(
    ("code", "text", "fault"),
    [
        (1, "error: params.yaml: seed: no", ""),
        (0, "all fine", "silent"),
        (1, "error: something is wrong", "unclear"),
        (1, "The checkout was moved: params.yaml\nerror: something is wrong", "unclear"),
        (1, "params.yaml", "no message"),
        (1, "error: params.yaml\nTraceback (most recent call last):\n", "traceback"),
        (-11, "error: params.yaml", "killed"),
    ],
)
def test_each_bad_end_is_a_fault(code: int, text: str, fault: str) -> None:
    assert judge(CASE, Ended(code, text)) == fault


def test_a_hang_and_an_altered_output_are_faults() -> None:
    assert judge(CASE, Ended(-9, "", hung=True)) == "hang"
    assert judge(CASE, Ended(1, "error: params.yaml", changed=("data/x",))) == "half-written"


def test_what_must_work_must_not_be_refused() -> None:
    good = Case("yaml", "one", ("ptune", "doctor"), expected="accepted")
    assert judge(good, Ended(1, "error: no")) == "refused"
    assert judge(good, Ended(0, "yes")) == ""


def test_the_readme_has_the_counts_of_the_file() -> None:
    text = README.read_text("utf-8").partition(BEGIN)[2].partition(END)[0]
    assert text.strip() == markdown_counts(read_json(RESULTS)["kinds"]).strip()


def test_faults_are_counted_by_kind_and_together() -> None:
    kinds = {
        kind: {"date": "2026-01-02", "hardware": "a machine", "counts": counts}
        for kind, counts in {"yaml": {"message": 4, "hang": 1}, "data": {"accepted": 2}}.items()
    }
    lines = markdown_counts(kinds).splitlines()
    assert lines[2:] == [
        "| data | 2 | 0 | 2 | 0 | 2026-01-02, a machine |",
        "| yaml | 5 | 4 | 0 | 1 hang | 2026-01-02, a machine |",
        "| all | 7 | 4 | 2 | 1 |  |",
    ]


def test_there_are_hundreds_of_cases(tmp_path: Path, tiny_folders: dict[str, Path]) -> None:
    assert len(all_cases(make_project(tmp_path / "project", tiny_folders["gpt2"]))) > 1000


@pytest.mark.slow
def test_a_sample_of_the_cases_ends_well(
    tmp_path: Path, tiny_folders: dict[str, Path], empty_store: Path
) -> None:
    """Those that need nothing that was trained; the script runs all of them."""
    project = make_project(tmp_path / "project", tiny_folders["gpt2"])
    shutil.copyfile(empty_store, project / "mlflow.db")
    kinds = ("params", "yaml", "download", "archive")
    cases = [case for case in all_cases(project) if case.kind in kinds]
    cases = [case for case in cases if {"-c", "stages.validate"} & set(case.command)]
    verdicts = list(try_all(project, cases[::60], jobs=1))
    assert len(verdicts) >= 8
    assert not [(v.case.name, v.fault, v.ended.text[-300:]) for v in verdicts if v.fault]
