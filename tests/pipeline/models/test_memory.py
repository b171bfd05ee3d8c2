from pathlib import Path

import psutil
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM

from pipeline.models import memory as capacity
from pipeline.models.language_model import PromptedModel
from pipeline.models.loading import load_model
from pipeline.models.memory import estimate_max_tokens
from pipeline.training import jobs
from pipeline.training.jobs import estimate_bank_size
from pipeline.training.prompt_encoders import PromptEncoder
from tests.tiny import FAMILIES

MEGABYTE = 1 << 20


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The machine's memory, for a test to set."""
    size = [MEGABYTE]
    for module in (capacity, jobs):
        monkeypatch.setattr(module, "total_memory", lambda _: size[0])
    return size


def resized(
    tiny_folders: dict[str, Path], folder: Path, family: str, **sizes: int
) -> PromptedModel:
    """A model like the tiny one of a family, but for some sizes."""
    config = AutoConfig.from_pretrained(tiny_folders[family], **sizes)
    kind = AutoModelForMaskedLM if family == "bert" else AutoModelForCausalLM
    kind.from_config(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((tiny_folders[family] / name).read_bytes())
    return load_model(folder, device="cpu")


@pytest.mark.parametrize("family", ["bert", "gpt2"])
@pytest.mark.parametrize("size", ["layers", "width", "vocabulary"])
def test_a_larger_model_leaves_room_for_fewer_tokens(
    tiny_folders: dict[str, Path],
    tiny_models: dict[str, PromptedModel],
    tmp_path: Path,
    memory: list[int],
    family: str,
    size: str,
) -> None:
    names = {
        "bert": {"layers": "num_hidden_layers", "width": "hidden_size"},
        "gpt2": {"layers": "n_layer", "width": "n_embd"},
    }[family] | {"vocabulary": "vocab_size"}
    value = {"layers": 6, "width": 128, "vocabulary": 3000}[size]
    larger = resized(tiny_folders, tmp_path / "larger", family, **{names[size]: value})
    memory[0] = 5 * MEGABYTE
    assert 1 < estimate_max_tokens(larger) < estimate_max_tokens(tiny_models[family])


def test_half_the_bytes_of_a_number_leave_room_for_more_tokens(
    tiny_folders: dict[str, Path], memory: list[int]
) -> None:
    memory[0] = 5 * MEGABYTE
    full, half = (
        load_model(tiny_folders["gpt2"], device="cpu", dtype=dtype)
        for dtype in ("float32", "bfloat16")
    )
    assert estimate_max_tokens(full) < estimate_max_tokens(half)


def test_more_memory_leaves_room_for_more_tokens_up_to_a_useful_number(
    tiny_models: dict[str, PromptedModel], memory: list[int]
) -> None:
    fitting = []
    for megabytes in (0, 1, 2, 20, 1_000_000):
        memory[0] = megabytes * MEGABYTE
        fitting.append(estimate_max_tokens(tiny_models["bert"]))
    assert fitting == sorted(fitting)
    assert fitting[0] == 1
    assert fitting[-1] == 1024


@pytest.mark.parametrize("tokens", [1, 7, 100_000])
def test_a_number_that_the_user_gives_is_taken_as_it_is(
    tiny_models: dict[str, PromptedModel], memory: list[int], tokens: int
) -> None:
    memory[0] = 0
    assert estimate_max_tokens(tiny_models["bert"], wanted=tokens) == tokens


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tokens", [1, 9])
@pytest.mark.parametrize("encoder", ["lstm", "mlp", "embedding"])
def test_a_bank_holds_as_many_encoders_as_their_numbers_fit(
    tiny_models: dict[str, PromptedModel], memory: list[int], family: str, tokens: int, encoder: str
) -> None:
    model = tiny_models[family]
    made = PromptEncoder(encoder, tokens, model.embedding_size)
    # Each number with its gradient and the two of Adam, in four bytes.
    bytes_each = 4 * 4 * sum(parameter.numel() for parameter in made.parameters())
    for count in (1, 2, 41):
        memory[0] = 5 * count * bytes_each  # a fifth of it is for the bank
        assert estimate_bank_size(model, encoder, tokens) == count
        memory[0] -= 5
        assert estimate_bank_size(model, encoder, tokens) == max(1, count - 1)


def test_a_bank_holds_one_prompt_however_little_memory_there_is(
    tiny_models: dict[str, PromptedModel], memory: list[int]
) -> None:
    memory[0] = 0
    assert estimate_bank_size(tiny_models["bert"], "lstm", 9) == 1


@pytest.mark.parametrize("encoder", ["lstm", "mlp", "embedding"])
def test_without_prompt_tokens_the_smallest_encoder_is_reckoned_with(
    tiny_models: dict[str, PromptedModel], memory: list[int], encoder: str
) -> None:
    model = tiny_models["bert"]
    assert estimate_bank_size(model, encoder, 0) == estimate_bank_size(model, encoder, 1)


def test_nothing_is_drawn_to_count_an_encoder(tiny_models: dict[str, PromptedModel]) -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    estimate_bank_size(tiny_models["bert"], "lstm", 9)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_same_machine_always_computes_alike(
    tiny_models: dict[str, PromptedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What other programs leave of the memory at the moment must not count."""
    real = psutil.virtual_memory()
    for free in (0, real.total):
        now = real._replace(available=free, free=free, used=real.total - free)
        monkeypatch.setattr(psutil, "virtual_memory", lambda now=now: now)
        assert capacity.total_memory(tiny_models["bert"].device) == real.total
