"""Discrete prompts: published templates compared on dev, or words found by a search."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from pipeline.config.schema import SearchParams
from pipeline.errors import DataError
from pipeline.models.language_model import PromptedModel
from pipeline.prompts.template import Template
from pipeline.search.autoprompt import SearchRecord, filter_words, score_dev, search_words
from pipeline.tasks.lama import apply_layout, manual_template, subject_precedes_mask
from pipeline.training.jobs import Trial, make_job
from pipeline.training.loop import EpochRecord, TrainingJob, TrainingResult


def usable_templates(texts: Sequence[str], *, masked: bool) -> list[Template]:
    """Parse manual templates; a causal model can use those in which the subject comes first."""
    templates = [manual_template(text) for text in texts]
    return [template for template in templates if masked or subject_precedes_mask(template)]


def choose_published(
    model: PromptedModel,
    trial: Trial,
    texts: Sequence[str],
    *,
    max_tokens_per_forward: int,
    on_epoch: Callable[[EpochRecord], None],
) -> TrainingResult:
    """Select the published template with the best dev score, the first of several.

    Args:
        model: the language model.
        trial: of a relation; its template is replaced.
        texts: the manual templates.
        max_tokens_per_forward: maximum number of positions in a forward pass.
        on_epoch: called with the scores of the selected template.

    Raises:
        DataError: this model can use none of the templates.
        ModelError: the scores of an example are not finite.
    """
    best: TrainingResult | None = None
    for manual in usable_templates(texts, masked=model.masked):
        template = apply_layout("manual", manual, masked=model.masked)
        config = replace(trial.config, template=template)
        job = make_job(model, replace(trial, config=config))
        scores = score_dev(model, job, template.source, None, max_tokens_per_forward)
        record = EpochRecord(0, None, *scores)
        if best is None or record.dev_score > best.best_score:
            best = TrainingResult(history=[record], template=template.source, examples=job.sizes)
    if best is None:
        raise DataError(
            f"{trial.task}: this model can use none of {len(texts)} published templates; a causal "
            "one needs the subject before the mask. Choose another collection "
            "(lama.training.discrete.search.prompts) or leave the relation out"
        )
    on_epoch(best.history[0])
    return best


def search_prompt(
    model: PromptedModel,
    job: TrainingJob,
    params: SearchParams,
    *,
    max_tokens_per_forward: int,
    checkpoint: Path,
    on_epoch: Callable[[EpochRecord], None],
) -> TrainingResult:
    """Search words for the prompt tokens of a job, guided by the gradient.

    The objects of the relation's train facts are excluded: a prompt must not name an answer. See
    `search_words` for the arguments.
    """

    def as_epoch(record: SearchRecord) -> EpochRecord:
        return EpochRecord(record.iteration, record.train_loss, record.dev_loss, record.dev_score)

    objects = {job.train.answers[int(target)] for target in job.train.targets}
    search = search_words(
        model,
        job,
        params,
        allowed=filter_words(model.codec, model.vocabulary_size, objects),
        max_tokens_per_forward=max_tokens_per_forward,
        checkpoint=checkpoint,
        on_iteration=lambda record: on_epoch(as_epoch(record)),
    )
    token_ids = list(search.token_ids)
    ids = torch.tensor(token_ids, device=model.device)
    words = model.codec.tokenizer.convert_ids_to_tokens(token_ids)
    return TrainingResult(
        vectors=model.input_embeddings(ids).detach().float().cpu(),
        best_epoch=search.best_iteration,
        history=[as_epoch(record) for record in search.history],
        words=[str(word) for word in words],
        examples=job.sizes,
    )
