"""Optimizers with their learning-rate schedules, one for each group of parameters."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from pipeline.config.schema import OptimizerConfig


class ScheduledOptimizer:
    """Steps one group of parameters and moves its learning rate."""

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        config: OptimizerConfig,
        *,
        epochs: int,
        steps_per_epoch: int,
    ) -> None:
        """Create the optimizer and the schedule.

        Args:
            parameters: leaf tensors that will have gradients.
            config: the section of `params.yaml`.
            epochs: of the whole training, for the schedule.
            steps_per_epoch: number of steps in an epoch.
        """
        self._parameters = list(parameters)
        self._max_grad_norm = config.max_grad_norm
        optimizer_class = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[config.optimizer]
        # Vectors are biases and norms: they are not decayed, as in BERT and PET.
        groups = [
            {
                "params": [p for p in self._parameters if p.ndim > 1],
                "weight_decay": config.weight_decay,
            },
            {"params": [p for p in self._parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]
        # The fused kernel needs no copy of the parameters while it works.
        self._optimizer = optimizer_class(groups, lr=config.learning_rate, fused=True)
        self._schedule = torch.optim.lr_scheduler.LambdaLR(
            self._optimizer,
            lambda step: lr_lambda(config, step, epochs=epochs, steps_per_epoch=steps_per_epoch),
        )

    def step(self) -> None:
        """Apply the gradients, then clear them and move the learning rate."""
        if self._max_grad_norm is not None:
            nn.utils.clip_grad_norm_(self._parameters, self._max_grad_norm)
        self._optimizer.step()
        self._optimizer.zero_grad()
        self._schedule.step()

    def state_dict(self) -> dict[str, Any]:
        """Return the state of optimizer and schedule."""
        return {
            "optimizer": self._optimizer.state_dict(),
            "schedule": self._schedule.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a state of `state_dict`."""
        self._optimizer.load_state_dict(state["optimizer"])
        self._schedule.load_state_dict(state["schedule"])


def lr_lambda(config: OptimizerConfig, step: int, *, epochs: int, steps_per_epoch: int) -> float:
    """Return the factor of the learning rate at a step, counted from 0."""
    total = epochs * steps_per_epoch
    warmup = math.ceil(config.warmup_ratio * total)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    match config.schedule:
        case "constant":
            return 1.0
        case "linear":
            return max(0.0, (total - step) / max(1, total - warmup))
        case "exponential":
            return float(config.decay_per_epoch ** (step // steps_per_epoch))
        case unknown:
            raise ValueError(f"unknown schedule {unknown!r}")
