"""Optimizers with their learning-rate schedules, one for each group of parameters."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn


@dataclass(frozen=True)
class OptimizerConfig:
    """How one group of parameters is optimized; the keys are those of `params.yaml`.

    Attributes:
        optimizer: `adam` (weight decay as L2, as in the released LAMA code) or `adamw`.
        learning_rate: its highest value.
        weight_decay: not applied to biases and norms.
        schedule: `constant`, `linear` (to 0 at the last step) or `exponential` (a factor
            an epoch).
        warmup_ratio: share of all steps in which the learning rate rises from 0.
        decay_per_epoch: the factor of `exponential`.
        max_grad_norm: the gradient is clipped at this norm; None: not clipped.
    """

    optimizer: str
    learning_rate: float
    weight_decay: float
    schedule: str
    warmup_ratio: float
    decay_per_epoch: float
    max_grad_norm: float | None


class ScheduledOptimizer:
    """Steps one group of parameters and moves its learning rate."""

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        settings: OptimizerConfig,
        *,
        epochs: int,
        steps_per_epoch: int,
    ) -> None:
        """Take over the parameters.

        Args:
            parameters: leaf tensors with gradients to come.
            settings: see there.
            epochs: of the whole training, for the schedule.
            steps_per_epoch: steps of this group in an epoch.
        """
        self._parameters = list(parameters)
        self._max_grad_norm = settings.max_grad_norm
        kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[settings.optimizer]
        # Vectors are biases and norms: decaying them helps nothing (BERT's and PET's habit).
        groups = [
            {
                "params": [p for p in self._parameters if p.ndim > 1],
                "weight_decay": settings.weight_decay,
            },
            {"params": [p for p in self._parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]
        # The fused kernel needs no copy of the parameters while it works.
        self._optimizer = kind(groups, lr=settings.learning_rate, fused=True)
        self._schedule = torch.optim.lr_scheduler.LambdaLR(
            self._optimizer,
            lambda step: learning_rate_factor(
                settings, step, epochs=epochs, steps_per_epoch=steps_per_epoch
            ),
        )

    def step(self) -> None:
        """Apply the gradients, then clear them and move the learning rate."""
        if self._max_grad_norm is not None:
            nn.utils.clip_grad_norm_(self._parameters, self._max_grad_norm)
        self._optimizer.step()
        self._optimizer.zero_grad()
        self._schedule.step()

    def state(self) -> dict[str, Any]:
        """Return what `restore` needs to go on from here."""
        return {
            "optimizer": self._optimizer.state_dict(),
            "schedule": self._schedule.state_dict(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from where `state` was called."""
        self._optimizer.load_state_dict(state["optimizer"])
        self._schedule.load_state_dict(state["schedule"])


def learning_rate_factor(
    settings: OptimizerConfig, step: int, *, epochs: int, steps_per_epoch: int
) -> float:
    """Return the share of the learning rate that a step uses; steps count from 0."""
    total = epochs * steps_per_epoch
    warmup = math.ceil(settings.warmup_ratio * total)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    match settings.schedule:
        case "constant":
            return 1.0
        case "linear":
            return max(0.0, (total - step) / max(1, total - warmup))
        case "exponential":
            return float(settings.decay_per_epoch ** (step // steps_per_epoch))
        case unknown:
            raise ValueError(f"unknown schedule {unknown!r}")
