import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import dispatch_model
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoTokenizer, BertConfig, BertForMaskedLM

from pipeline.errors import ModelError
from pipeline.models.language_model import PromptedModel
from pipeline.models.loading import check_folder, choose_device, choose_precision, load_model
from pipeline.models.scoring import score_examples
from tests.tiny import FAMILIES, MASKED
from tests.worked import hand_row

SMALL = {"quantization_config", "device_map"}
TIED = {"bert", "roberta", "albert", "gpt2"}


@pytest.fixture
def copy(tiny_folders: dict[str, Path], tmp_path: Path, family: str) -> Path:
    """A model folder to spoil."""
    return Path(shutil.copytree(tiny_folders[family], tmp_path / family))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", ["auto", "float32", "bfloat16", "mixed"])
def test_each_family_loads_as_what_it_is(
    tiny_folders: dict[str, Path], family: str, dtype: str
) -> None:
    model = load_model(tiny_folders[family], device="cpu", dtype=dtype)
    expected = torch.bfloat16 if dtype == "bfloat16" else torch.float32
    assert model.masked == (family in MASKED)
    assert {p.dtype for p in model.network.parameters()} == {expected}
    assert model.device == torch.device("cpu")
    assert model.network.config.model_type == family


@pytest.mark.parametrize("name", ["auto", "cpu"])
def test_without_a_gpu_the_cpu_is_taken(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device(name) == torch.device("cpu")


def test_auto_takes_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device("auto") == torch.device("cuda")


@pytest.mark.parametrize(
    ("name", "gpus", "there"),
    [("cuda", 0, False), ("cuda", 1, True), ("cuda:1", 1, False), ("cuda:1", 2, True)],
)
def test_a_gpu_that_is_not_there_is_an_error(
    name: str, gpus: int, there: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    if there:
        assert choose_device(name) == torch.device(name)
        return
    with pytest.raises(ModelError, match=rf"runtime\.device: {name} is not .* \({gpus} cuda"):
        choose_device(name)


def test_a_missing_mps_device_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(ModelError, match=r"runtime\.device: mps is not on this machine"):
        choose_device("mps")


@pytest.mark.parametrize(
    ("name", "device", "frozen", "tuned"),
    [
        ("auto", "cpu", "float32", "float32"),
        ("auto", "cuda", "bfloat16", "mixed"),
        ("auto", "mps", "float32", "float32"),
        ("float32", "cuda", "float32", "float32"),
        ("bfloat16", "cpu", "bfloat16", "bfloat16"),
        ("mixed", "cpu", "mixed", "mixed"),
    ],
)
def test_the_precision_follows_name_device_and_what_is_trained(
    name: str, device: str, frozen: str, tuned: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)
    assert choose_precision(name, torch.device(device)) == frozen
    assert choose_precision(name, torch.device(device), tuned=True) == tuned


def test_a_card_that_only_emulates_bfloat16_computes_in_single_precision(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation
    )
    assert choose_precision("auto", torch.device("cuda")) == "float32"
    assert choose_precision("auto", torch.device("cuda"), tuned=True) == "float32"
    assert choose_precision("bfloat16", torch.device("cuda")) == "bfloat16"


@pytest.mark.parametrize("family", ["bert"])
def test_pickled_weights_and_code_of_the_folder_are_refused_and_not_run(copy: Path) -> None:
    ran = copy / "ran"
    (copy / "mine.py").write_text(f"open({str(ran)!r}, 'w')")
    config = json.loads((copy / "config.json").read_text())
    code = {"AutoConfig": "mine.Config", "AutoModelForMaskedLM": "mine.Model"}
    changed = {**config, "model_type": "mine", "auto_map": code}
    (copy / "config.json").write_text(json.dumps(changed))
    with pytest.raises(ModelError, match="its own code, which is not run here; choose a model"):
        load_model(copy, device="cpu")
    assert not ran.exists()

    (copy / "config.json").write_text(json.dumps(config))
    torch.save(load_file(copy / "model.safetensors"), copy / "pytorch_model.bin")
    (copy / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"no file named model\.safetensors"):
        load_model(copy, device="cpu")


# Large models


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_that_accelerate_places_answers_as_before(
    tiny_folders: dict[str, Path], tiny_models: dict[str, PromptedModel], family: str
) -> None:
    """With the hooks of layers on several devices; here all are the CPU."""
    plain = tiny_models[family]
    row = hand_row(family, plain, "^Paris _is M .")
    words = torch.tensor([20, 30])
    expected = score_examples(plain, [row], None, words, max_tokens_per_forward=1)
    placed = load_model(tiny_folders[family], device="cpu", device_map="auto")
    assert torch.equal(
        score_examples(placed, [row], None, words, max_tokens_per_forward=1), expected
    )

    network = load_model(tiny_folders[family], device="cpu").network
    blocks = {name: "cpu" for name, _ in network.named_children()}
    network = dispatch_model(network, blocks, main_device="cpu", force_hooks=True)
    assert hasattr(network, "_hf_hook")
    hooked = PromptedModel(network, plain.codec, masked=plain.masked)
    assert torch.equal(
        score_examples(hooked, [row], None, words, max_tokens_per_forward=1), expected
    )


@pytest.mark.parametrize("quantization", ["8bit", "4bit"])
def test_small_weights_need_a_package_that_is_named(
    tiny_folders: dict[str, Path], quantization: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(ModelError, match=rf"{quantization} needs the package bitsandbytes; run"):
        load_model(tiny_folders["bert"], device="cpu", quantization=quantization)


@pytest.mark.parametrize(
    ("quantization", "device_map", "placed"),
    [("8bit", None, {"": torch.device("cpu")}), ("4bit", "auto", "auto")],
)
def test_small_weights_are_what_transformers_is_asked_for(
    tiny_folders: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    quantization: str,
    device_map: str | None,
    placed: object,
) -> None:
    """bitsandbytes itself is not installed here."""
    asked: dict[str, Any] = {}
    real = BertForMaskedLM.from_pretrained.__func__

    def from_pretrained(cls: type, folder: Path, **options: Any) -> Any:
        asked.update(options)
        return real(cls, folder, **{k: v for k, v in options.items() if k not in SMALL})

    monkeypatch.setattr("importlib.util.find_spec", lambda _: True)
    monkeypatch.setattr(BertForMaskedLM, "from_pretrained", classmethod(from_pretrained))
    load_model(tiny_folders["bert"], device="cpu", quantization=quantization, device_map=device_map)
    config = asked["quantization_config"]
    assert (config.load_in_8bit, config.load_in_4bit) == (
        quantization == "8bit",
        quantization == "4bit",
    )
    assert config.bnb_4bit_compute_dtype == torch.float32
    assert asked["device_map"] == placed


def test_a_folder_without_a_model_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=f"{tmp_path}: not a model that transformers can load"):
        load_model(tmp_path, device="cpu")


@pytest.mark.parametrize("family", ["bert"])
@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("config.json", "{"),
        ("config.json", "{}"),
        ("config.json", '{"model_type": "abacus"}'),
        ("config.json", '{"model_type": "resnet", "architectures": ["ResNetForMaskedLM"]}'),
        ("model.safetensors", None),
        ("model.safetensors", "cut"),
        ("tokenizer.json", "{"),
    ],
)
def test_a_spoilt_folder_is_an_error_that_names_it(
    copy: Path, file: str, content: str | None
) -> None:
    if content is None:
        (copy / file).unlink()
    else:
        (copy / file).write_text(content)
    with pytest.raises(ModelError, match=str(copy)):
        load_model(copy, device="cpu")


GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 128}
NF4 = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}


@pytest.mark.parametrize(
    ("family", "file", "change", "said"),
    [
        ("llama", "config.json", {"quantization_config": GPTQ}, "GPTQ"),
        ("llama", "config.json", {"quantization_config": NF4}, "bitsandbytes"),
        ("bert", "config.json", {"vocab_size": "161"}, "'vocab_size' expected int, got str"),
        ("llama", "config.json", {"max_position_embeddings": None}, "'max_position_embeddings'"),
        ("llama", "config.json", {"dtype": "float5"}, "float5"),
        ("bert", "config.json", {"architectures": [1]}, "'int' object"),
        ("bert", "tokenizer.json", {"model": {"type": "Future"}}, "ModelUntagged"),
        ("bert", "tokenizer.json", {"pre_tokenizer": {"type": "Future"}}, "PreTokenizerUntagged"),
    ],
)
def test_what_transformers_cannot_read_is_named_in_one_line(
    copy: Path, file: str, change: dict[str, Any], said: str
) -> None:
    values = json.loads((copy / file).read_text())
    (copy / file).write_text(json.dumps({**values, **change}))
    for check in (check_folder, load_model):
        with pytest.raises(ModelError) as caught:
            check(copy)
        (line,) = str(caught.value).splitlines()
        assert line.startswith(f"{copy}: not a model that transformers can load: ")
        assert said in line
        assert "; fetch the model again, or save it with transformers " in line


@pytest.mark.parametrize("family", FAMILIES)
def test_a_sound_folder_passes_the_check(copy: Path) -> None:
    check_folder(copy)


@pytest.mark.parametrize(
    ("family", "change", "said"),
    [
        ("gpt2", {"n_layer": 10**6}, "num_hidden_layers is 1000000, more than 1000"),
        ("gpt2", {"n_layer": 3}, "weights are missing"),
        ("gpt2", {"n_embd": 64}, "not a model that transformers can load"),
        ("gpt2", {"quantization_config": {"quant_method": "new"}}, "unknown quantization"),
        ("gpt2", {"architectures": None}, "config.json: architectures is"),
        (
            "llama",
            {"model_type": "new", "auto_map": {"AutoConfig": "c.C"}, "architectures": ["C"]},
            "auto_map: the model has its own code, which is not run here",
        ),
        ("roberta", {"pad_token_id": None}, "pad_token_id is missing, from which this model"),
    ],
)
def test_a_folder_is_refused_before_its_weights_are_read(
    copy: Path, change: dict[str, Any], said: str
) -> None:
    config = copy / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), **change}))
    for check in (check_folder, load_model):
        with pytest.raises(ModelError) as caught:
            check(copy)
        assert str(caught.value).startswith(f"{copy}: ")
        assert said in str(caught.value)


@pytest.mark.parametrize("family", ["gpt2"])
def test_a_token_without_a_row_of_the_model(copy: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(copy)
    rows = len(tokenizer)
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer.add_tokens(["<ent>", " Wakanda"])
    tokenizer.save_pretrained(copy)
    codec = load_model(copy, device="cpu").codec
    assert codec.pad_id == 0
    assert codec.single_token_id("Wakanda", space_before=True) is None
    assert codec.single_token_id("Paris", space_before=True) is not None
    with pytest.raises(ModelError, match=f"'<ent>' has the id .*{rows} word embeddings"):
        codec.encode_segment("<ent> Paris", start=True)
    with pytest.raises(ModelError, match=r"PAD.* has the id"):
        list(codec.split_special("[PAD]"))


@pytest.mark.parametrize("family", ["bert"])
def test_a_mask_token_without_a_row_is_refused(copy: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(copy)
    tokenizer.add_special_tokens({"mask_token": "<new>"})
    tokenizer.save_pretrained(copy)
    for check in (check_folder, load_model):
        with pytest.raises(ModelError, match=r"'<new>' has the id 161, .*161 .*162 tokens"):
            check(copy)


@pytest.mark.parametrize("family", ["gpt2"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_weights_that_are_not_finite_are_refused(copy: Path, value: float) -> None:
    spoil(copy / "model.safetensors", "transformer.h.1.mlp.c_fc.weight", value)
    with pytest.raises(ModelError, match=rf"{copy}: the weights contain NaN .*h\.1\.mlp\.c_fc"):
        load_model(copy, device="cpu")


def test_tuned_weights_that_are_not_finite_are_refused(
    tiny_models: dict[str, PromptedModel], tiny_folders: dict[str, Path], tmp_path: Path
) -> None:
    weights = tuned(tiny_models["bert"], tmp_path / "weights.safetensors")
    spoil(weights, "bert.embeddings.LayerNorm.weight", torch.nan)
    with pytest.raises(ModelError, match=f"{weights}: the weights contain NaN .*LayerNorm.*train"):
        load_model(tiny_folders["bert"], device="cpu", weights=weights)


def spoil(file: Path, name: str, value: float) -> None:
    """Set one number of a weight."""
    state = load_file(file)
    state[name].view(-1)[3] = value
    save_file(state, file, {"format": "pt"})


@pytest.mark.parametrize("family", ["bert"])
@pytest.mark.parametrize(
    "architectures", [None, [], ["BertModel"], ["BertForSequenceClassification"]]
)
def test_a_model_that_is_neither_masked_nor_causal_is_an_error(
    copy: Path, architectures: list[str] | None
) -> None:
    config = json.loads((copy / "config.json").read_text())
    config.pop("architectures")
    if architectures is not None:
        config["architectures"] = architectures
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"architectures is \[.*expected the name of a masked"):
        load_model(copy, device="cpu")


@pytest.mark.parametrize("architecture", ["T5ForConditionalGeneration", "BartForMaskedLM"])
def test_an_encoder_decoder_is_refused_with_the_reason(tmp_path: Path, architecture: str) -> None:
    kind = architecture.partition("For")[0].lower()
    config = AutoConfig.for_model(kind, architectures=[architecture])
    config.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=f"{architecture} is an encoder-decoder, which has no"):
        load_model(tmp_path, device="cpu")


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_a_model_file_that_lacks_a_weight_is_an_error(copy: Path, family: str) -> None:
    """Otherwise transformers makes one up, another one each time."""
    file = copy / "model.safetensors"
    weights = load_file(file)
    name = next(name for name in weights if "layers.1" in name or "layer.1" in name)
    save_file({n: w for n, w in weights.items() if n != name}, file, {"format": "pt"})
    with pytest.raises(ModelError, match=str(copy)):
        load_model(copy, device="cpu")


@pytest.mark.parametrize("family", ["bert"])
def test_a_model_file_of_another_size_is_an_error(copy: Path) -> None:
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "hidden_size": 16}))
    with pytest.raises(ModelError, match=str(copy)):
        load_model(copy, device="cpu")


def tuned(model: PromptedModel, path: Path) -> Path:
    """Write other weights of the same model, each once, as training does."""
    generator = torch.Generator().manual_seed(1)
    save_file(
        {
            name: p.detach() + 0.1 * torch.randn(p.shape, generator=generator)
            for name, p in model.network.named_parameters()
        },
        path,
    )
    return path


@pytest.mark.parametrize("family", FAMILIES)
def test_tuned_weights_replace_those_of_the_folder(
    tiny_models: dict[str, PromptedModel],
    tiny_folders: dict[str, Path],
    tmp_path: Path,
    family: str,
) -> None:
    weights = tuned(tiny_models[family], tmp_path / "weights.safetensors")

    model = load_model(tiny_folders[family], device="cpu", weights=weights)

    state = load_file(weights)
    assert state.keys() == dict(model.network.named_parameters()).keys()
    for name, parameter in model.network.named_parameters():
        assert torch.equal(parameter, state[name]), name
    tied = model.network.get_output_embeddings().weight is model.input_embeddings.weight
    assert tied == (family in TIED)


@pytest.mark.parametrize("family", FAMILIES)
def test_tuned_weights_change_the_answers_and_the_folder_stays(
    tiny_models: dict[str, PromptedModel],
    tiny_folders: dict[str, Path],
    tmp_path: Path,
    family: str,
) -> None:
    weights = tuned(tiny_models[family], tmp_path / "weights.safetensors")
    row = hand_row(family, tiny_models[family], "^Paris _is M .")
    words = torch.tensor([20, 30])

    def score(weights: Path | None) -> torch.Tensor:
        model = load_model(tiny_folders[family], device="cpu", weights=weights)
        return score_examples(model, [row], None, words, max_tokens_per_forward=1)

    assert torch.equal(score(weights), score(weights))
    assert not torch.allclose(score(weights), score(None))
    assert torch.equal(
        score(None),
        score_examples(tiny_models[family], [row], None, words, max_tokens_per_forward=1),
    )


@pytest.mark.parametrize(("family", "other"), [("bert", "roberta"), ("gpt2", "llama")])
def test_weights_of_another_family_are_refused(
    tiny_models: dict[str, PromptedModel],
    tiny_folders: dict[str, Path],
    tmp_path: Path,
    family: str,
    other: str,
) -> None:
    weights = tuned(tiny_models[other], tmp_path / "weights.safetensors")
    with pytest.raises(ModelError, match="weights of another model"):
        load_model(tiny_folders[family], device="cpu", weights=weights)


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_that_lack_one_are_refused(
    tiny_models: dict[str, PromptedModel],
    tiny_folders: dict[str, Path],
    tmp_path: Path,
    family: str,
) -> None:
    weights = tuned(tiny_models[family], tmp_path / "weights.safetensors")
    state = load_file(weights)
    for name in state:
        save_file({n: w for n, w in state.items() if n != name}, weights)
        with pytest.raises(ModelError, match=f"weights of another model .*{name}"):
            load_model(tiny_folders[family], device="cpu", weights=weights)
        break


def test_weights_of_another_size_are_refused(tiny_folders: dict[str, Path], tmp_path: Path) -> None:
    other = BertForMaskedLM(
        BertConfig(
            vocab_size=161, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
            intermediate_size=64, max_position_embeddings=128,
        )
    )  # fmt: skip
    weights = tmp_path / "weights.safetensors"
    save_file({name: p.detach() for name, p in other.named_parameters()}, weights)
    with pytest.raises(ModelError, match="weights of another model"):
        load_model(tiny_folders["bert"], device="cpu", weights=weights)


def test_a_cut_weights_file_is_an_error_that_names_it(
    tiny_models: dict[str, PromptedModel], tiny_folders: dict[str, Path], tmp_path: Path
) -> None:
    weights = tuned(tiny_models["bert"], tmp_path / "weights.safetensors")
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ModelError, match=str(weights)):
        load_model(tiny_folders["bert"], device="cpu", weights=weights)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="only Linux lists mapped files")
def test_weights_on_the_host_are_pages_of_the_file_that_processes_share(
    tiny_folders: dict[str, Path],
) -> None:
    folder = tiny_folders["llama"]
    model = load_model(folder, device="cpu", dtype="float32", on_host=True)
    mapped = [
        range(*(int(end, 16) for end in line.split()[0].split("-")))
        for line in Path("/proc/self/maps").read_text().splitlines()
        if line.endswith(str(folder / "model.safetensors"))
    ]
    weights = dict(model.network.named_parameters())
    assert all(weight.dtype == torch.float32 for weight in weights.values())
    copied = [
        name
        for name, weight in weights.items()
        if not any(weight.data_ptr() in pages for pages in mapped)
    ]
    assert copied == []
