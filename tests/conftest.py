"""What every test finds: no network, its own folder, and tiny models made once."""

import os
import shutil
import tempfile

os.environ.update(
    HF_HUB_OFFLINE="1",
    HF_HUB_CACHE=os.devnull,  # not the developer's own models
    MLFLOW_DISABLE_TELEMETRY="true",
    DVC_NO_ANALYTICS="1",
    GIT_CONFIG_GLOBAL=os.devnull,
    GIT_AUTHOR_NAME="test",
    GIT_AUTHOR_EMAIL="test@example.com",
    GIT_COMMITTER_NAME="test",
    GIT_COMMITTER_EMAIL="test@example.com",
)
for name in ("MLFLOW_TRACKING_URI", "DVC_STAGE", "DVC_ROOT", "DVC_EXP_NAME"):
    os.environ.pop(name, None)

from collections import Counter  # noqa: E402 - the environment comes first
from collections.abc import Iterator  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import TYPE_CHECKING  # noqa: E402

import pytest  # noqa: E402

from tests.quick import PARSED_YAML, open_stores_quickly, remember_yaml  # noqa: E402

# Libraries that take seconds to load are imported where they are used: the process that hands the
# tests to the others needs none of them.
if TYPE_CHECKING:
    from pipeline.models.language_model import PromptedModel


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start with the files that take long, so that no process waits for another's last file."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    tests = Counter(item.path for item in items)
    items.sort(key=lambda item: (-slow[item.path], -tests[item.path]))


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of the test run, for all its processes."""
    root = tmp_path_factory.getbasetemp()
    return root.parent if "PYTEST_XDIST_WORKER" in os.environ else root


@pytest.fixture(scope="session", autouse=True)
def _yaml_parsed_once(shared_folder: Path) -> None:
    folder = shared_folder / "yaml"
    folder.mkdir(exist_ok=True)
    os.environ[PARSED_YAML] = str(folder)
    remember_yaml(folder)


@pytest.fixture(scope="session")
def tiny_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Family -> folder of a tiny model."""
    from tests.tiny import FAMILIES, save_tiny

    root = tmp_path_factory.mktemp("models")
    return {family: save_tiny(family, root / family) for family in FAMILIES}


@pytest.fixture(scope="session")
def tiny_models(tiny_folders: dict[str, Path]) -> dict[str, "PromptedModel"]:
    """Family -> loaded tiny model; tests leave the weights as they are."""
    from pipeline.models.loading import load_model

    return {family: load_model(folder, device="cpu") for family, folder in tiny_folders.items()}


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow store without runs; making one takes seconds, copying one nothing."""
    from pipeline.history.store import local_store

    open_stores_quickly()
    root = tmp_path_factory.mktemp("store")
    return local_store(root)


@pytest.fixture
def ray_folder() -> Iterator[Path]:
    """A folder for Ray's files; its path is short, for the names of Ray's sockets."""
    folder = Path(tempfile.mkdtemp(prefix="ray-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def own_folder(tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder of a test that logs: its own, with its own history."""
    shutil.copyfile(empty_store, tmp_path / "mlflow.db")
    # MLflow leaves the store of the test before in the environment.
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path
