"""Discrete prompts: published templates that dev compares, or words that a search finds."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

from pipeline.data.lama import Fact
from pipeline.errors import DataError
from pipeline.models.language_model import PromptedModel
from pipeline.models.scoring import predict
from pipeline.prompts.store import StoredPrompt
from pipeline.prompts.template import Template
from pipeline.search.autoprompt import SearchRecord, filter_words, search_words
from pipeline.tasks.lama import apply_layout, manual_template, subject_precedes_mask
from pipeline.training.loop import EpochRecord, Score, TrainingJob
from pipeline.training.problems import lama_problem

Outcome = tuple[StoredPrompt, list[EpochRecord]]


def usable_templates(model: PromptedModel, texts: Sequence[str]) -> list[Template]:
    """Parse manual templates; a causal model can be asked those that name the subject first."""
    templates = [manual_template(text) for text in texts]
    return [template for template in templates if model.masked or subject_precedes_mask(template)]


def choose_published(
    model: PromptedModel,
    relation: str,
    texts: Sequence[str],
    facts: Mapping[str, Sequence[Fact]],
    vocabulary: Sequence[str],
    *,
    score: Score,
    max_rows_per_forward: int,
    on_epoch: Callable[[EpochRecord], None],
) -> Outcome:
    """Take the published template with the best dev score; of equals the first.

    Raises:
        DataError: none of the templates can be asked of this model.
    """
    best: Outcome | None = None
    for template in usable_templates(model, texts):
        laid_out = apply_layout("manual", template, masked=model.masked)
        problem = lama_problem(model, relation, laid_out, facts, vocabulary)
        dev = problem.dev
        log_probs = predict(
            model, dev.rows, None, dev.word_ids, max_rows_per_forward=max_rows_per_forward
        )
        loss = float(torch.nn.functional.nll_loss(log_probs, dev.targets))
        record = EpochRecord(relation, 0, None, loss, score(log_probs, dev.targets))
        if best is None or record.dev_score > best[0].dev_score:
            best = StoredPrompt(laid_out.source, None, 0, record.dev_score), [record]
    if best is None:
        raise DataError(
            f"{relation}: none of {len(texts)} published templates can be asked of this model; a "
            "causal one needs the subject before the mask. Take another collection "
            "(lama.training.discrete.search.prompts) or leave the relation out"
        )
    on_epoch(best[1][0])
    return best


def search_prompt(
    model: PromptedModel,
    problem: TrainingJob,
    template: Template,
    *,
    score: Score,
    iterations: int,
    candidates: int,
    batch: int,
    max_rows_per_forward: int,
    seed: int,
    checkpoint: Path,
    on_epoch: Callable[[EpochRecord], None],
) -> Outcome:
    """Search words for the prompt tokens of a template, guided by the gradient.

    The objects of the relation's train facts are no candidates: a prompt that names an answer
    is no prompt. See `search_words` for the arguments.
    """

    def as_epoch(record: SearchRecord) -> EpochRecord:
        return EpochRecord(
            problem.name, record.iteration, record.train_loss, record.dev_loss, record.dev_score
        )

    answers = {problem.train.words[int(target)] for target in problem.train.targets}
    found = search_words(
        model,
        name=problem.name,
        tokens=problem.prompt_tokens,
        train=problem.train,
        dev=problem.dev,
        allowed=filter_words(model.codec, len(model.input_embeddings), answers),
        score=score,
        iterations=iterations,
        candidates=candidates,
        batch=batch,
        max_rows_per_forward=max_rows_per_forward,
        seed=seed,
        checkpoint=checkpoint,
        on_iteration=lambda record: on_epoch(as_epoch(record)),
    )
    history = [as_epoch(record) for record in found.history]
    stored = StoredPrompt(
        template.source,
        model.input_embeddings[list(found.token_ids)].detach().float().cpu(),
        found.best_iteration,
        history[found.best_iteration].dev_score,
        words=[
            str(word) for word in model.codec.tokenizer.convert_ids_to_tokens(list(found.token_ids))
        ],
    )
    return stored, history
