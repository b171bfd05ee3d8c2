"""How many tokens fit in a forward pass, estimated from shapes.

The estimate depends on the machine's total memory, not on what is free at the moment, so that the
same machine computes in the same order each time.
"""

from typing import Any, Literal

import psutil
import torch

from pipeline.models.language_model import PromptedModel

# Share of the memory for the activations of a pass.
_SHARE = 0.3

# Numbers that one layer keeps for the backward pass, for each position and unit of its width. The
# count for a standard layer is 17 (Korthikanti et al., arXiv:2205.05198); wider ones have more.
_KEPT_BY_LAYER = 24
# Numbers for each word of the vocabulary: scores, log-probabilities, their gradients.
_KEPT_BY_WORD = 4

# An answer, which is scored among the vocabulary, adds at least so many tokens to a pass.
_TOKENS_BY_ANSWER = 4

# Beyond this, more tokens in a pass were not faster (measured on 2 CPU cores only).
_MOST_TOKENS = {"cpu": 1024, "cuda": 32768, "mps": 4096}


def estimate_max_tokens(model: PromptedModel, *, wanted: int | Literal["auto"] = "auto") -> int:
    """Maximum number of tokens in a forward pass of training.

    Args:
        model: with its device and dtype.
        wanted: the user's number, returned unchanged, or `auto`.
    """
    if wanted != "auto":
        return wanted
    config = model.network.config.get_text_config()
    each = activation_bytes(config, model.dtype.itemsize, words=model.vocabulary_size)
    fitting = int(_SHARE * total_memory(model.device) / each)
    return max(1, min(fitting, _MOST_TOKENS[model.device.type]))


def activation_bytes(config: Any, bytes_each: int, *, words: int) -> float:
    """Bytes that a pass keeps for the backward pass, for each of its tokens.

    Args:
        config: of the text model of transformers.
        bytes_each: of a number in the layers.
        words: of the vocabulary.
    """
    layers = _KEPT_BY_LAYER * config.hidden_size * config.num_hidden_layers * bytes_each
    head = _KEPT_BY_WORD * words * torch.float32.itemsize / _TOKENS_BY_ANSWER
    return float(layers + head)


def total_memory(device: torch.device) -> int:
    """Total memory of the device, in bytes."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return int(psutil.virtual_memory().total)
