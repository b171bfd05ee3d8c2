"""Load a model folder as an `AnswerModel`."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoTokenizer,
    PreTrainedTokenizerFast,
)

from pipeline.errors import ModelError
from pipeline.models.answers import AnswerModel
from pipeline.models.codec import Codec

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


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


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """Return the type that `model.dtype` names; `auto` is bfloat16 on CUDA, else float32."""
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    return _DTYPES[name]


def load_model(
    folder: Path, *, device: str = "auto", dtype: str = "auto", weights: Path | None = None
) -> AnswerModel:
    """Load a model and its tokenizer.

    Args:
        folder: a folder of transformers (`config.json`, `*.safetensors`, `tokenizer.json`).
        device: as in `runtime.device`.
        dtype: as in `model.dtype`.
        weights: tuned weights that replace the folder's, as `AnswerModel.network` names them.

    Raises:
        ModelError: the folder holds no masked or causal model that can be loaded, or the device
            is not there.
    """
    place = choose_device(device)
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        masked = _is_masked(config)
        kind = AutoModelForMaskedLM if masked else AutoModelForCausalLM
        network: Any = kind.from_pretrained(
            folder,
            config=config,
            dtype=choose_dtype(dtype, place),
            attn_implementation="sdpa",
            local_files_only=True,
        )
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, json.JSONDecodeError) as error:
        raise ModelError(f"{folder}: not a model that transformers can load: {error}") from error
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise ModelError(f"{folder}: no fast tokenizer (tokenizer.json); save one there")
    if weights is not None:
        _load_weights(network, weights)
    return AnswerModel(
        network.to(place),
        Codec(tokenizer),
        masked=masked,
    )


def _load_weights(network: torch.nn.Module, weights: Path) -> None:
    state = load_file(weights)
    outcome = network.load_state_dict(state, strict=False)
    # Tied weights are saved once, under one of their names.
    tied = set(getattr(network, "all_tied_weights_keys", {}) or {})
    missing = [name for name in outcome.missing_keys if name not in tied]
    if missing or outcome.unexpected_keys:
        raise ModelError(
            f"{weights}: weights of another model (missing {missing[:3]}, unknown "
            f"{outcome.unexpected_keys[:3]}); train again with this model"
        )


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
