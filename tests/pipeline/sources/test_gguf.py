import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pipeline.models.language_model import PromptedModel
from pipeline.models.loading import load_model
from pipeline.sources.models import convert_gguf
from tests.tiny_gguf import save_tiny_gguf


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "source").mkdir()
    return tmp_path / "source/model.gguf"


@pytest.mark.parametrize("quantised", [False, True])
def test_the_weights_are_those_of_the_gguf_file(
    tiny_models: dict[str, PromptedModel], source: Path, tmp_path: Path, quantised: bool
) -> None:
    tokenizer = tiny_models["gpt2"].codec.tokenizer
    weights = save_tiny_gguf(source, tokenizer, quantised=quantised)

    convert_gguf(source, tmp_path)

    found = load_file(tmp_path / "model.safetensors")
    assert set(found) == set(weights)
    for name, weight in weights.items():
        assert found[name].dtype == torch.float32
        torch.testing.assert_close(found[name], weight, rtol=0, atol=0, msg=name)


def test_a_second_conversion_gives_the_same_bytes(
    tiny_models: dict[str, PromptedModel], source: Path, tmp_path: Path
) -> None:
    save_tiny_gguf(source, tiny_models["gpt2"].codec.tokenizer, quantised=True)
    folders = [tmp_path / "first", tmp_path / "second"]
    for folder in folders:
        folder.mkdir()
        convert_gguf(source, folder)

    contents = [{p.name: p.read_bytes() for p in folder.iterdir()} for folder in folders]

    assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(contents[0])
    assert contents[0] == contents[1]


def test_the_folder_loads_as_a_plain_causal_model_with_the_same_tokens(
    tiny_models: dict[str, PromptedModel], source: Path, tmp_path: Path
) -> None:
    tokenizer = tiny_models["gpt2"].codec.tokenizer
    save_tiny_gguf(source, tokenizer, quantised=True)

    convert_gguf(source, tmp_path)

    model = load_model(tmp_path, device="cpu")
    text = "Paris is the capital of France, (no?)"
    assert not model.masked
    assert model.codec.tokenizer(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert "quantization_config" not in json.loads((tmp_path / "config.json").read_text())
