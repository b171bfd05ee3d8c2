"""From `params.yaml` to the library's training: what all trained benchmarks share."""

from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path

from pipeline.models.answers import AnswerModel
from pipeline.params import MethodParams, Optimisation, Params
from pipeline.training.loop import EpochRecord, Problem, Score, Trained
from pipeline.training.optimisers import OptimiserSettings
from pipeline.training.units import train_units


def train_problems(
    params: Params,
    method: MethodParams,
    network: AnswerModel,
    problems: Sequence[Problem],
    *,
    score: Score,
    loss_over_vocabulary: bool,
    rows_per_pass: int,
    seed: int,
    folder: Path,
    load: Callable[[], AnswerModel],
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
        batch=method.batch,
        gradient_accumulation=method.model.gradient_accumulation if method.model else 1,
        patience=method.patience,
        encoder=method.prompt.encoder if method.prompt else None,
        dropout=method.prompt.dropout if method.prompt else 0.0,
        prompt_optimiser=_settings(method.prompt),
        model_optimiser=_settings(method.model),
        rows_per_pass=rows_per_pass,
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


def _settings(section: Optimisation | None) -> OptimiserSettings | None:
    if section is None:
        return None
    return OptimiserSettings(
        **{f.name: getattr(section, f.name) for f in fields(OptimiserSettings)}
    )
