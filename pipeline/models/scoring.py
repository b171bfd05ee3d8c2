"""Scores of examples: of one pass, and of many without gradients."""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from pipeline.models.encoding import EncodedExample, MultipleChoice, collate
from pipeline.models.language_model import PromptedModel

Item = TypeVar("Item")


def score_batch(
    model: PromptedModel,
    examples: Sequence[EncodedExample],
    prompts: Sequence[int],
    vectors: Tensor | None,
    candidates: Tensor | None,
) -> Tensor:
    """Score the answers of some examples in one forward pass.

    Args:
        model: a language model.
        examples: all rows or all choices.
        prompts: for each, its prompt's position in `vectors`.
        vectors: (prompts, longest, embedding size) float; None where no template has prompt tokens.
        candidates: (words,) int64, the allowed words of rows; None allows the vocabulary.

    Returns:
        (examples, words) float32: log-probabilities among the allowed words; for choices
        (examples, 2): of the first, and of the best of the others.
    """
    batch = collate(
        [row for example in examples for row in example.rows],
        [prompt for example, prompt in zip(examples, prompts, strict=True) for _ in example.rows],
        pad_id=model.codec.pad_id,
        device=model.device,
    )
    if not any(isinstance(example, MultipleChoice) for example in examples):
        return model.log_probs(batch, vectors, candidates)
    scores = model.choice_scores(batch, vectors).split([len(example.rows) for example in examples])
    first_and_rival = [torch.stack((choices[0], choices[1:].max())) for choices in scores]
    return torch.stack(first_and_rival).log_softmax(dim=1)


def micro_batches(
    order: Sequence[Item], size: Callable[[Item], int], most: int
) -> Iterator[list[Item]]:
    """Split items into forward passes.

    Args:
        order: the items, in order.
        size: of an item, such as its number of rows.
        most: maximum sum of sizes in a pass; a larger item gets a pass to itself.
    """
    chosen: list[Item] = []
    total = 0
    for item in order:
        item_size = size(item)
        if chosen and total + item_size > most:
            yield chosen
            chosen, total = [], 0
        chosen.append(item)
        total += item_size
    if chosen:
        yield chosen


@torch.no_grad()
def score_examples(
    model: PromptedModel,
    rows: Sequence[EncodedExample],
    vectors: Tensor | None,
    word_ids: Tensor,
    *,
    max_rows_per_forward: int,
) -> Tensor:
    """Score the allowed words at the answer of each row.

    Rows of similar length share a pass, which keeps padding short.

    Args:
        model: a language model; left in the mode it is in.
        rows: examples of one prompt.
        vectors: (prompt tokens, embedding size) float, or None where the template has none.
        word_ids: (words,) int64, the allowed words.
        max_rows_per_forward: maximum number of rows in a pass; each choice of an example is one.

    Returns:
        (rows, words) float32 on the CPU: log-probabilities among the allowed words.
    """
    scores = torch.empty(len(rows), len(word_ids))
    order = sorted(range(len(rows)), key=lambda i: len(rows[i].token_ids))
    prompts = vectors.to(model.device).unsqueeze(0) if vectors is not None else None
    candidates = word_ids.to(model.device)
    for chosen in micro_batches(order, lambda i: len(rows[i].rows), max_rows_per_forward):
        log_probs = score_batch(
            model, [rows[i] for i in chosen], [0] * len(chosen), prompts, candidates
        )
        scores[chosen] = log_probs.cpu()
    return scores
