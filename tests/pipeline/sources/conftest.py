from pathlib import Path

import pytest


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """The empty folder into which a source is fetched."""
    (tmp_path / "target").mkdir()
    return tmp_path / "target"


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """The folder of downloads, which does not exist yet."""
    return tmp_path / "cache"
