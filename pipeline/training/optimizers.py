"""Adam with a learning-rate schedule and clipping, for many prompts at once or for one model."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim.adam import adam

from pipeline.config.schema import OptimizerConfig
from pipeline.models.sharding import assign, gathered, local
from pipeline.training.ranks import ALONE, Ranks

_BETAS = (0.9, 0.999)
_EPSILON = 1e-8


class ScheduledOptimizer:
    """Adam or AdamW over the weights of several members, each with its own schedule.

    The members are the prompts of a bank, or one language model. Each is clipped, stepped and
    scheduled as by a separate optimizer, up to rounding; the update itself is torch's fused
    kernel over views of the members, called once for all that have the same learning rate.
    """

    def __init__(
        self,
        parameters: Sequence[tuple[Tensor, bool]],
        config: OptimizerConfig,
        *,
        epochs: int,
        steps_per_epoch: Sequence[int],
        stacked: bool,
        ranks: Ranks = ALONE,
    ) -> None:
        """Create the optimizer.

        Args:
            parameters: leaf tensors that will have gradients, and whether weight decay applies.
            config: the section of `params.yaml`.
            epochs: of the whole training, for the schedule.
            steps_per_epoch: for each member, its number of steps in an epoch.
            stacked: whether the first dimension of the parameters is the members; if not, there is
                one member.
            ranks: over which the parameters may be cut.
        """
        self._config = config
        self._epochs = epochs
        self._steps_per_epoch = list(steps_per_epoch)
        self._taken = [0] * len(self._steps_per_epoch)
        self._stacked = stacked
        self._ranks = ranks
        self._parameters = list(parameters)
        values = [parameter.detach() for parameter, _ in parameters]
        self._state = {
            "means": [torch.zeros_like(value) for value in values],
            "squares": [torch.zeros_like(value) for value in values],
            "steps": [
                torch.zeros(len(self._taken), dtype=torch.float32, device=value.device)
                for value in values
            ],
        }
        self._views = self._cut()

    def step(self, members: Sequence[int]) -> None:
        """Apply the gradients of some members, move their learning rates, clear all gradients."""
        gradients = {
            n: self._members(parameter.grad)
            for n, (parameter, _) in enumerate(self._parameters)
            if parameter.grad is not None
        }
        if self._config.max_grad_norm is not None:
            every = list(gradients.values())
            _clip(every, self._norms(every), self._config.max_grad_norm)
        by_rate: dict[float, list[int]] = {}
        for member in members:
            by_rate.setdefault(self._learning_rate(member), []).append(member)
            self._taken[member] += 1
        cut = {n: gradient.unbind(0) for n, gradient in gradients.items()}
        for rate, chosen in by_rate.items():
            for decayed in (True, False):
                own = {n: views for n, views in cut.items() if self._parameters[n][1] is decayed}
                self._update(own, chosen, rate, decayed=decayed)
        for parameter, _ in self._parameters:
            parameter.grad = None

    def keep(self, parameters: Sequence[tuple[Tensor, bool]], places: Sequence[int]) -> None:
        """Keep only some of the members, in this order; `parameters` are already reduced."""
        self._parameters = list(parameters)
        self._taken = [self._taken[place] for place in places]
        self._steps_per_epoch = [self._steps_per_epoch[place] for place in places]
        for tensors in self._state.values():
            for n, (tensor, (parameter, _)) in enumerate(
                zip(tensors, self._parameters, strict=True)
            ):
                kept = tensor.index_select(0, torch.tensor(places, device=tensor.device))
                # The longest prompt may have gone.
                tensors[n] = kept[:, : parameter.shape[1]].contiguous() if kept.ndim > 1 else kept
        self._views = self._cut()

    def state_dict(self) -> dict[str, Any]:
        """Return the state, for a checkpoint; of cut parameters, in the first rank only."""
        kept = self._ranks.first
        state = {
            name: [gathered(tensor, kept=kept) for tensor in tensors]
            for name, tensors in self._state.items()
        }
        return {**state, "taken": self._taken}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a state of `state_dict` with as many members."""
        for name, tensors in self._state.items():
            for own, saved in zip(tensors, state[name], strict=True):
                assign(own, saved)
        self._taken = list(state["taken"])

    def _members(self, tensor: Tensor) -> Tensor:
        """(members, ...): a view that shares memory with the tensor."""
        tensor = local(tensor.detach())
        return tensor if self._stacked else tensor.unsqueeze(0)

    def _norms(self, gradients: Sequence[Tensor]) -> Tensor:
        """(members,): the norm of the gradients of each member, over all of its parameters."""
        norms = [torch.linalg.vector_norm(gradient.flatten(1), dim=1) for gradient in gradients]
        norm: Tensor = torch.stack(norms).norm(dim=0)
        if any(isinstance(parameter, DTensor) for parameter, _ in self._parameters):
            norm.square_()
            self._ranks.add([norm])
            norm.sqrt_()
        return norm

    def _learning_rate(self, member: int) -> float:
        factor = lr_lambda(
            self._config,
            self._taken[member],
            epochs=self._epochs,
            steps_per_epoch=self._steps_per_epoch[member],
        )
        return self._config.learning_rate * factor

    def _cut(self) -> list[list[tuple[Tensor, ...]]]:
        """The views of each member: of parameters, means, squares and numbers of steps."""
        values = [parameter for parameter, _ in self._parameters]
        tensors = (values, self._state["means"], self._state["squares"])
        cut = [[self._members(tensor).unbind(0) for tensor in own] for own in tensors]
        return [*cut, [steps.unbind(0) for steps in self._state["steps"]]]

    @torch.no_grad()
    def _update(
        self,
        gradients: dict[int, tuple[Tensor, ...]],
        members: Sequence[int],
        rate: float,
        *,
        decayed: bool,
    ) -> None:
        """Run the fused kernel on the views of some members of the parameters with gradients."""
        if not gradients:
            return
        parameters, means, squares, steps = (
            [cut[n][member] for n in gradients for member in members] for cut in self._views
        )
        adam(
            parameters,
            [own[member] for own in gradients.values() for member in members],
            means,
            squares,
            [],
            steps,
            fused=True,
            amsgrad=False,
            maximize=False,
            decoupled_weight_decay=self._config.optimizer == "adamw",
            beta1=_BETAS[0],
            beta2=_BETAS[1],
            lr=rate,
            weight_decay=self._config.weight_decay if decayed else 0.0,
            eps=_EPSILON,
        )


def _clip(gradients: Sequence[Tensor], norms: Tensor, max_norm: float) -> None:
    """Scale the gradients of each member, which have these norms, to a norm of at most this."""
    scale = (max_norm / (norms + 1e-6)).clamp(max=1.0)
    for gradient in gradients:
        gradient.mul_(scale.view(-1, *[1] * (gradient.ndim - 1)))


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
