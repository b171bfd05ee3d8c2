"""What every test finds: no network, its own folder, and tiny models made once."""

import os
import shutil

os.environ.update(
    HF_HUB_OFFLINE="1",
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

from pathlib import Path  # noqa: E402 - the environment comes first

import pytest  # noqa: E402

from pipeline.models.language_model import PromptedModel  # noqa: E402
from pipeline.models.loading import load_model  # noqa: E402
from tests.tiny import FAMILIES, save_tiny  # noqa: E402


@pytest.fixture(scope="session")
def tiny_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Family -> folder of a tiny model."""
    root = tmp_path_factory.mktemp("models")
    return {family: save_tiny(family, root / family) for family in FAMILIES}


@pytest.fixture(scope="session")
def tiny_models(tiny_folders: dict[str, Path]) -> dict[str, PromptedModel]:
    """Family -> loaded tiny model; tests leave the weights as they are."""
    return {family: load_model(folder, device="cpu") for family, folder in tiny_folders.items()}


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow store without runs; making one takes seconds, copying one nothing."""
    from pipeline.history.store import local_store

    root = tmp_path_factory.mktemp("store")
    return local_store(root)


@pytest.fixture
def own_folder(tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder of a test that logs: its own, with a history of its own."""
    shutil.copyfile(empty_store, tmp_path / "mlflow.db")
    # MLflow leaves the store of the test before in the environment.
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path
