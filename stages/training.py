"""From `params.yaml` to the library's training: what all trained benchmarks share."""

from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path

from pipeline.config.schema import MethodParams, Optimization, Params
from pipeline.models.language_model import PromptedModel
from pipeline.training.loop import EpochRecord, Score, Trained, TrainingJob
from pipeline.training.optimizers import OptimizerConfig
from pipeline.training.units import train_units


def train_problems(
    params: Params,
    method: MethodParams,
    network: PromptedModel,
    problems: Sequence[TrainingJob],
    *,
    score: Score,
    loss_over_vocabulary: bool,
    max_rows_per_forward: int,
    seed: int,
    folder: Path,
    load: Callable[[], PromptedModel],
    on_epoch: Callable[[EpochRecord], None],
) -> dict[str, Trained]:
    """Train as a method's section of `params.yaml` says; see `train_units`."""
    return train_units(
        network,
        problems,
        load=load,
        folder=folder,
        checkpoint_seconds=params.runtime.checkpoint_seconds,
        score=score,
        loss_over_vocabulary=loss_over_vocabulary,
        epochs=method.epochs,
        batch=method.batch_size,
        gradient_accumulation_steps=method.model.gradient_accumulation_steps if method.model else 1,
        patience=method.patience,
        encoder=method.prompt.encoder if method.prompt else None,
        dropout=method.prompt.dropout if method.prompt else 0.0,
        prompt_optimizer=_settings(method.prompt),
        model_optimizer=_settings(method.model),
        max_rows_per_forward=max_rows_per_forward,
        seed=seed,
        on_epoch=on_epoch,
    )


def epoch_metrics(record: EpochRecord, metric: str) -> dict[str, float]:
    """Return what an epoch gave, by MLflow's names; `metric` is what the dev score is called."""
    values = {"dev/loss": record.dev_loss, f"dev/{metric}": record.dev_score}
    return values if record.train_loss is None else {**values, "train/loss": record.train_loss}


def epoch_line(name: str, record: EpochRecord, metric: str) -> str:
    """Return what an epoch gave as a line for the terminal."""
    values = sorted(epoch_metrics(record, metric).items())
    shown = "  ".join(f"{key} {value:.4f}" for key, value in values)
    return f"{name} epoch {record.epoch}  {shown}"


def _settings(section: Optimization | None) -> OptimizerConfig | None:
    if section is None:
        return None
    return OptimizerConfig(**{f.name: getattr(section, f.name) for f in fields(OptimizerConfig)})
