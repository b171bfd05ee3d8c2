"""Scores of examples: of one pass, and of many without gradients."""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from pipeline.models.encoding import EncodedExample, MultipleChoice, collate, rows_of
from pipeline.models.language_model import PromptedModel

Item = TypeVar("Item")


def ask(
    model: PromptedModel,
    asked: Sequence[EncodedExample],
    prompts: Sequence[int],
    vectors: Tensor | None,
    candidates: Tensor | None,
) -> Tensor:
    """Score the answers of some examples in one pass.

    Args:
        model: a language model.
        asked: the examples, all rows or all choices.
        prompts: for each, its prompt's position in `vectors`.
        vectors: (prompts, longest, embedding size) float; None where no template has prompt tokens.
        candidates: (words,) int64, the allowed words of rows; None allows the vocabulary.

    Returns:
        (examples, words) float32: log-probabilities among the allowed words; for choices
        (examples, 2): of the first, and of the best of the others.
    """
    rows = [rows_of(one) for one in asked]
    batch = collate(
        [row for own in rows for row in own],
        [prompt for own, prompt in zip(rows, prompts, strict=True) for _ in own],
        pad_id=model.codec.pad_id,
        device=model.device,
    )
    if not any(isinstance(one, MultipleChoice) for one in asked):
        return model.log_probs(batch, vectors, candidates)
    scores = model.choice_scores(batch, vectors).split([len(own) for own in rows])
    first_and_rival = [torch.stack((own[0], own[1:].max())) for own in scores]
    return torch.stack(first_and_rival).log_softmax(dim=1)


def passes(order: Sequence[Item], size: Callable[[Item], int], most: int) -> Iterator[list[Item]]:
    """Cut items into passes.

    Args:
        order: what is asked, in the order in which it is to be.
        size: of an item, such as its number of rows.
        most: of a pass, sizes added up; a larger item has a pass of its own.
    """
    chosen: list[Item] = []
    total = 0
    for item in order:
        own = size(item)
        if chosen and total + own > most:
            yield chosen
            chosen, total = [], 0
        chosen.append(item)
        total += own
    if chosen:
        yield chosen


@torch.no_grad()
def predict(
    model: PromptedModel,
    rows: Sequence[EncodedExample],
    vectors: Tensor | None,
    word_ids: Tensor,
    *,
    max_rows_per_forward: int,
) -> Tensor:
    """Score the allowed words at the answer of each row.

    Rows of like length share a pass, so that little is spent on filling.

    Args:
        model: a language model; left in the mode it is in.
        rows: examples of one prompt.
        vectors: (prompt tokens, embedding size) float, or None where the template has none.
        word_ids: (words,) int64, the allowed words.
        max_rows_per_forward: most rows of one pass; each choice of an example is one.

    Returns:
        (rows, words) float32 on the CPU: log-probabilities among the allowed words.
    """
    scores = torch.empty(len(rows), len(word_ids))
    order = sorted(range(len(rows)), key=lambda i: len(rows[i].token_ids))
    prompts = vectors.to(model.device).unsqueeze(0) if vectors is not None else None
    candidates = word_ids.to(model.device)
    for chosen in passes(order, lambda i: len(rows_of(rows[i])), max_rows_per_forward):
        log_probs = ask(model, [rows[i] for i in chosen], [0] * len(chosen), prompts, candidates)
        scores[chosen] = log_probs.cpu()
    return scores
