from pathlib import Path

import pytest
from dvc.repo import Repo

from pipeline.lineage import output_hashes, project_root, recorded_run_keys, running_stage


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
    entry.touch()
    assert recorded_run_keys([done, killed]) == {done}
    assert recorded_run_keys([killed]) == set()


def test_nothing_is_asked_of_dvc_where_there_is_no_run_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # where dvc has no repository
    assert recorded_run_keys([]) == set()
