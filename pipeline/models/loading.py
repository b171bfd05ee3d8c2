"""Load a model folder as a `PromptedModel`."""

import importlib.util
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedTokenizerFast,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.quantizers.auto import AutoHfQuantizer
from transformers.utils.logging import disable_progress_bar

from pipeline.errors import ModelError
from pipeline.models.language_model import PromptedModel, nonfinite_weight
from pipeline.models.tokenizer import PieceTokenizer

if TYPE_CHECKING:  # a registered model has no need of pydantic
    from pipeline.config.schema import Params

# `mixed` too keeps the weights in single precision.
_DTYPES = {"float32": torch.float32, "mixed": torch.float32, "bfloat16": torch.bfloat16}

# Far more than any model has; transformers would build each.
_MOST_LAYERS = 1000

# Of every from_pretrained: no network, and no code of the folder.
_LOCAL = {"local_files_only": True, "trust_remote_code": False}


def choose_device(name: str) -> torch.device:
    """Resolve `runtime.device`; `auto` takes a GPU if there is one.

    Raises:
        ModelError: this machine has no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    count = {
        "cpu": 1,
        "cuda": torch.cuda.device_count(),
        "mps": int(torch.backends.mps.is_available()),
    }[device.type]
    if (device.index or 0) >= count:
        raise ModelError(
            f"runtime.device: {name} is not on this machine ({count} {device.type} devices); "
            "write auto or cpu"
        )
    return device


def choose_precision(dtype: str, device: torch.device, *, tuned: bool = False) -> str:
    """Resolve `model.dtype`: `float32`, `bfloat16` or `mixed`.

    `auto` is float32, but on CUDA bfloat16 for a frozen model, and for a tuned one mixed: its
    small steps would be lost in bfloat16 weights. Cards older than Ampere only emulate bfloat16.
    """
    if dtype != "auto":
        return dtype
    if device.type != "cuda" or not torch.cuda.is_bf16_supported(including_emulation=False):
        return "float32"
    return "mixed" if tuned else "bfloat16"


def load_model(
    folder: Path,
    *,
    device: str = "auto",
    dtype: str = "auto",
    threads: int | None = None,
    start: str | None = None,
    device_map: str | None = None,
    quantization: str | None = None,
    tuned: bool = False,
    weights: Path | None = None,
    labels: int | None = None,
    seed: int = 0,
    on_host: bool = False,
) -> PromptedModel:
    """Load a model and its tokenizer.

    Args:
        folder: a folder of transformers (`config.json`, `*.safetensors`, `tokenizer.json`).
        device: as in `runtime.device`.
        dtype: as in `model.dtype`.
        threads: of the CPU, for torch as a whole; None: as many as there are cores.
        start: what precedes every row of a causal model, as in `model.start`; None: what the
            tokenizer puts there.
        device_map: as in `model.device_map`; with `auto`, accelerate places the layers.
        quantization: as in `model.quantization`.
        tuned: whether the model's own weights are, or will be, trained.
        weights: tuned weights that replace the folder's, as `PromptedModel.network` names them.
        labels: of a classifier that is added before they do; None adds none.
        seed: of the classifier's first weights.
        on_host: whether the weights stay on the CPU, for `PromptedModel.shard`.

    Raises:
        ModelError: the folder holds no masked or causal model that can be loaded, the device is
            not there, or bitsandbytes is not.
    """
    place = choose_device(device)
    precision = choose_precision(dtype, place, tuned=tuned or weights is not None)
    if threads is not None:
        torch.set_num_threads(threads)
    placement = _placement(place, device_map, quantization, _DTYPES[precision])
    network, codec, masked = _load(folder, start, dtype=_DTYPES[precision], **placement)
    _check_finite(network, folder, "fetch or save the model again")
    with _naming(folder):
        if device_map is None and quantization is None and not on_host:
            network = network.to(place)
        model = PromptedModel(network, codec, masked=masked, mixed=precision == "mixed")
    if labels is not None:
        model.add_classifier(labels, seed=seed)
    if weights is not None:
        _load_weights(model.network, weights)
    return model


def check_folder(folder: Path) -> None:
    """Check that a folder has a model that can be loaded, without reading its weights.

    Raises:
        ModelError: `load_model` would refuse it: for its configuration, its tokenizer, or the names
            and shapes of its weights.
    """
    _load(folder, None, device_map="meta")


def _load(folder: Path, start: str | None, **placement: Any) -> tuple[Any, PieceTokenizer, bool]:
    """The network, its tokenizer, and whether the model is masked."""
    disable_progress_bar()  # loading takes a second
    config, masked = _read_config(folder)
    auto_class = AutoModelForMaskedLM if masked else AutoModelForCausalLM
    with _naming(folder):
        loaded: Any = auto_class.from_pretrained(
            folder,
            output_loading_info=True,
            config=config,
            use_safetensors=True,
            **placement,
            **_LOCAL,
        )
    network, report = loaded
    # transformers would initialize missing weights at random.
    if report["missing_keys"]:
        names = ", ".join(sorted(report["missing_keys"])[:3])
        raise ModelError(f"{folder}: weights are missing ({names}); fetch or save the model again")
    for module in network.modules():  # RoBERTa and others count positions from this id
        if hasattr(module, "create_position_ids_from_input_ids") and module.padding_idx is None:
            raise ModelError(
                f"{folder}: config.json: pad_token_id is missing, from which this model counts "
                "positions; write the id of the tokenizer's padding token, or fetch the model again"
            )
    with _naming(folder):
        rows: int = network.get_input_embeddings().weight.shape[0]
    return network, load_codec(folder, masked=masked, start=start, rows=rows), masked


def _placement(
    device: torch.device, device_map: str | None, quantization: str | None, dtype: torch.dtype
) -> dict[str, Any]:
    """Options of `from_pretrained` for layers on several devices and for small weights."""
    if quantization is None:
        return {} if device_map is None else {"device_map": device_map}
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ModelError(
            f"model.quantization: {quantization} needs the package bitsandbytes; run pip install "
            "-e '.[quantization]', or write null"
        )
    config = BitsAndBytesConfig(
        load_in_8bit=quantization == "8bit",
        load_in_4bit=quantization == "4bit",
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=dtype,
    )
    return {"device_map": device_map or {"": device}, "quantization_config": config}


def load_codec(
    folder: Path, *, masked: bool, start: str | None, rows: int | None = None
) -> PieceTokenizer:
    """Load the tokenizer of a masked or causal model, with so many rows of word embeddings.

    Raises:
        ModelError: the folder has no fast tokenizer, or a special token has no row.
    """
    with _naming(folder):
        tokenizer = AutoTokenizer.from_pretrained(folder, **_LOCAL)
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise ModelError(f"{folder}: no fast tokenizer (tokenizer.json); save one there")
    with _naming(folder):
        return PieceTokenizer(tokenizer, start=None if masked else start, rows=rows)


def model_loader(folder: Path, params: "Params") -> Callable[..., PromptedModel]:
    """`load_model` of a folder with the device, precision and threads of the parameters."""
    return partial(
        load_model,
        folder,
        device=params.runtime.device,
        dtype=params.model.dtype,
        threads=params.runtime.threads,
        start=params.model.start,
        device_map=params.model.device_map,
        quantization=params.model.quantization,
    )


class ModelCache:
    """The language model of a folder; all prompts of a frozen model share one in memory.

    Pickled, it is the loader only; a process that unpickles the same one again gets the same cache.
    """

    def __init__(self, load: Callable[..., PromptedModel]) -> None:
        """Initialize with a loader that takes the options of `get` as `load_model` does."""
        self._load = load
        self._frozen: PromptedModel | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        """Return how to pickle it."""
        return _cache_of, (pickle.dumps(self._load),)

    def get(
        self,
        weights: Path | None = None,
        labels: int | None = None,
        *,
        tuned: bool = False,
        seed: int = 0,
        on_host: bool = False,
    ) -> PromptedModel:
        """Load the model: with tuned weights, with a classifier, or to be tuned, if asked for.

        Raises:
            ModelError: model and weights do not belong together.
        """
        frozen = weights is None and labels is None and not tuned
        if frozen and self._frozen is not None:
            return self._frozen
        self._frozen = None  # two need not fit in memory
        model = self._load(weights=weights, labels=labels, tuned=tuned, seed=seed, on_host=on_host)
        if frozen:
            self._frozen = model
        return model


@lru_cache(maxsize=1)
def _cache_of(load: bytes) -> ModelCache:
    return ModelCache(pickle.loads(load))


def _load_weights(network: torch.nn.Module, weights: Path) -> None:
    try:
        state = load_file(weights)
    except SafetensorError as error:
        raise ModelError(f"{weights}: cut or altered ({error}); train again") from error
    # Tied weights are saved once, under their first name, as named_parameters gives them.
    expected = {name: tuple(weight.shape) for name, weight in network.named_parameters()}
    found = {name: tuple(weight.shape) for name, weight in state.items()}
    differing = sorted(dict(expected.items() ^ found.items()))
    if differing:
        raise ModelError(
            f"{weights}: weights of another model ({', '.join(differing[:3])} differ); train again "
            "with this one"
        )
    network.load_state_dict(state, strict=False)
    _check_finite(network, weights, "train again with a lower learning_rate")


def _check_finite(network: torch.nn.Module, file: Path, advice: str) -> None:
    name = nonfinite_weight(network)
    if name is not None:
        raise ModelError(f"{file}: the weights contain NaN or infinity ({name}); {advice}")


def is_masked(folder: Path) -> bool:
    """Whether the model in a folder is masked (else causal), without loading it.

    Raises:
        ModelError: the folder holds neither.
    """
    return _read_config(folder)[1]


def _read_config(folder: Path) -> tuple[Any, bool]:
    """The configuration, and whether the model is masked."""
    with _naming(folder):
        config = AutoConfig.from_pretrained(folder, **_LOCAL)
        layers = getattr(config.get_text_config(), "num_hidden_layers", 0)
        if layers > _MOST_LAYERS:
            raise ModelError(
                f"{folder}: config.json: num_hidden_layers is {layers}, more than {_MOST_LAYERS}; "
                "fetch the model again"
            )
        quantized = getattr(config, "quantization_config", None)
        if quantized is not None and not AutoHfQuantizer.supports_quant_method(quantized):
            raise ModelError(
                f"{folder}: config.json: unknown quantization {quantized}; choose a model without"
            )
        return config, _is_masked(config, folder)


@contextmanager
def _naming(folder: Path) -> Iterator[None]:
    """Turn whatever a damaged folder makes transformers raise into an error that names it."""
    try:
        yield
    except (ModelError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        if "trust_remote_code" in reason:
            raise ModelError(
                f"{folder}: config.json: auto_map: the model has its own code, which is not run "
                f"here; choose a model whose code transformers {transformers.__version__} has"
            ) from error
        raise ModelError(
            f"{folder}: not a model that transformers can load: {reason}; fetch the model again, "
            f"or save it with transformers {transformers.__version__} and without quantization"
        ) from error


def _is_masked(config: object, folder: Path) -> bool:
    """Whether the class that the model was saved as is a masked one.

    Encoder-decoders are refused: their two sequences, and answers behind sentinel tokens, need
    their own templates, scores and references, and the paper has none of them.
    """
    architectures = getattr(config, "architectures", None) or []
    for name in architectures:
        if getattr(config, "is_encoder_decoder", False):
            raise ModelError(
                f"{folder}: config.json: {name} is an encoder-decoder, which has no place "
                "for the answer of a prompt; choose a masked or causal language model"
            )
        if name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values():  # a multimodal one reads text too
            return False
        if name.endswith(("ForMaskedLM", "ForPreTraining")):
            return True
        if name.endswith(("ForCausalLM", "LMHeadModel")):
            return False
    raise ModelError(
        f"{folder}: config.json: architectures is {architectures}; expected the name of a masked "
        "(...ForMaskedLM) or causal (...ForCausalLM, ...LMHeadModel) language model"
    )
