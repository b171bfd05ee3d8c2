"""What trained vectors resemble: the words of the vocabulary with the nearest embeddings."""

import torch
from torch import Tensor
from torch.nn.functional import normalize

from pipeline.models.language_model import PromptedModel

_CHUNK = 8192


@torch.inference_mode()
def nearest_words(
    model: PromptedModel, vectors: Tensor, count: int
) -> list[list[tuple[str, float]]]:
    """Return the words that each vector is most similar to, the nearest first.

    Args:
        model: the language model, with tuned weights if the vectors were trained with them.
        vectors: (prompt tokens, embedding size) float.
        count: at most so many words for each vector; tokens that print as nothing are left out,
            and of tokens that differ in white space only, the nearest is kept.

    Returns:
        For each vector, words with the cosine of the angle between it and their embedding.

    Source: Lester et al. (arXiv 2104.08691), section 7, by cosine similarity.
    """
    size = model.vocabulary_size
    wanted = normalize(vectors.to(model.device).float(), dim=1)
    similarity = torch.cat(
        [
            wanted @ normalize(model.input_embeddings(ids).float(), dim=1).T
            for ids in torch.arange(size, device=model.device).split(_CHUNK)
        ],
        dim=1,
    )
    # More than wanted, as several tokens may print alike.
    values, ids = similarity.topk(min(size, 8 * count + 32), dim=1)
    decode = model.codec.tokenizer.decode
    nearest = []
    for row, numbers in zip(values.tolist(), ids.tolist(), strict=True):
        words: dict[str, float] = {}
        for value, number in zip(row, numbers, strict=True):
            word = str(decode([number])).strip()
            if word and word.isprintable() and len(words) < count:
                words.setdefault(word, value)
        nearest.append(list(words.items()))
    return nearest
