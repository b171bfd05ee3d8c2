"""The training loop: many prompts at once with a frozen model, or one job that tunes the model.

Jobs that train together (a bank) share the forward passes and nothing else. Each has its encoder,
optimizer, schedule, order of examples, early stopping and best epoch, so its result is that of
training it separately.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from pipeline.config.schema import MethodParams
from pipeline.models.dataset import PromptDataset
from pipeline.models.encoding import EncodedExample
from pipeline.models.language_model import PromptedModel
from pipeline.models.scoring import micro_batches, score_batch, score_examples
from pipeline.seeding import derive_seed, make_random
from pipeline.training.checkpoint import Checkpoint
from pipeline.training.optimizers import ScheduledOptimizer
from pipeline.training.prompt_encoders import encode, make_encoder, stack_prompts

Score = Callable[[Tensor, Tensor], float]


@dataclass(frozen=True, eq=False)
class TrainingJob:
    """One prompt, or model, to train.

    Attributes:
        name: of the task; with the seed, it determines the job's random numbers.
        seed: of the training.
        prompt_tokens: number of prompt tokens in the template.
        train: the examples to learn from.
        dev: the examples that select the epoch.
        score: log-probabilities (examples, answers) and targets (examples,) -> a number; its value
            on dev selects the epoch.
        open_vocabulary: whether the right word competes in the loss with the whole vocabulary
            (LAMA), or with the allowed answers (label words, as in PET).
    """

    name: str
    seed: int
    prompt_tokens: int
    train: PromptDataset
    dev: PromptDataset
    score: Score
    open_vocabulary: bool


@dataclass(frozen=True)
class EpochRecord:
    """The losses and the score of one epoch of one job.

    Attributes:
        epoch: 0 is before training.
        train_loss: mean cross-entropy over the epoch's examples, in nats; None for epoch 0.
        dev_loss: mean cross-entropy among the allowed answers, in nats.
        dev_score: of the job's score function; higher is better.
    """

    epoch: int
    train_loss: float | None
    dev_loss: float
    dev_score: float


@dataclass
class TrainingResult:
    """The result of one job.

    Attributes:
        vectors: (prompt tokens, embedding size) float32 on the CPU, of the best epoch; None where
            the template has no prompt tokens.
        best_epoch: the epoch with the highest dev score; of several, the latest.
        history: one record per epoch, epoch 0 first.
        template: of a published prompt that dev selected; None for the job's own.
        words: of a discrete prompt, the words whose embeddings the vectors are.
    """

    vectors: Tensor | None = None
    best_epoch: int = 0
    history: list[EpochRecord] = field(default_factory=list)
    template: str | None = None
    words: list[str] | None = None

    @property
    def best_score(self) -> float:
        """The dev score of the best epoch."""
        return self.history[self.best_epoch].dev_score

    def state_dict(self) -> dict[str, Any]:
        """Return the values as nested dictionaries, for a checkpoint."""
        return {**vars(self), "history": [asdict(record) for record in self.history]}

    @classmethod
    def from_state_dict(cls, state: dict[str, Any]) -> "TrainingResult":
        """Return the result that `state_dict` describes."""
        return cls(**{**state, "history": [EpochRecord(**record) for record in state["history"]]})


def train(
    model: PromptedModel,
    jobs: Sequence[TrainingJob],
    config: MethodParams,
    *,
    max_rows_per_forward: int,
    best_checkpoint_path: Path,
    checkpoint: Checkpoint | None,
    on_epoch: Callable[[int, EpochRecord], None],
) -> list[TrainingResult]:
    """Train the prompts of some jobs, the model, or both; or score dev once.

    Args:
        model: the language model. Its weights change where `config.model` is set, and stay
            bit-equal where it is not.
        jobs: one or more; one if the model is tuned.
        config: the method's section of `params.yaml`. With 0 epochs dev is scored and nothing
            trained; a job stops after `patience` epochs in a row below its best dev score;
            `gradient_accumulation_steps` forward passes share a tuned model's step and add up
            their gradients: less memory, the same step except for dropout.
        max_rows_per_forward: maximum number of rows in a forward pass; it changes memory and
            speed, not the result. Ignored in the steps of a tuned model, whose dropout depends on
            where passes end.
        best_checkpoint_path: file for the tuned model's weights of the best epoch (safetensors);
            not written where the model is frozen.
        checkpoint: where progress is saved and resumed from, if an earlier call with the same
            arguments left some; the result is the same. None saves nothing.
        on_epoch: called with a job's position and record after each epoch, except for epochs that
            a checkpoint already has.

    Returns:
        The result of each job.

    Raises:
        ValueError: the model is to be tuned for several jobs at once.
    """
    if config.model is not None and len(jobs) != 1:
        raise ValueError("a tuned model belongs to one job: train the jobs one by one")
    saved = checkpoint.load() if checkpoint is not None else None
    if saved is not None and saved["progress"] is None:
        return [TrainingResult.from_state_dict(state) for state in saved["results"]]
    model.network.requires_grad_(config.model is not None)
    bank = _Bank(model, jobs, config, max_rows_per_forward)
    if saved is not None:
        bank.load_state_dict(saved)

    def save_if_due() -> None:
        if checkpoint is not None and checkpoint.due:
            checkpoint.save(bank.state_dict())

    progress = bank.progress
    while progress.epoch <= config.epochs:
        active = [t for t in bank.trainers if t.epochs_without_improvement < config.patience]
        if progress.epoch:
            bank.train_epoch(active, save_if_due)
        for trainer, vectors in zip(active, _detached_vectors(active), strict=True):
            record = bank.score_dev(trainer, vectors)
            improved = trainer.update_best(record, vectors)
            if improved and config.model is not None and config.epochs:
                _save_weights(model, best_checkpoint_path)
            on_epoch(trainer.position, record)
        progress.next_epoch()
        save_if_due()
    results = [trainer.result for trainer in bank.trainers]
    if checkpoint is not None:
        states = [result.state_dict() for result in results]
        checkpoint.save({"progress": None, "results": states})
    return results


@dataclass
class TrainerState:
    """Position within the training.

    Attributes:
        losses: for each job, the sum over the examples of the epoch so far, in nats.
        epoch: the current one; 0 is before training.
        step: the next one of it.
    """

    losses: list[float]
    epoch: int = 0
    step: int = 0

    def next_epoch(self) -> None:
        """Move to the start of the next epoch."""
        self.epoch += 1
        self.step = 0
        self.losses[:] = [0.0] * len(self.losses)


class _JobTrainer:
    """The encoder, the optimizers and the best epoch of one job."""

    def __init__(
        self, model: PromptedModel, position: int, job: TrainingJob, config: MethodParams
    ) -> None:
        self.position = position
        self.job = job
        self.result = TrainingResult()
        self.epochs_without_improvement = 0
        self.steps = 0  # taken so far, in all epochs
        self.encoder = None
        if config.prompt is not None and job.prompt_tokens:
            embeddings = model.input_embeddings
            encoder = make_encoder(
                config.prompt, job.prompt_tokens, embeddings, seed=job.seed, name=job.name
            )
            self.encoder = encoder.to(model.device)
        self._batch_size = config.batch_size
        steps = math.ceil(len(job.train.rows) / config.batch_size)
        modules = [(self.encoder, config.prompt), (model.network, config.model)]
        self.optimizers = [
            ScheduledOptimizer(
                module.parameters(), section, epochs=config.epochs, steps_per_epoch=steps
            )
            for module, section in modules
            if module is not None and section is not None
        ]

    def batches(self, epoch: int) -> list[list[int]]:
        """Return the positions of each step's examples, in a random order of the epoch."""
        order = list(range(len(self.job.train.rows)))
        random = make_random(self.job.seed, "order of examples", self.job.name, str(epoch))
        random.shuffle(order)
        size = self._batch_size
        return [order[start : start + size] for start in range(0, len(order), size)]

    def update_best(self, record: EpochRecord, vectors: Tensor | None) -> bool:
        """Record an epoch and its vectors; return whether no earlier one has a better score."""
        self.result.history.append(record)
        if record.epoch and record.dev_score < self.result.best_score:
            self.epochs_without_improvement += 1
            return False
        self.result.vectors = vectors
        self.result.best_epoch = record.epoch
        self.epochs_without_improvement = 0
        return True

    def step_seed(self, purpose: str) -> int:
        """Return the seed for the next step, derived from the job's name and the step."""
        return derive_seed(self.job.seed, purpose, self.job.name, str(self.steps))

    def state_dict(self) -> dict[str, Any]:
        return {
            "result": self.result.state_dict(),
            "epochs_without_improvement": self.epochs_without_improvement,
            "steps": self.steps,
            "encoder": None if self.encoder is None else self.encoder.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.result = TrainingResult.from_state_dict(state["result"])
        self.epochs_without_improvement = state["epochs_without_improvement"]
        self.steps = state["steps"]
        if self.encoder is not None:
            self.encoder.load_state_dict(state["encoder"])
        for optimizer, values in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(values)


def _detached_vectors(trainers: Sequence[_JobTrainer]) -> list[Tensor | None]:
    """Return a copy of each prompt's vectors on the CPU, without gradients and dropout."""
    encoders = [trainer.encoder for trainer in trainers if trainer.encoder is not None]
    with torch.no_grad():
        vectors = iter([tensor.float().cpu().clone() for tensor in encode(encoders)])
    return [None if trainer.encoder is None else next(vectors) for trainer in trainers]


@dataclass(frozen=True)
class _Item:
    """One training example of a step: its job, its right answer, and its share of the loss."""

    trainer: _JobTrainer
    row: EncodedExample
    target: int
    weight: float


class _Bank:
    """The jobs that train together, and how far they are."""

    def __init__(
        self,
        model: PromptedModel,
        jobs: Sequence[TrainingJob],
        config: MethodParams,
        max_rows_per_forward: int,
    ) -> None:
        self._model = model
        self._config = config
        self._max_rows = max_rows_per_forward
        self.trainers = [_JobTrainer(model, n, job, config) for n, job in enumerate(jobs)]
        self.progress = TrainerState(losses=[0.0] * len(jobs))

    def train_epoch(self, trainers: Sequence[_JobTrainer], after_step: Callable[[], None]) -> None:
        """Run the steps of the epoch that remain; add up the losses."""
        self._model.network.train(self._config.model is not None)
        batches = [trainer.batches(self.progress.epoch) for trainer in trainers]
        for step in range(self.progress.step, max(map(len, batches), default=0)):
            stepping = [
                (trainer, steps[step])
                for trainer, steps in zip(trainers, batches, strict=True)
                if step < len(steps)
            ]
            items = [item for trainer, batch in stepping for item in _items(trainer, batch)]
            passes = list(self._passes(items))
            losses = self._backward([trainer for trainer, _ in stepping], passes)
            for trainer, _ in stepping:
                trainer.steps += 1
                for optimizer in trainer.optimizers:
                    optimizer.step()
            # Read only now: it waits for a GPU, which should have its work for the step by then.
            for chosen, values in zip(passes, losses, strict=True):
                for item, loss in zip(chosen, values.tolist(), strict=True):
                    self.progress.losses[item.trainer.position] += loss
            self.progress.step = step + 1
            after_step()
        self._model.network.eval()

    def score_dev(self, trainer: _JobTrainer, vectors: Tensor | None) -> EpochRecord:
        """Score the dev examples of a job at the end of the epoch."""
        job, epoch = trainer.job, self.progress.epoch
        log_probs = score_examples(
            self._model,
            job.dev.rows,
            vectors,
            job.dev.word_ids,
            max_rows_per_forward=self._max_rows,
        )
        loss = self.progress.losses[trainer.position] / len(job.train.rows)
        return EpochRecord(
            epoch=epoch,
            train_loss=loss if epoch else None,
            dev_loss=float(torch.nn.functional.nll_loss(log_probs, job.dev.targets)),
            dev_score=job.score(log_probs, job.dev.targets),
        )

    def state_dict(self) -> dict[str, Any]:
        """Return all that a resumed training needs; random numbers depend on counts only."""
        weights = {
            name: parameter.detach()
            for name, parameter in self._model.network.named_parameters()
            if parameter.requires_grad
        }
        return {
            "progress": asdict(self.progress),
            "weights": weights,
            "jobs": [trainer.state_dict() for trainer in self.trainers],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from a state of `state_dict`."""
        self._model.network.load_state_dict(state["weights"], strict=False)
        for trainer, values in zip(self.trainers, state["jobs"], strict=True):
            trainer.load_state_dict(values)
        self.progress = TrainerState(**state["progress"])

    def _passes(self, items: Sequence[_Item]) -> Iterator[list[_Item]]:
        """Yield the items of each forward pass: of similar length, with the same answers."""
        if self._config.model is not None:
            # By examples, whatever their rows: the model's dropout depends on where passes end.
            steps = self._config.model.gradient_accumulation_steps
            limit = math.ceil(self._config.batch_size / steps)
        groups: dict[int, list[_Item]] = {}
        for item in sorted(items, key=lambda item: len(item.row.token_ids)):
            shared = item.trainer.job.open_vocabulary
            groups.setdefault(-1 if shared else item.trainer.position, []).append(item)
        for group in groups.values():
            if self._config.model is not None:
                yield from micro_batches(group, lambda _: 1, limit)
            else:
                yield from micro_batches(group, lambda item: len(item.row.rows), self._max_rows)

    def _backward(
        self, trainers: Sequence[_JobTrainer], passes: Sequence[list[_Item]]
    ) -> list[Tensor]:
        """Compute the gradients of one step; return the losses of each pass's examples.

        The encoders run once per step: the passes accumulate gradients at the vectors, from where
        one backward pass takes them through the encoders.
        """
        encoders = {t.position: t.encoder for t in trainers if t.encoder is not None}
        slots = {position: slot for slot, position in enumerate(encoders)}
        seeds = [t.step_seed("dropout") for t in trainers if t.encoder is not None]
        stacked = stack_prompts(encode(list(encoders.values()), seeds))
        vectors = stacked.detach().requires_grad_() if stacked is not None else None
        tuned = self._config.model is not None
        losses = []
        with torch.random.fork_rng() if tuned else nullcontext():
            if tuned:
                torch.manual_seed(trainers[0].step_seed("dropout of the model"))
            for chosen in passes:
                losses.append(self._backward_pass(chosen, slots, vectors))
        if stacked is not None and vectors is not None:
            stacked.backward(vectors.grad)
        return losses

    def _backward_pass(
        self, chosen: Sequence[_Item], slots: dict[int, int], vectors: Tensor | None
    ) -> Tensor:
        """Accumulate the gradients of one forward pass; return (items,) losses."""
        device = self._model.device
        job = chosen[0].trainer.job
        log_probs = score_batch(
            self._model,
            [item.row for item in chosen],
            [slots.get(item.trainer.position, 0) for item in chosen],
            vectors,
            None if job.open_vocabulary else job.train.word_ids.to(device),
        )
        targets = torch.tensor([item.target for item in chosen], device=device)
        loss = torch.nn.functional.nll_loss(log_probs, targets, reduction="none")
        weights = torch.tensor([item.weight for item in chosen], device=device)
        (loss * weights).sum().backward()
        return loss.detach()


def _items(trainer: _JobTrainer, batch: Sequence[int]) -> Iterator[_Item]:
    dataset = trainer.job.train
    for i in batch:
        target = int(dataset.targets[i])
        if trainer.job.open_vocabulary:
            target = int(dataset.word_ids[target])
        yield _Item(trainer, dataset.rows[i], target, weight=1 / len(batch))


def _save_weights(model: PromptedModel, path: Path) -> None:
    """Write every parameter once; tied ones under their first name."""
    save_file(
        {name: p.detach().cpu().contiguous() for name, p in model.network.named_parameters()}, path
    )
