"""Scores without gradients, batch by batch."""

from collections.abc import Sequence

import torch
from torch import Tensor

from pipeline.models.answers import AnswerModel
from pipeline.models.rows import Row, collate


@torch.no_grad()
def predict(
    model: AnswerModel,
    rows: Sequence[Row],
    vectors: Tensor | None,
    word_ids: Tensor,
    *,
    rows_per_pass: int,
) -> Tensor:
    """Score the allowed words at the answer of each row.

    Rows of like length share a pass, so that little is spent on filling.

    Args:
        model: a language model; left in the mode it is in.
        rows: of one prompt.
        vectors: (prompt tokens, embedding size) float, or None where the template has none.
        word_ids: (words,) int64, the allowed words.
        rows_per_pass: most rows of one pass.

    Returns:
        (rows, words) float32 on the CPU: log-probabilities among the allowed words.
    """
    scores = torch.empty(len(rows), len(word_ids))
    order = sorted(range(len(rows)), key=lambda i: len(rows[i].token_ids))
    prompts = vectors.to(model.device).unsqueeze(0) if vectors is not None else None
    candidates = word_ids.to(model.device)
    for start in range(0, len(order), rows_per_pass):
        chosen = order[start : start + rows_per_pass]
        batch = collate(
            [rows[i] for i in chosen],
            [0] * len(chosen),
            pad_id=model.codec.pad_id,
            device=model.device,
        )
        scores[chosen] = model.log_probs(batch, prompts, candidates).cpu()
    return scores
