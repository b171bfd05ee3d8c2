"""Turn a GGUF file into a plain folder of transformers: float32 weights, tokenizer, config."""

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def convert_gguf(file: Path, target: Path) -> None:
    """Dequantise a causal model and save it.

    Args:
        file: a GGUF file.
        target: an existing folder; gets `model.safetensors` (float32), `config.json` and
            `tokenizer.json`. The bytes depend on the file alone.
    """
    where = {"gguf_file": file.name, "local_files_only": True}
    model = AutoModelForCausalLM.from_pretrained(file.parent, dtype=torch.float32, **where)
    # The weights are plain floats now; with the quantisation noted, saving is refused.
    del model.config.quantization_config
    delattr(model, "hf_quantizer")
    model.save_pretrained(target)
    AutoTokenizer.from_pretrained(file.parent, **where).save_pretrained(target)
