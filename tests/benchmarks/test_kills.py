"""The script that kills: a short run of it, and what it finds fault with."""

import json
import os
import random
import shutil
from pathlib import Path

import pytest

from benchmarks.kills import (
    BEGIN,
    END,
    FOLDER,
    TARGETS,
    differences,
    draw_moment,
    lose_power,
    make_tiny,
    run_all,
    table,
    unfinished,
)
from pipeline.files import read_json
from tests.project import make_project, run


def test_moments_are_those_of_the_seed_and_differ() -> None:
    drawn = [draw_moment(random.Random(seed), "both") for seed in range(50)]
    assert drawn == [draw_moment(random.Random(seed), "both") for seed in range(50)]
    assert {moment.starts for moment in drawn} == {0, 1, 2}
    assert {moment.at_work for moment in drawn} == {False, True}
    assert len({moment.share for moment in drawn}) == 50


def test_a_loss_of_power_damages_the_files_that_were_written_last(tmp_path: Path) -> None:
    content = b"written before the power was lost"
    for number, folder in enumerate((".work", "models", "metrics", "data")):
        for age in range(2):
            path = tmp_path / folder / f"{age}.json"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content)
            os.utime(path, (1000 - 100 * age + number, 1000 - 100 * age + number))
    kinds = set()
    for seed in range(20):
        project = Path(shutil.copytree(tmp_path, tmp_path.with_name(f"{seed}")))
        damaged = lose_power(project, random.Random(seed))
        kinds |= {name.rpartition(" ")[2] for name in damaged}
        left = {path: path.read_bytes() for path in project.rglob("*.json")}
        lost = {path for path, own in left.items() if own != content}
        assert 1 <= len(lost) == len(damaged) <= 3
        assert {path.name for path in lost} == {"0.json"}
        assert "data" not in {path.parent.name for path in lost}
        assert {left[path] for path in lost} <= {b"", content[:16], bytes(len(content))}
    assert kinds == {"empty", "half", "NULs"}


def test_what_a_kill_leaves_unfinished_is_counted(tmp_path: Path) -> None:
    assert unfinished(tmp_path) == set()
    for name in (".work/units/x/.P17.pt.partial", ".work/unsent/y/entries.jsonl",
                 "models/lama/.p-tuning.partial"):  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    assert unfinished(tmp_path) == {"a checkpoint or progress", "a log", "an output"}


def test_the_page_has_the_counts_of_the_file() -> None:
    result = read_json(FOLDER / "results" / "kills.json")
    readme = (FOLDER / "README.md").read_text()
    assert table(result) == readme.partition(BEGIN)[2].partition(END)[0].strip()
    assert sum(result["targets"].values()) == result["kills"] >= 50
    assert result["faults"] == []


@pytest.mark.slow
def test_each_difference_from_an_undisturbed_run_is_a_fault(
    tmp_path: Path, tiny_folders: dict[str, Path], empty_store: Path
) -> None:
    project = make_project(tmp_path / "project", tiny_folders["gpt2"], superglue__tasks=[])
    shutil.copyfile(empty_store, project / "mlflow.db")
    run(project, "dvc", "repro", "splits-lama")
    assert [bad for _, bad in differences(project, project)] == [[]] * 8
    other = shutil.copytree(project, tmp_path / "other", symlinks=True)
    counts = next((other / "metrics").rglob("*.json"))
    counts.write_text(json.dumps({"facts": 3}))
    (other / ".work" / ("ab" * 32)).mkdir()
    log = other / ".work" / "unsent" / "abc" / "entries.jsonl"
    log.parent.mkdir(parents=True)
    log.touch()
    code = (
        "import sqlite3; store = sqlite3.connect('mlflow.db'); store.execute(\"UPDATE runs SET "
        "status = 'RUNNING' WHERE rowid = 1\"); store.commit()"
    )
    run(other, "python", "-c", code)
    found = {what: bad for what, bad in differences(project, other) if bad}
    assert found.pop("outputs are byte-equal") == [counts.relative_to(other).as_posix()]
    assert found.pop("no progress is left that DVC has not recorded") == ["ab" * 32]
    assert found.pop("no log is left unsent") == ["abc"]
    assert list(found) == [
        "no run is left running", "each key has a finished run",
        "the finished runs have the same metrics",
    ]  # fmt: skip


@pytest.mark.slow
def test_a_pipeline_that_is_killed_ends_as_if_nothing_had_happened(tmp_path: Path) -> None:
    project = make_tiny(tmp_path, superglue__tasks=[])
    kills, _, _ = run_all(project, tmp_path, most=len(TARGETS), seed=0)
    assert kills.faults == []
    assert kills.count == len(TARGETS)
