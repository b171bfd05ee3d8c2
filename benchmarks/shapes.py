"""Models of known shapes with random weights: speed needs no trained ones."""

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    BertConfig,
    GPT2Config,
    LlamaConfig,
    PretrainedConfig,
    PreTrainedTokenizerFast,
)

from pipeline.models.language_model import PromptedModel
from pipeline.models.tokenizer import PieceTokenizer

_SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def _bert(vocabulary: int, size: int, layers: int, heads: int) -> BertConfig:
    return BertConfig(
        vocab_size=vocabulary,
        hidden_size=size,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=4 * size,
        pad_token_id=0,
    )


def _gpt2(vocabulary: int, size: int, layers: int, heads: int) -> GPT2Config:
    return GPT2Config(
        vocab_size=vocabulary,
        n_embd=size,
        n_layer=layers,
        n_head=heads,
        bos_token_id=0,
        eos_token_id=0,
    )


# Name -> configuration, as published with bert-base-cased, bert-large-cased, gpt2-medium and
# SmolLM2-135M; the tiny ones are for trying the benchmark itself.
SHAPES = {
    "smollm2-135m": lambda: LlamaConfig(
        vocab_size=49152,
        hidden_size=576,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        intermediate_size=1536,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
        pad_token_id=0,
    ),
    "bert-base": lambda: _bert(28996, 768, 12, 12),
    "bert-large": lambda: _bert(28996, 1024, 24, 16),
    "gpt2-medium": lambda: _gpt2(50257, 1024, 24, 16),
    "tiny": lambda: _bert(400, 32, 2, 2),
    "tiny-causal": lambda: _gpt2(400, 32, 2, 2),
}


def random_model(shape: str, *, device: torch.device, seed: int) -> PromptedModel:
    """Make a float32 model of a shape, with random weights and made-up words.

    Args:
        shape: a name of `SHAPES`.
        device: where it is to be.
        seed: of the weights.
    """
    config: PretrainedConfig = SHAPES[shape]()
    masked = config.model_type == "bert"
    kind = AutoModelForMaskedLM if masked else AutoModelForCausalLM
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = kind.from_config(config, attn_implementation="sdpa", dtype=torch.float32)
    tokenizer = _tokenizer(config.vocab_size, masked=masked)
    return PromptedModel(network.to(device), PieceTokenizer(tokenizer), masked=masked)


def _tokenizer(size: int, *, masked: bool) -> PreTrainedTokenizerFast:
    """Return a tokenizer of so many tokens, most of them words `w17`."""
    words = [*_SPECIALS, ".", "a", "is"]
    words += [f"w{number}" for number in range(size - len(words))]
    tokenizer = Tokenizer(
        models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    if not masked:
        return PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]"
        )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )
