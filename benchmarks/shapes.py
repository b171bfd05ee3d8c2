"""Models of known shapes with random weights: speed needs no trained ones."""

from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    PreTrainedTokenizerFast,
)

from pipeline.models.language_model import PromptedModel
from pipeline.models.tokenizer import PieceTokenizer

_SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


# Name -> type, vocabulary, hidden size, layers, heads and other values of the configuration, as
# published with SmolLM2-135M, bert-base-cased, bert-large-cased and gpt2-medium; the tiny ones are
# for trying the benchmark itself.
_LLAMA = {
    "num_key_value_heads": 3,
    "intermediate_size": 1536,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
    "pad_token_id": 0,
}
_GPT2 = {"bos_token_id": 0, "eos_token_id": 0}
SHAPES: dict[str, tuple[str, int, int, int, int, dict[str, Any]]] = {
    "smollm2-135m": ("llama", 49152, 576, 30, 9, _LLAMA),
    "bert-base": ("bert", 28996, 768, 12, 12, {"intermediate_size": 3072}),
    "bert-large": ("bert", 28996, 1024, 24, 16, {"intermediate_size": 4096}),
    "gpt2-medium": ("gpt2", 50257, 1024, 24, 16, _GPT2),
    "tiny": ("bert", 400, 32, 2, 2, {"intermediate_size": 128}),
    "tiny-causal": ("gpt2", 400, 32, 2, 2, _GPT2),
}


def random_model(shape: str, *, device: torch.device, seed: int) -> PromptedModel:
    """A float32 model of one of `SHAPES`, with random weights and made-up words."""
    model_type, vocabulary, size, layers, heads, more = SHAPES[shape]
    config = AutoConfig.for_model(
        model_type,
        vocab_size=vocabulary,
        hidden_size=size,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        **more,
    )
    masked = model_type == "bert"
    kind = AutoModelForMaskedLM if masked else AutoModelForCausalLM
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = kind.from_config(config, attn_implementation="sdpa", dtype=torch.float32)
    tokenizer = _tokenizer(vocabulary, masked=masked)
    return PromptedModel(network.to(device), PieceTokenizer(tokenizer), masked=masked)


def _tokenizer(size: int, *, masked: bool) -> PreTrainedTokenizerFast:
    """A tokenizer of `size` tokens, most of them words such as `w17`."""
    words = [*_SPECIALS, ".", "a", "is"]
    words += [f"w{number}" for number in range(size - len(words))]
    tokenizer = Tokenizer(
        models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]"}
    if masked:
        names |= {"cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)
