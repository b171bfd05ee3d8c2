"""Training jobs and settings for tests, from few words."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.config.grid import TrialConfig
from pipeline.config.schema import MethodParams, OptimizerConfig, PromptParams, TunedModelParams
from pipeline.data.lama import Fact
from pipeline.models.language_model import PromptedModel
from pipeline.prompts.template import Template
from pipeline.tasks import Example, get_task
from pipeline.tasks.lama import fact_examples, lama_task
from pipeline.training.checkpoint import Checkpoint
from pipeline.training.jobs import Trial, TrialData, make_job
from pipeline.training.loop import EpochRecord, TrainingJob, TrainingResult, train
from pipeline.training.optimizers import ScheduledOptimizer
from pipeline.training.ranks import ALONE, Ranks

ADAM = OptimizerConfig(
    optimizer="adam",
    learning_rate=1e-2,
    weight_decay=0.0,
    schedule="constant",
    warmup_ratio=0.0,
    decay_per_epoch=1.0,
    max_grad_norm=1.0,
)
SEED = 7


def changed(config: OptimizerConfig, **changes: Any) -> OptimizerConfig:
    return config.model_copy(update=changes)


def method(
    *,
    epochs: int = 2,
    batch_size: int = 3,
    patience: int = 99,
    prompts_per_unit: int | None = None,
    encoder: str | None = "lstm",
    start: str = "random",
    dropout: float = 0.0,
    prompt_optimizer: OptimizerConfig = ADAM,
    model_optimizer: OptimizerConfig | None = None,
    gradient_accumulation_steps: int = 1,
    steps_per_epoch: int | None = None,
) -> MethodParams:
    """A method's section; also what params.yaml refuses, such as an encoder and no epochs."""
    prompt = model = None
    if encoder is not None:
        own = {"encoder": encoder, "start": start, "dropout": dropout}
        values = {**dict(prompt_optimizer), **own}
        prompt = PromptParams(**values)
    if model_optimizer is not None:
        passes = {"gradient_accumulation_steps": gradient_accumulation_steps}
        model = TunedModelParams(**{**dict(model_optimizer), **passes})
    tune = [name for name, part in (("prompt", prompt), ("model", model)) if part is not None]
    return MethodParams.model_construct(
        tune=tune,
        epochs=epochs,
        batch_size=batch_size,
        patience=patience,
        prompts_per_unit=prompts_per_unit,
        prompt=prompt,
        model=model,
        search=None,
        steps_per_epoch=steps_per_epoch,
    )


def diverge_above(monkeypatch: pytest.MonkeyPatch, learning_rate: float) -> None:
    """Let each step with a higher learning rate end in NaN for the first prompt, or the model."""
    real = ScheduledOptimizer.step

    def step(self: ScheduledOptimizer, rows: Sequence[int]) -> None:
        real(self, rows)
        if self._config.learning_rate > learning_rate:
            for parameter, _ in self._parameters:
                parameter.detach()[0] = torch.nan

    monkeypatch.setattr(ScheduledOptimizer, "step", step)


def fact_trial(
    name: str,
    template: Template,
    facts: Mapping[str, Sequence[Fact]],
    vocabulary: Sequence[str],
    *,
    objects: Sequence[str] = (),
    training: MethodParams | None = None,
    setting: int = 1,
    seed: int = SEED,
) -> Trial:
    """A trial of a relation."""
    data = TrialData(
        lama_task(name.partition("/")[0], vocabulary, objects),
        {split: fact_examples(own) for split, own in facts.items()},
        {split: repr(own) for split, own in facts.items()},
    )
    config = TrialConfig(setting, {}, template, None, None, training or method())
    return Trial(name, config, 1, seed, data)


def fact_job(
    model: PromptedModel,
    name: str,
    template: Template,
    facts: Mapping[str, Sequence[Fact]],
    vocabulary: Sequence[str],
) -> TrainingJob:
    """The job of a relation."""
    return make_job(model, fact_trial(name, template, facts, vocabulary))


def task_trial(
    task: str,
    template: Template,
    examples: Mapping[str, Sequence[Example]],
    *,
    verbalizer: dict[str, str] | None,
    max_length: int = 64,
    classifier: bool = False,
    training: MethodParams | None = None,
    setting: int = 1,
    split: int = 1,
    seed: int = SEED,
) -> Trial:
    """A trial of a SuperGLUE task."""
    digests = {name: repr(own) for name, own in examples.items()}
    config = TrialConfig(setting, {}, template, verbalizer, max_length, training or method())
    return Trial(
        task, config, split, seed, TrialData(get_task(task), examples, digests), classifier
    )


def train_jobs(
    model: PromptedModel,
    jobs: Sequence[TrainingJob],
    *,
    max_tokens_per_forward: int = 64,
    best_checkpoint_path: Path = Path("weights.safetensors"),
    checkpoint: Checkpoint | None = None,
    on_epoch: Callable[[str, EpochRecord], object] = lambda *_: None,
    on_step: Callable[[int, int], None] = lambda *_: None,
    job: Mapping[str, Any] | None = None,
    ranks: Ranks = ALONE,
    **settings: Any,
) -> dict[str, TrainingResult]:
    """Train jobs with different names; `job` has attributes that replace those of each."""
    changed_jobs = [replace(one, **(job or {})) for one in jobs]
    results = train(
        model,
        changed_jobs,
        method(**settings),
        max_tokens_per_forward=max_tokens_per_forward,
        best_checkpoint_path=best_checkpoint_path,
        checkpoint=checkpoint,
        on_epoch=lambda position, record: on_epoch(jobs[position].name, record),
        on_step=on_step,
        ranks=ranks,
    )
    return {one.name: result for one, result in zip(jobs, results, strict=True)}
