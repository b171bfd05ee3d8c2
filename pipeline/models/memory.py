"""How much fits: rows in a pass, prompts in a bank. Estimated from shapes, not tried.

The figures hang on the machine's whole memory, not on what is free at the moment, so that the same
machine computes in the same order each time.
"""

from typing import Literal

import psutil
import torch

from pipeline.models.language_model import PromptedModel
from pipeline.training.prompt_encoders import PromptEncoder

# Of the memory, for the activations of a pass and for the encoders of a bank.
_ROWS_SHARE = 0.3
_BANK_SHARE = 0.2

# Numbers that one layer keeps for the backward pass, for each position and unit of its width. The
# count for a standard layer is 17 (Korthikanti et al., arXiv:2205.05198); wider ones have more.
_KEPT_BY_LAYER = 24
# Numbers for each of an encoder's: with its gradient, the two of Adam, and both once more where
# encoders run side by side.
_KEPT_BY_WEIGHT = 6
# Numbers for each word of the vocabulary: scores, log-probabilities, their gradients.
_KEPT_BY_WORD = 4

# Beyond this, more rows in a pass were not faster (2 CPU cores: 64 as fast as 256).
_MOST_ROWS = {"cpu": 64, "cuda": 2048, "mps": 256}


def estimate_max_rows(
    model: PromptedModel, length: int, *, wanted: int | Literal["auto"] = "auto"
) -> int:
    """Return how many rows may share a pass of training.

    Args:
        model: with its device and dtype.
        length: positions of the longest row.
        wanted: a number that the user gave; it is taken as it is.
    """
    if wanted != "auto":
        return wanted
    config = model.network.config
    bytes_each = model.words.element_size()
    layers = _KEPT_BY_LAYER * length * config.hidden_size * config.num_hidden_layers * bytes_each
    head = _KEPT_BY_WORD * len(model.words) * torch.float32.itemsize
    fitting = int(_ROWS_SHARE * _memory(model.device) / (layers + head))
    return max(1, min(fitting, _MOST_ROWS[model.device.type]))


def estimate_bank_size(model: PromptedModel, encoder: str, tokens: int) -> int:
    """Return how many prompts may train together, by what their encoders need.

    Args:
        model: with its device.
        encoder: `lstm`, `mlp` or `embedding`.
        tokens: prompt tokens of the longest prompt.
    """
    with torch.device("meta"):
        bare = PromptEncoder(encoder, max(1, tokens), model.words.shape[1], dropout=0.0)
    numbers = _KEPT_BY_WEIGHT * sum(parameter.numel() for parameter in bare.parameters())
    return max(1, int(_BANK_SHARE * _memory(model.device) / (numbers * torch.float32.itemsize)))


def _memory(device: torch.device) -> int:
    """Return the bytes of the device's whole memory."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return int(psutil.virtual_memory().total)
