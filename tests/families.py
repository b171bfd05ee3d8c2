"""Tiny models of all tested families; `python -m tests.families` writes their list to the docs."""

from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from pipeline.models.language_model import PromptedModel
from pipeline.models.tokenizer import PieceTokenizer
from tests.tiny import make_tokenizer

DOCS = Path(__file__).parents[1] / "docs" / "models.md"

_SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 64,
}
_LLAMA = {**_SIZES, "num_key_value_heads": 1}
_GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64}
_EXPERTS = {**_LLAMA, "num_local_experts": 2, "num_experts_per_tok": 1}
_GEMMA = {**_LLAMA, "head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 16}
_DEEPSEEK = {
    **_SIZES, "num_key_value_heads": 2, "q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8, "v_head_dim": 16, "n_routed_experts": 2, "num_experts_per_tok": 1,
    "n_group": 1, "topk_group": 1, "moe_intermediate_size": 16, "first_k_dense_replace": 1,
}  # fmt: skip
_VISION = {
    "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 16,
    "image_size": 8, "patch_size": 4,
}  # fmt: skip
_DEBERTA = {**_SIZES, "relative_attention": True, "pos_att_type": ["c2p", "p2c"]}

# Type of the configuration -> its values, as small as the family allows.
MASKED: dict[str, dict[str, Any]] = {
    "albert": {**_SIZES, "embedding_size": 16},
    "bert": _SIZES,
    "camembert": _SIZES,
    "deberta": _DEBERTA,
    "deberta-v2": {**_DEBERTA, "position_buckets": 8},
    "distilbert": {
        "dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 32, "max_position_embeddings": 64,
    },
    "electra": {**_SIZES, "embedding_size": 16},
    "eurobert": _LLAMA,
    "longformer": {**_SIZES, "attention_window": 8},
    "megatron-bert": _SIZES,
    "mobilebert": {
        **_SIZES, "embedding_size": 16, "intra_bottleneck_size": 16, "true_hidden_size": 16,
    },
    "modernbert": {**_SIZES, "local_attention": 16, "global_attn_every_n_layers": 2},
    "mpnet": _SIZES,
    "nomic_bert": _SIZES,
    "rembert": {**_SIZES, "input_embedding_size": 16, "output_embedding_size": 24},
    "roberta": _SIZES,
    "roformer": {**_SIZES, "embedding_size": 16},
    "squeezebert": {**_SIZES, "embedding_size": 32},
    "xlm-roberta": _SIZES,
    "xlm-roberta-xl": _SIZES,
}  # fmt: skip
CAUSAL: dict[str, dict[str, Any]] = {
    "biogpt": _SIZES,
    "bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 2},
    "codegen": {"n_embd": 64, "n_layer": 2, "n_head": 4, "rotary_dim": 8, "n_positions": 64},
    "cohere": {**_LLAMA, "logit_scale": 0.5},
    "cohere2": {**_LLAMA, "logit_scale": 0.5, "sliding_window": 16},
    "deepseek_v3": _DEEPSEEK,
    "falcon": {**_SIZES, "num_kv_heads": 1},
    "gemma": {**_LLAMA, "head_dim": 16},
    "gemma2": {**_GEMMA, "final_logit_softcapping": 2.0},
    "gemma3_text": _GEMMA,
    "gemma3": {"text_config": _GEMMA, "vision_config": _VISION, "mm_tokens_per_image": 4},
    "glm4": {**_LLAMA, "head_dim": 16},
    "gpt2": _GPT2,
    "gpt_neo": {
        "hidden_size": 32, "num_layers": 2, "num_heads": 2, "max_position_embeddings": 64,
        "attention_types": [[["global", "local"], 1]], "window_size": 16,
    },
    "gpt_neox": _SIZES,
    "gpt_oss": {**_EXPERTS, "head_dim": 16, "sliding_window": 16},
    "gptj": {**_GPT2, "rotary_dim": 8},
    "granite": {
        **_LLAMA, "logits_scaling": 3.0, "embedding_multiplier": 2.0, "residual_multiplier": 0.5,
    },
    "lfm2": {**_LLAMA, "layer_types": ["conv", "full_attention"], "block_multiple_of": 8},
    "llama": _LLAMA,
    "mamba": {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 4},
    "mistral": {**_LLAMA, "sliding_window": 16},
    "mixtral": _EXPERTS,
    "mpt": {"d_model": 32, "n_heads": 2, "n_layers": 2, "max_seq_len": 64, "expansion_ratio": 2},
    "olmo2": _LLAMA,
    "openai-gpt": _GPT2,
    "opt": {**_SIZES, "word_embed_proj_dim": 16, "ffn_dim": 32},
    "phi": _LLAMA,
    "phi3": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": {**_LLAMA, "head_dim": 16},
    "rwkv": {"hidden_size": 32, "num_hidden_layers": 2, "context_length": 64},
    "smollm3": _LLAMA,
    "stablelm": _LLAMA,
    "xglm": {"d_model": 32, "ffn_dim": 32, "num_layers": 2, "attention_heads": 2,
              "max_position_embeddings": 64},
}  # fmt: skip
FAMILIES = sorted(MASKED | CAUSAL)

# Type -> why a model of it is refused, in the words of the error.
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "convbert": ({**_SIZES, "embedding_size": 16, "conv_kernel_size": 3}, "padded rows"),
    "esm": ({**_SIZES, "mask_token_id": 4}, "padded rows"),
    "fnet": (_SIZES, "padded rows"),
    "nystromformer": (_SIZES, "padded rows"),
    "xlnet": ({"d_model": 32, "n_layer": 2, "n_head": 2, "d_inner": 32}, "padded rows"),
}


def make_network(name: str) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """Create a tiny model of a family with random weights, and a tokenizer with its vocabulary."""
    masked = name in MASKED or (name in REFUSED and name != "xlnet")
    tokenizer = make_tokenizer("bert" if masked else "gpt2")
    values = MASKED.get(name) or CAUSAL.get(name) or REFUSED[name][0]
    tokens = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    common = {"vocab_size": len(tokenizer) + 8, "initializer_range": 0.1, **tokens}
    if "text_config" in values:
        values = {**values, "text_config": {**values["text_config"], **common}}
    torch.manual_seed(1)
    auto_class = AutoModelForMaskedLM if masked else AutoModelForCausalLM
    network = auto_class.from_config(AutoConfig.for_model(name, **{**common, **values}))
    return network.float().eval(), tokenizer


def save_family(name: str, folder: Path) -> Path:
    """Save a tiny model of a family."""
    network, tokenizer = make_network(name)
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def families_table() -> str:
    """Return the list of families, in Markdown."""
    lines = ["| family | transformers class | kind | rows share sequences |", "|---|---|---|---|"]
    for name in FAMILIES:
        network, tokenizer = make_network(name)
        masked = name in MASKED
        model = PromptedModel(network, PieceTokenizer(tokenizer), masked=masked)
        kind = "masked" if masked else "causal"
        packs = "yes" if model.max_packed_length else "no"
        lines.append(f"| {name} | `{type(network).__name__}` | {kind} | {packs} |")
    return "\n".join(lines) + "\n"


def _write_docs() -> None:
    before, start, rest = DOCS.read_text().partition("<!-- families -->\n")
    _, end, after = rest.partition("<!-- end -->")
    DOCS.write_text(f"{before}{start}{families_table()}{end}{after}")


if __name__ == "__main__":
    _write_docs()
