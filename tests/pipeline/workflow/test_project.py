import errno
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from dvc.exceptions import DvcException
from dvc.repo import Repo

from pipeline.errors import DataError, PipelineError
from pipeline.workflow.lock import parse_lock, read_lock, whole_entries
from pipeline.workflow.project import (
    Forecast,
    check_rwlock,
    output_hashes,
    plan_stages,
    project_root,
    read_project,
    recorded_run_keys,
    repair,
    repair_lock,
    repair_run_cache,
    repair_rwlock,
    running_stage,
)


def test_outside_dvc_no_stage_runs() -> None:
    assert running_stage() is None
    assert output_hashes() == {}


def test_the_root_is_the_main_checkout_also_in_a_temporary_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert project_root() == tmp_path.resolve()
    monkeypatch.setenv("DVC_ROOT", str(tmp_path / "main"))
    assert project_root() == (tmp_path / "main").resolve()


def test_a_run_key_is_recorded_where_dvcs_run_cache_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Repo.init(str(tmp_path), no_scm=True).close()
    done, killed = "ab" * 32, "cd" * 32
    assert recorded_run_keys([done, killed]) == set()
    # An entry of the run cache is a file named after what the stage has written.
    entry = tmp_path / ".dvc/cache/runs" / done[:2] / done / ("ef" * 32)
    entry.parent.mkdir(parents=True)
    assert recorded_run_keys([done, killed]) == set()  # killed before it was written
    entry.touch()
    assert recorded_run_keys([done, killed]) == {done}
    assert recorded_run_keys([killed]) == set()


def test_nothing_is_asked_of_dvc_where_there_is_no_run_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # where dvc has no repository
    assert recorded_run_keys([]) == set()


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project of two stages that have run."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text("seed: 1\n")
    (tmp_path / "dvc.yaml").write_text(
        "stages:\n"
        "  first: {cmd: echo 1 > first, params: [seed], outs: [first]}\n"
        "  second: {cmd: cat first > second, deps: [first], outs: [second]}\n"
    )
    with Repo.init(str(tmp_path), no_scm=True) as repo:
        repo.reproduce()
    return tmp_path


def test_outputs_stand_while_they_are_there_and_parameters_are_the_same(project: Path) -> None:
    both = ("first", "second", "none of this name")
    found = read_project(both)
    assert found.stages == 2
    assert found.cache == project / ".dvc/cache/files/md5"
    assert found.up_to_date_outputs == {"first": Path("first"), "second": Path("second")}
    assert read_project(["second"]).up_to_date_outputs == {"second": Path("second")}
    (project / "second").unlink()
    assert read_project(both).up_to_date_outputs == {"first": Path("first")}
    (project / "params.yaml").write_text("seed: 2\n")
    assert read_project(both).up_to_date_outputs == {}


@pytest.mark.parametrize("text", ["stages: [", "stages: {a: {cmd: x, outz: [b]}}"])
def test_a_project_that_cannot_be_read_is_reported(project: Path, text: str) -> None:
    (project / "dvc.yaml").write_text(text)
    with pytest.raises(PipelineError, match=r"dvc\.yaml"):
        read_project()


def test_a_folder_that_is_no_project_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PipelineError, match="run from the root of the project"):
        read_project()


@pytest.mark.parametrize("size", [0, 20, 200])
def test_a_lock_file_that_another_dvc_is_writing_is_read_when_it_is_whole(
    project: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    lock = project / "dvc.lock"
    whole = lock.read_text()
    lock.write_text(whole[:size])
    monkeypatch.setenv("DVC_STAGE", "second")
    monkeypatch.setattr(time, "sleep", lambda _: lock.write_text(whole))
    stage = running_stage()
    assert stage is not None
    assert stage.stage == "second"
    assert set(output_hashes()) == {"second"}


def test_a_lock_file_that_stays_damaged_is_an_error(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "dvc.lock").write_text("stages")
    monkeypatch.setenv("DVC_STAGE", "second")
    waits: list[float] = []
    monkeypatch.setattr(time, "sleep", waits.append)
    with pytest.raises(PipelineError, match=r"dvc\.lock"):
        running_stage()
    assert sum(waits) == pytest.approx(2.9)


@pytest.fixture
def checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project like the pipeline: a check of all parameters, a chain, a reader of a folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text("seed: 1\nother: 1\n")
    (tmp_path / "metrics").mkdir()
    log = tmp_path / "log"
    (tmp_path / "dvc.yaml").write_text(
        "stages:\n"
        f"  check: {{cmd: echo check >> {log}; echo ok > ok, deps: [params.yaml], outs: [ok]}}\n"
        f"  first: {{cmd: echo first >> {log}; grep seed params.yaml > first, deps: [ok], "
        "params: [seed], outs: [first]}\n"
        f"  second: {{cmd: echo second >> {log}; cp first metrics/second; mkdir metrics/sub; "
        "cp first metrics/sub, deps: [first], outs: [metrics/second, metrics/sub]}\n"
        f"  third: {{cmd: echo third >> {log}; cat metrics/second > third, deps: [metrics], "
        "outs: [third]}\n"
    )
    with Repo.init(str(tmp_path), no_scm=True) as repo:
        repo.reproduce()
    return tmp_path


def test_a_plan_is_what_repro_then_does(checked: Path) -> None:
    for seed, other, forecasts in (
        (1, 1, "keep keep keep keep"),
        (2, 1, "run run run run"),
        (2, 2, "run keep keep keep"),
        (1, 1, "restore restore restore restore"),
        (2, 2, "restore restore restore restore"),
    ):
        (checked / "params.yaml").write_text(f"seed: {seed}\nother: {other}\n")
        plan = plan_stages(constant="check")
        assert [stage.name for stage in plan] == ["check", "first", "second", "third"]
        assert " ".join(stage.forecast for stage in plan) == forecasts
        assert plan[1].params == {"seed": seed}
        (checked / "log").write_text("")
        with Repo(str(checked)) as repo:
            reproduced = {stage.addressing for stage in repo.reproduce()}
        ran = (checked / "log").read_text().split()
        assert ran == [stage.name for stage in plan if stage.forecast is Forecast.RUN]
        kept = {stage.name for stage in plan if stage.forecast is Forecast.KEEP}
        assert kept == {stage.name for stage in plan} - reproduced


def test_a_plan_of_a_target_has_what_it_depends_on_and_runs_nothing(checked: Path) -> None:
    (checked / "params.yaml").write_text("seed: 3\nother: 1\n")
    (checked / "log").unlink()
    lock = (checked / "dvc.lock").read_bytes()
    assert [stage.name for stage in plan_stages(["first"])] == ["check", "first"]
    assert not (checked / "log").exists()
    assert (checked / "dvc.lock").read_bytes() == lock


def test_an_output_that_was_deleted_is_restored_or_made_again(checked: Path) -> None:
    (checked / "first").unlink()
    assert [stage.forecast for stage in plan_stages()] == ["keep", "restore", "keep", "keep"]
    shutil.rmtree(checked / ".dvc/cache")
    assert {stage.forecast for stage in plan_stages()} == {"run"}


def test_a_damaged_configuration_of_dvc_is_named_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc" / "config").write_text("hello\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PipelineError, match=r"check \.dvc/config$") as caught:
        read_project([])
    assert str(caught.value).count("Invalid line") == 1


# What a kill, a full disk or a loss of power leaves of the file that dvc writes in place.
DAMAGED = pytest.mark.parametrize("text", ["", '{"write": {"/a": {"pi', "\0" * 20])


@DAMAGED
def test_a_note_of_dvc_that_is_damaged_is_deleted_where_no_dvc_runs(
    project: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = project / ".dvc" / "tmp" / "rwlock"
    check_rwlock(project)
    before = file.read_text()
    repair_rwlock(project)
    assert file.read_text() == before
    file.write_text(text)
    with pytest.raises(DataError, match="rwlock: not JSON"):
        check_rwlock(project)
    repair_rwlock(project)
    assert f"{file}: damaged" in capsys.readouterr().err
    with Repo(str(project)) as repo:
        repo.reproduce(force=True)


@pytest.fixture
def other_dvc(project: Path) -> Iterator[int]:
    """Another process by the name of dvc that runs in the project, until the test ends."""
    program = project / "dvc"
    program.write_text("import sys\nprint(flush=True)\nsys.stdin.read()\n")
    command = [sys.executable, str(program)]
    with subprocess.Popen(
        command, cwd=project, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process.pid
        process.kill()


def test_a_note_of_dvc_that_is_damaged_is_named_while_another_dvc_runs(
    project: Path, other_dvc: int
) -> None:
    file = project / ".dvc" / "tmp" / "rwlock"
    file.write_text("{")
    with pytest.raises(DataError, match=rf"{file}: damaged, .*process {other_dvc}\).*delete the"):
        repair_rwlock(project)
    assert file.read_text() == "{"


def test_the_dvc_that_runs_a_check_does_not_keep_it_from_a_repair(project: Path) -> None:
    """As `tools/venv.pth` runs it: in a child process of dvc."""
    (project / ".dvc" / "tmp" / "rwlock").write_text("{")
    code = (
        "from pathlib import Path; from pipeline.workflow.project import repair_rwlock; "
        "repair_rwlock(Path.cwd())"
    )
    program = project / "dvc"
    program.write_text(
        f"import subprocess, sys; sys.exit(subprocess.call([sys.executable, '-c', {code!r}]))"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    subprocess.run([sys.executable, str(program)], cwd=project, env=environment, check=True)
    check_rwlock(project)


@pytest.fixture(params=["of the project", "shared"])
def run_cache(project: Path, request: pytest.FixtureRequest) -> Path:
    """The run cache of a project, whose stage `first` was killed while dvc recorded it."""
    cache = project / ".dvc" / "cache"
    if request.param == "shared":
        cache = cache.rename(project.parent / f"{project.name}-shared")
        (project / ".dvc" / "config.local").write_text(f"[cache]\n    dir = {cache}\n")
        (project / ".dvc" / "cache" / "runs").mkdir(parents=True)
    for entry in (cache / "runs").glob("*/*/*"):
        if "echo 1" in entry.read_text():
            entry.unlink()
    (project / "first").unlink()
    (project / "dvc.lock").unlink()
    return cache / "runs"


def test_an_empty_folder_of_the_run_cache_is_deleted(
    project: Path, run_cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Repo(str(project)) as repo, pytest.raises(DvcException, match="failed to reproduce"):
        repo.reproduce()
    plan = [stage.forecast for stage in plan_stages()]
    assert plan == ["run", "run"]
    repair(project)
    assert "left empty by a kill; deleted" in capsys.readouterr().err
    assert [stage.forecast for stage in plan_stages()] == plan
    (kept,) = run_cache.glob("*/*")
    repair(project)
    assert capsys.readouterr().err == ""
    assert any(kept.iterdir())
    with Repo(str(project)) as repo:
        assert [stage.addressing for stage in repo.reproduce()] == ["first", "second"]


def test_an_empty_folder_that_another_dvc_may_write_to_is_kept(
    project: Path, run_cache: Path, other_dvc: int
) -> None:
    before = {*run_cache.glob("*/*")}
    repair_run_cache(project)
    assert {*run_cache.glob("*/*")} == before


def test_an_empty_folder_that_cannot_be_deleted_is_named(
    project: Path,
    run_cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (empty,) = [folder for folder in run_cache.glob("*/*") if not any(folder.iterdir())]

    def refuse(_: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "rmdir", refuse)
    repair_run_cache(project)
    said = capsys.readouterr().err
    assert f"{empty}: left empty by a kill, and cannot be deleted (Permission denied)" in said


def test_a_lock_that_is_cut_anywhere_keeps_its_whole_entries(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, aside = project / "dvc.lock", project / "dvc.lock.damaged"
    whole = file.read_bytes()
    entries = read_lock(file)
    repair_lock(project)
    assert file.read_bytes() == whole
    counts = set()
    for cut in range(0, len(whole) - 1, 7):
        for tail in (b"", bytes(20)):
            file.write_bytes(whole[:cut] + tail)
            kept = whole_entries(file.read_bytes())
            assert kept is not None
            found = parse_lock(kept, "") if kept else {}
            counts.add(len(found))
            assert all(entries[name] == entry for name, entry in found.items())
    assert counts == {0, 1}
    file.write_bytes(whole[: len(whole) // 3])
    repair_lock(project)
    assert aside.read_bytes() == whole[: len(whole) // 3]
    assert "dvc.lock: cut by a kill or a full disk" in capsys.readouterr().err
    with Repo(str(project)) as repo:
        repo.reproduce()
    assert file.read_bytes() == whole


def test_a_lock_that_was_not_cut_is_left_to_the_user(project: Path) -> None:
    file = project / "dvc.lock"
    text = file.read_text()
    for wrong in (
        text.replace("  first:", "<<<<<<< ours\n  first:"),
        text.replace("cmd: echo", "dmc: echo"),
        "<<<<<<< ours\n",
    ):
        file.write_text(wrong)
        with pytest.raises(DataError, match="restore it with git"):
            repair_lock(project)
        assert file.read_text() == wrong


def test_a_lock_that_another_dvc_writes_is_left_to_it(project: Path, other_dvc: int) -> None:
    file = project / "dvc.lock"
    file.write_bytes(file.read_bytes()[:40])
    repair_lock(project)
    assert other_dvc
    assert len(file.read_bytes()) == 40
