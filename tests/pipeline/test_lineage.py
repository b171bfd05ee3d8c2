from pathlib import Path

import pytest

from pipeline.lineage import output_hashes, project_root, running_stage


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
