"""Checks of the checkout."""

from pathlib import Path

import pytest

from pipeline.doctor.project import check_rwlock
from pipeline.errors import DataError


@pytest.mark.parametrize("text", ["", '{"/a": {"wri', "\0" * 20])
def test_a_lock_of_dvc_that_a_full_disk_cut_is_named(tmp_path: Path, text: str) -> None:
    file = tmp_path / ".dvc" / "tmp" / "rwlock"
    file.parent.mkdir(parents=True)
    file.write_text(text)
    with pytest.raises(DataError, match=r"rwlock: not JSON .*delete it and run again"):
        check_rwlock(tmp_path)
    file.write_text("{}")
    check_rwlock(tmp_path)
