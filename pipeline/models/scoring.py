"""Scores of examples: in one forward pass, and of many examples without gradients."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pipeline.errors import ModelError
from pipeline.models.encoding import EncodedExample
from pipeline.models.language_model import PromptedModel, nonfinite_weight
from pipeline.models.packing import (
    Batch,
    PackedExample,
    Pass,
    choose_length,
    micro_batches,
    pack,
    pad,
    upload,
)


class ScoreError(ModelError):
    """The scores of an example are not finite.

    Attributes:
        position: of the first such example, among those of the call.
    """

    def __init__(self, message: str, position: int) -> None:
        """Initialize with the message and the position."""
        super().__init__(message)
        self.position = position


def explain_nonfinite(model: PromptedModel) -> str:
    """Say why a model's scores are not finite, and what to do."""
    name = nonfinite_weight(model.network)
    if name is None:
        return "the weights are finite, but computing with them overflows; use another model"
    return f"the model's weights contain NaN or infinity ({name}); fetch or save the model again"


def packing_length(model: PromptedModel, examples: Sequence[PackedExample]) -> int:
    """Return the length of sequences that suits the model and these examples best.

    It is more than `max_packed_length` if the rows cannot be packed.
    """
    return choose_length(
        examples,
        causal=not model.masked,
        hidden_size=model.hidden_size,
        most=model.max_packed_length,
    )


def plan_passes(
    model: PromptedModel,
    examples: Sequence[PackedExample],
    *,
    max_tokens: int,
    length: int | None = None,
) -> list[Pass]:
    """Distribute examples over forward passes.

    Args:
        model: a language model.
        examples: those to score.
        max_tokens: maximum number of positions in a pass; a single example may have more.
        length: of packed sequences; None chooses it for these examples.

    Returns:
        The passes; each example is in one of them. Where a model cannot pack rows, or not rows as
        long as these, those of similar length share a pass.
    """
    if not examples:
        return []
    length = length or packing_length(model, examples)
    if length <= model.max_packed_length:
        return pack(examples, model.kind, length=length, max_tokens=max_tokens)
    order = sorted(range(len(examples)), key=lambda i: examples[i].length)
    sizes = [examples[i].length * len(examples[i].rows) for i in order]
    cut = micro_batches(order, sizes, max_tokens)
    return [pad(examples, chosen, model.kind) for chosen in cut]


def score_batch(
    model: PromptedModel, batch: Batch, vectors: Tensor | None, candidates: Tensor | None
) -> Tensor:
    """Score the answers of the examples of one forward pass.

    Args:
        model: a language model.
        batch: the examples, all of one row or all with their own answers.
        vectors: (prompts, longest, embedding size) float; None where no template has prompt tokens.
        candidates: (words,) int64, the allowed words of rows, or positions of the answers of
            choices; None allows the vocabulary.

    Returns:
        (examples, words) float32: log-probabilities among the allowed words. Of choices,
        log-probabilities among the answers; where an example has more choices than there are
        answers, the best of those that remain has the last one. If there is but one answer, which
        is written out, (examples, 1): the mean log-probability of its tokens.
    """
    most = batch.choices.shape[1]
    if most == 1 and not len(batch.answer_ids):
        return model.log_probs(batch, vectors, candidates)
    scores = nn.functional.pad(model.choice_scores(batch, vectors), (0, 1), value=-torch.inf)
    answers = 2 if candidates is None else len(candidates)
    choices = nn.functional.pad(
        scores[batch.choices], (0, max(0, answers - most)), value=-torch.inf
    )
    if answers == 1:
        return choices
    best = choices[:, answers - 1 :].amax(dim=1, keepdim=True)
    return torch.cat((choices[:, : answers - 1], best), dim=1).log_softmax(dim=1)


@torch.no_grad()
def score_examples(
    model: PromptedModel,
    examples: Sequence[EncodedExample],
    vectors: Tensor | None,
    word_ids: Tensor,
    *,
    max_tokens_per_forward: int,
) -> Tensor:
    """Score the allowed words at the answer of each example.

    Args:
        model: a language model; left in the mode it is in.
        examples: of one prompt.
        vectors: (prompt tokens, embedding size) float, or None where the template has none.
        word_ids: (words,) int64, the allowed words.
        max_tokens_per_forward: maximum number of positions in a pass.

    Returns:
        (examples, words) float32 on the CPU: log-probabilities among the allowed words.

    Raises:
        ScoreError: the best score of an example is not finite.
    """
    packed = [PackedExample.of(example, 0) for example in examples]
    passes = plan_passes(model, packed, max_tokens=max_tokens_per_forward)
    prompts = vectors.to(model.device).unsqueeze(0) if vectors is not None else None
    candidates = word_ids.to(model.device)
    scores = torch.empty(len(examples), len(word_ids))
    if passes:
        # Read once, at the end: each read waits for a GPU.
        batches = upload(passes, model.device)
        found = [score_batch(model, batch, prompts, candidates) for batch in batches]
        scores[[i for each in passes for i in each.examples]] = torch.cat(found).cpu()
        # One word may have -inf, such as the second choice of an example that has one.
        wrong = scores.amax(dim=1).isfinite().logical_not().nonzero().flatten().tolist()
        if wrong and len(examples) > 1:  # NaN spreads to the examples of the same sequence
            for position in wrong:
                try:
                    score_examples(
                        model, [examples[position]], vectors, word_ids, max_tokens_per_forward=1
                    )
                except ScoreError as error:
                    raise ScoreError(str(error), position) from None
        if wrong:
            raise ScoreError(f"its scores are not finite: {explain_nonfinite(model)}", wrong[0])
    return scores
