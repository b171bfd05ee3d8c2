"""Units of training: what is trained in one go, noted, and not repeated after a kill.

A unit is a bank of prompts, as many as fit in memory, or one tuned model.
"""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypedDict, Unpack

from pipeline.models.language_model import PromptedModel
from pipeline.models.memory import estimate_bank_size
from pipeline.prompts.store import weights_file
from pipeline.training.checkpoint import Checkpoint
from pipeline.training.loop import EpochRecord, Score, Trained, TrainingJob, finished, train
from pipeline.training.optimizers import OptimizerConfig


class TrainSettings(TypedDict):
    """What `train` takes beside model, problems and files; see there."""

    score: Score
    loss_over_vocabulary: bool
    epochs: int
    batch: int
    gradient_accumulation_steps: int
    patience: int
    encoder: str | None
    dropout: float
    prompt_optimizer: OptimizerConfig | None
    model_optimizer: OptimizerConfig | None
    max_rows_per_forward: int
    seed: int
    on_epoch: Callable[[EpochRecord], None]


def train_units(
    model: PromptedModel,
    problems: Sequence[TrainingJob],
    *,
    load: Callable[[], PromptedModel],
    folder: Path,
    checkpoint_seconds: float,
    **settings: Unpack[TrainSettings],
) -> dict[str, Trained]:
    """Train problems in units that are each gone on with after a kill.

    Args:
        model: as loaded.
        problems: with different names.
        load: gives the model anew, for the second and later ones that are tuned.
        folder: of the progress. A call with the same arguments and what an earlier one left there
            goes on; tuned weights are found there by `weights_file`.
        checkpoint_seconds: see `Checkpoint`.
        settings: see `train`.

    Returns:
        problem name -> how it ended.
    """
    tuned = settings["model_optimizer"] is not None
    size = 1 if tuned else _bank_size(model, problems, settings["encoder"])
    trained: dict[str, Trained] = {}
    for start in range(0, len(problems), size):
        unit = problems[start : start + size]
        if tuned and start:
            model = load()
        weights = weights_file(folder, unit[0].name)
        checkpoint = _checkpoint_file(folder, [problem.name for problem in unit])
        for path in (weights, checkpoint):
            path.parent.mkdir(parents=True, exist_ok=True)
        trained |= train(
            model,
            unit,
            best_checkpoint_path=weights,
            checkpoint=Checkpoint(checkpoint, seconds=checkpoint_seconds),
            **settings,
        )
    return trained


def finished_unit(folder: Path, name: str) -> Trained | None:
    """Return how the unit of one problem ended; None if it has not.

    Args:
        folder: of the progress, as `train_units` was given it.
        name: of the problem.
    """
    return finished(Checkpoint(_checkpoint_file(folder, [name]), seconds=0)).get(name)


def forget_unit(folder: Path, name: str) -> None:
    """Forget how the unit of one problem ended, so that it is trained again."""
    _checkpoint_file(folder, [name]).unlink(missing_ok=True)


def _bank_size(model: PromptedModel, problems: Sequence[TrainingJob], encoder: str | None) -> int:
    if encoder is None or not problems:
        return max(1, len(problems))
    tokens = max(problem.prompt_tokens for problem in problems)
    return estimate_bank_size(model, encoder, tokens)


def _checkpoint_file(folder: Path, names: Sequence[str]) -> Path:
    digest = hashlib.sha256("\n".join(names).encode()).hexdigest()
    return folder / "checkpoints" / f"{digest[:16]}.pt"
