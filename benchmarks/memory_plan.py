"""How much memory of each GPU does a model of 11 billion weights need, by the number of GPUs?

Computed from the shapes of a model without values (torch's meta device), as `shard_model: true`
cuts it: not run on a GPU. With one GPU nothing is cut. The parts that stay are counted exactly
(tests/benchmarks/test_memory_plan.py counts those of two processes); what a layer needs while it
computes, and what a pass keeps for the backward pass, are estimates.

    python -m benchmarks.memory_plan    # writes results/memory_plan.json and a table in README.md
"""

import datetime
import math
import sys
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn
from transformers import AutoModelForCausalLM, LlamaConfig, PretrainedConfig

from pipeline.files import write_json
from pipeline.models.memory import activation_bytes
from pipeline.models.sharding import layers_of
from pipeline.results.page import insert_between
from pipeline.training.prompt_encoders import PromptEncoder

FOLDER = Path(__file__).parent
BEGIN = "<!-- memory plan: written by `python -m benchmarks.memory_plan` -->"
END = "<!-- end of the memory plan -->"

# The shape of SOLAR-10.7B (Kim et al., arXiv:2312.15166).
SHAPE = {"vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 14336,
         "num_hidden_layers": 48, "num_attention_heads": 32, "num_key_value_heads": 8,
         "tie_word_embeddings": False}  # fmt: skip
RANKS = (1, 2, 4, 8)
TOKENS = 1024  # in a forward pass
PROMPT_TOKENS = 9
PARTS = ("weights", "gradients", "optimizer", "gathered", "prompt", "activations")


def main() -> None:
    """Compute, write the file and the table."""
    config = LlamaConfig(**SHAPE)
    plans = {
        kind: {str(count): plan(config, count, tuned=kind == "tuned") for count in RANKS}
        for kind in ("frozen", "tuned")
    }
    values = {
        "command": "python -m benchmarks.memory_plan",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "shape": SHAPE,
        "weights": sum(weight.numel() for weight in network_of(config).parameters()),
        "tokens_per_pass": TOKENS,
        "bytes_per_gpu": plans,
    }
    write_json(FOLDER / "results" / "memory_plan.json", values)
    readme = FOLDER / "README.md"
    text = insert_between(readme.read_text("utf-8"), BEGIN, END, table(plans))
    readme.write_text(text, encoding="utf-8")
    sys.stdout.write(f"{table(plans)}\n")


def network_of(config: PretrainedConfig) -> nn.Module:
    """A causal model of this shape, without values."""
    with torch.device("meta"):
        network: nn.Module = AutoModelForCausalLM.from_config(config)
    return network


def plan(config: PretrainedConfig, count: int, *, tuned: bool) -> dict[str, int]:
    """Return the bytes of each of `PARTS` on one GPU.

    Args:
        config: of a causal model of transformers.
        count: of the GPUs over which the model is cut.
        tuned: whether it is trained, with float32 weights (`mixed`); else they are bfloat16.
    """
    network = network_of(config)
    each = torch.float32.itemsize if tuned else torch.bfloat16.itemsize
    shapes = [weight.shape for weight in network.parameters()]
    # As torch cuts it: by the first dimension, rounded up.
    part = sum(math.ceil(shape[0] / count) * math.prod(shape[1:]) for shape in shapes)
    sizes = [sum(weight.numel() for weight in layer.parameters()) for layer in layers_of(network)]
    outside = sum(map(math.prod, shapes)) - sum(sizes)
    # Embeddings and head, the layer that computes and the next one; gradients of all but that.
    whole = 2 * max(sizes) + outside + tuned * (max(sizes) + outside)
    with torch.device("meta"):
        encoder = PromptEncoder("lstm", PROMPT_TOKENS, config.hidden_size)
    numbers = sum(weight.numel() for weight in encoder.parameters())
    return {
        "weights": part * each,
        "gradients": part * each * tuned,
        "optimizer": 2 * part * each * tuned,
        "gathered": whole * each if count > 1 else 0,
        "prompt": 4 * numbers * torch.float32.itemsize,  # with its gradient and Adam's two
        "activations": round(TOKENS * activation_bytes(config, each, words=config.vocab_size)),
    }


def table(plans: Mapping[str, Mapping[str, Mapping[str, int]]]) -> str:
    """The table in Markdown, in GiB."""
    lines = [
        f"| model | GPUs | {' | '.join(PARTS)} | together, GiB per GPU |",
        f"| --- |{' ---: |' * (len(PARTS) + 2)}",
    ]
    for kind, by_count in plans.items():
        for count, parts in by_count.items():
            sizes = [parts[name] / 2**30 for name in PARTS]
            cells = " | ".join(f"{size:.1f}" for size in sizes)
            lines.append(f"| {kind} | {count} | {cells} | **{sum(sizes):.1f}** |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
