from pathlib import Path

import pytest

from tools.server.folder import Folder


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """A server's folder, made and not started."""
    folder = Folder(tmp_path / "server")
    with folder.lock():
        folder.prepare(port=0, objects_port=0)
    return folder
