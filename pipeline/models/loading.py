"""Load a model folder as an `PromptedModel`."""

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoTokenizer,
    PreTrainedTokenizerFast,
)
from transformers.utils.logging import disable_progress_bar

from pipeline.errors import ModelError
from pipeline.models.language_model import PromptedModel
from pipeline.models.tokenizer import PieceTokenizer

# `mixed` too keeps the weights in single precision.
_DTYPES = {"float32": torch.float32, "mixed": torch.float32, "bfloat16": torch.bfloat16}


def choose_device(name: str) -> torch.device:
    """Return the device that `runtime.device` names; `auto` takes a GPU if there is one.

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
    """Return what `model.dtype` stands for: `float32`, `bfloat16` or `mixed`.

    `auto` is float32, but on CUDA bfloat16 for a frozen model, and for a tuned one mixed: its
    small steps would be lost in bfloat16 weights.
    """
    if dtype != "auto":
        return dtype
    if device.type != "cuda":
        return "float32"
    return "mixed" if tuned else "bfloat16"


def load_model(
    folder: Path,
    *,
    device: str = "auto",
    dtype: str = "auto",
    threads: int | None = None,
    tuned: bool = False,
    weights: Path | None = None,
    labels: int | None = None,
    seed: int = 0,
) -> PromptedModel:
    """Load a model and its tokenizer.

    Args:
        folder: a folder of transformers (`config.json`, `*.safetensors`, `tokenizer.json`).
        device: as in `runtime.device`.
        dtype: as in `model.dtype`.
        threads: of the CPU, for torch as a whole; None: as many as there are cores.
        tuned: whether the model's own weights are, or will be, trained.
        weights: tuned weights that replace the folder's, as `PromptedModel.network` names them.
        labels: of a classifier that is added before they do; None adds none.
        seed: of the classifier's first weights.

    Raises:
        ModelError: the folder holds no masked or causal model that can be loaded, or the device
            is not there.
    """
    place = choose_device(device)
    precision = choose_precision(dtype, place, tuned=tuned or weights is not None)
    disable_progress_bar()  # loading takes a second
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        masked = _is_masked(config)
        kind = AutoModelForMaskedLM if masked else AutoModelForCausalLM
        loaded: Any = kind.from_pretrained(
            folder,
            output_loading_info=True,
            config=config,
            dtype=_DTYPES[precision],
            attn_implementation="sdpa",
            local_files_only=True,
        )
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"{folder}: not a model that transformers can load: {error}") from error
    network, report = loaded
    # Otherwise transformers makes missing weights up, other ones each time.
    if report["missing_keys"]:
        names = ", ".join(sorted(report["missing_keys"])[:3])
        raise ModelError(f"{folder}: weights are missing ({names}); fetch or save the model again")
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise ModelError(f"{folder}: no fast tokenizer (tokenizer.json); save one there")
    model = PromptedModel(
        network.to(place), PieceTokenizer(tokenizer), masked=masked, mixed=precision == "mixed"
    )
    if labels is not None:
        model.add_classifier(labels, seed=seed)
    if weights is not None:
        _load_weights(model.network, weights)
    return model


def _load_weights(network: torch.nn.Module, weights: Path) -> None:
    try:
        state = load_file(weights)
    except SafetensorError as error:
        raise ModelError(f"{weights}: cut or altered ({error}); train again") from error
    # Tied weights are saved once, under their first name, as named_parameters gives them.
    own = {name: tuple(weight.shape) for name, weight in network.named_parameters()}
    found = {name: tuple(weight.shape) for name, weight in state.items()}
    differing = sorted(dict(own.items() ^ found.items()))
    if differing:
        raise ModelError(
            f"{weights}: weights of another model ({', '.join(differing[:3])} differ); train again "
            "with this one"
        )
    network.load_state_dict(state, strict=False)


def is_masked(folder: Path) -> bool:
    """Tell whether the model in a folder is masked or causal, without loading it.

    Raises:
        ModelError: the folder holds neither.
    """
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"{folder}: not a model that transformers can load: {error}") from error
    return _is_masked(config)


def _is_masked(config: object) -> bool:
    """Tell masked from causal by the class that the model was saved as."""
    architectures = getattr(config, "architectures", None) or []
    for name in architectures:
        if name.endswith(("ForMaskedLM", "ForPreTraining")):
            return True
        if name.endswith(("ForCausalLM", "LMHeadModel")):
            return False
    raise ModelError(
        f"config.json: architectures is {architectures}; expected the name of a masked "
        "(...ForMaskedLM) or causal (...ForCausalLM, ...LMHeadModel) language model"
    )
