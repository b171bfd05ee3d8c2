"""The prompt bank: prompts that train together, each with an encoder and randomness of its own."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pipeline.seeding import derive_seed
from pipeline.training.prompt_encoders import PromptEncoder


def make_encoder(
    kind: str, count: int, words: Tensor, *, dropout: float, seed: int, name: str
) -> PromptEncoder:
    """Make the encoder of one prompt; the same name and seed give the same weights.

    Args:
        kind: `lstm`, `mlp` or `embedding`.
        count: number of prompt tokens.
        words: (vocabulary, size) float, the language model's embeddings. An `embedding` prompt
            starts as random words of it (as in FewNLU), not as noise of another scale.
        dropout: share, within the encoder.
        seed: the seed of `params.yaml`.
        name: the prompt's name.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "prompt encoder", name))
        encoder = PromptEncoder(kind, count, words.shape[1], dropout=dropout)
        if kind == "embedding":
            encoder.start_from(words[torch.randint(len(words), (count,))].detach().cpu().float())
    return encoder


def stack_prompts(prompts: Sequence[Tensor]) -> Tensor | None:
    """Join the vectors of several prompts, for the rows of a batch to choose from.

    Args:
        prompts: (prompt tokens, size) float each; their numbers of tokens may differ.

    Returns:
        (prompts, longest, size) float; shorter prompts are filled with zeros. None for no prompts.
    """
    return nn.utils.rnn.pad_sequence(list(prompts), batch_first=True) if prompts else None
