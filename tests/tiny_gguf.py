"""A tiny Llama with a byte-level tokenizer as a GGUF file, of the kind that llama.cpp writes."""

import json
from pathlib import Path

import gguf
import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

_HEADS, _KEY_HEADS, _SIZE = 2, 1, 32
_NAMES = {
    "model.embed_tokens.": "token_embd.",
    "model.norm.": "output_norm.",
    "model.layers.": "blk.",
    ".input_layernorm.": ".attn_norm.",
    ".post_attention_layernorm.": ".ffn_norm.",
    ".self_attn.q_proj.": ".attn_q.",
    ".self_attn.k_proj.": ".attn_k.",
    ".self_attn.v_proj.": ".attn_v.",
    ".self_attn.o_proj.": ".attn_output.",
    ".mlp.gate_proj.": ".ffn_gate.",
    ".mlp.up_proj.": ".ffn_up.",
    ".mlp.down_proj.": ".ffn_down.",
}


def save_tiny_gguf(
    file: Path, tokenizer: PreTrainedTokenizerFast, *, quantised: bool
) -> dict[str, torch.Tensor]:
    """Write a GGUF file; return the weights that it represents, by their names in transformers.

    Args:
        file: to be written.
        tokenizer: a byte-level BPE, whose first token ends a text.
        quantised: whether matrices are stored as Q8_0, blocks of 8-bit numbers.
    """
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=_SIZE, intermediate_size=64,
            num_hidden_layers=2, num_attention_heads=_HEADS, num_key_value_heads=_KEY_HEADS,
            tie_word_embeddings=True, initializer_range=0.3, pad_token_id=0, bos_token_id=0,
            eos_token_id=0,
        )
    )  # fmt: skip
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_name("tiny")
    writer.add_context_length(128)
    writer.add_embedding_length(_SIZE)
    writer.add_block_count(2)
    writer.add_feed_forward_length(64)
    writer.add_head_count(_HEADS)
    writer.add_head_count_kv(_KEY_HEADS)
    writer.add_rope_dimension_count(_SIZE // _HEADS)
    writer.add_rope_freq_base(10_000.0)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_vocab_size(len(tokenizer))
    _add_tokenizer(writer, tokenizer)
    weights = {}
    for name, parameter in model.named_parameters():
        array = parameter.detach().numpy()
        stored = _stored_name(name)
        kind = gguf.GGMLQuantizationType.F32
        if quantised and array.ndim == 2:
            kind = gguf.GGMLQuantizationType.Q8_0
        packed = gguf.quants.quantize(_permuted(stored, array), kind)
        writer.add_tensor(stored, packed, raw_dtype=kind)
        # Blocks lie within rows, so the order of the rows does not change their rounding.
        rounded = gguf.quants.dequantize(gguf.quants.quantize(array, kind), kind)
        weights[name] = torch.from_numpy(rounded.reshape(array.shape).copy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return weights


def _add_tokenizer(writer: gguf.GGUFWriter, tokenizer: PreTrainedTokenizerFast) -> None:
    described = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    tokens = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    plain, control = gguf.TokenType.NORMAL, gguf.TokenType.CONTROL
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([control, *[plain] * (len(tokens) - 1)])
    writer.add_token_merges([" ".join(merge) for merge in described["merges"]])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)


def _stored_name(name: str) -> str:
    for old, new in _NAMES.items():
        name = name.replace(old, new)
    return name


def _permuted(name: str, array: np.ndarray) -> np.ndarray:
    """Order the rows of queries and keys as llama.cpp does: a head's two halves interleaved."""
    heads = _HEADS if ".attn_q." in name else _KEY_HEADS if ".attn_k." in name else 0
    if not heads:
        return array
    halves = array.reshape(heads, 2, -1, array.shape[1])
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(array.shape))
