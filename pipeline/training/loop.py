"""The training loop: many prompts at once with a frozen model, or one job that tunes the model.

Jobs that train together (a bank) share the forward passes and nothing else. Each has its encoder,
optimizer, schedule, order of examples, early stopping and best epoch, so its result is that of
training it separately.
"""

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import nll_loss

from pipeline.config.schema import MethodParams
from pipeline.errors import ModelError
from pipeline.files import written_durably
from pipeline.models.dataset import PromptDataset
from pipeline.models.language_model import PromptedModel, nonfinite_weight
from pipeline.models.packing import Integers, same_shapes
from pipeline.models.scoring import explain_nonfinite, score_batch
from pipeline.models.sharding import assign, gathered
from pipeline.seeding import derive_seed, make_random
from pipeline.training.checkpoint import Checkpoint
from pipeline.training.optimizers import ScheduledOptimizer
from pipeline.training.passes import Item, PassPlanner, Prompts, ReadyPass
from pipeline.training.prompt_encoders import EncoderBank, make_encoder
from pipeline.training.ranks import ALONE, Ranks

Score = Callable[[Tensor, Tensor], float]


@dataclass(frozen=True, eq=False)
class TrainingJob:
    """One prompt, or model, to train.

    Attributes:
        name: of the task; with the seed, it determines the job's random numbers.
        trial: name of the trial, for messages.
        seed: of the training.
        prompt_tokens: number of prompt tokens in the template.
        train: the examples to learn from.
        dev: the examples that select the epoch.
        score: (examples,) int64 each, the positions of the predicted and of the right answers ->
            a number; its value on dev selects the epoch.
        start_words: one token id for each prompt token, as which they start with `prompt.start:
            manual`; else empty.
        open_vocabulary: whether the right word competes in the loss with the whole vocabulary
            (LAMA), or with the allowed answers (label words, as in PET).
    """

    name: str
    trial: str
    seed: int
    prompt_tokens: int
    train: PromptDataset
    dev: PromptDataset
    score: Score
    start_words: Sequence[int]
    open_vocabulary: bool

    @property
    def sizes(self) -> dict[str, int]:
        """Number of examples of `train` and `dev`."""
        return {"train": len(self.train.rows), "dev": len(self.dev.rows)}


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
        examples: number of examples of `train` and `dev` that were used; empty in results of
            earlier versions.
    """

    vectors: Tensor | None = None
    best_epoch: int = 0
    history: list[EpochRecord] = field(default_factory=list)
    template: str | None = None
    words: list[str] | None = None
    examples: dict[str, int] = field(default_factory=dict)

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
    max_tokens_per_forward: int,
    best_checkpoint_path: Path,
    checkpoint: Checkpoint | None,
    on_epoch: Callable[[int, EpochRecord], None],
    on_step: Callable[[int, int], None] = lambda *_: None,
    ranks: Ranks = ALONE,
) -> list[TrainingResult]:
    """Train the prompts of some jobs, the model, or both; or score dev once.

    Args:
        model: the language model. Its weights change where `config.model` is set, and stay
            bit-equal where it is not.
        jobs: one or more; one if the model is tuned.
        config: the method's section of `params.yaml`. With 0 epochs dev is scored and nothing
            trained; an epoch is one pass over the train set, or `steps_per_epoch` steps; a job
            stops after `patience` epochs in a row below its best dev score;
            `gradient_accumulation_steps` forward passes share a tuned model's step and add up
            their gradients: less memory, the same step except for dropout.
        max_tokens_per_forward: maximum number of positions in a forward pass; it changes memory
            and speed, not the result. Ignored in the steps of a tuned model, whose dropout depends
            on where passes end.
        best_checkpoint_path: file for the tuned model's weights of the best epoch (safetensors),
            written at the end, not where the model is frozen. Until then, weights are in files
            beside it that are named by their epoch, so that those of a checkpoint are never
            overwritten.
        checkpoint: where progress is saved and resumed from, if an earlier call with the same
            arguments left some; the result is the same. None saves nothing.
        on_epoch: called with a job's position and record after each epoch, except for epochs that
            a checkpoint already has.
        on_step: called after each step with the number of steps so far, of all epochs, and that of
            the whole training, should no job stop early.
        ranks: the processes that make the training together, each by a call with the same
            arguments. Passes are dealt out to them; how many there are changes rounding only.

    Returns:
        The result of each job.

    Raises:
        ValueError: the model is to be tuned for several jobs at once.
        ModelError: a loss is not finite. Nothing of that epoch is kept.
    """
    if config.model is not None and len(jobs) != 1:
        raise ValueError("a tuned model belongs to one job: train the jobs one by one")
    saved = checkpoint.load("progress") if checkpoint is not None else None
    if saved is not None and saved["progress"] is None:
        return [TrainingResult.from_state_dict(state) for state in saved["results"]]
    model.network.requires_grad_(config.model is not None)
    bank = _Bank(model, jobs, config, max_tokens_per_forward, ranks)
    if saved is not None:
        bank.load_state_dict(saved)

    tuned = config.model is not None and config.epochs > 0

    def save_if_due() -> None:
        if checkpoint is None or not ranks.any([ranks.first and checkpoint.due])[0]:
            return
        state = bank.state_dict()
        if ranks.first:
            checkpoint.save(state)
            if tuned:
                _delete_weights(best_checkpoint_path, bank.jobs[0].result.best_epoch)

    def after_step() -> None:
        save_if_due()
        on_step(*bank.steps())

    progress = bank.progress
    while progress.epoch <= config.epochs and bank.active:
        if progress.epoch:
            bank.train_epoch(after_step)
        records, vectors = bank.score_dev()
        for job, record in zip(bank.active, records, strict=True):
            improved = job.update_best(record, bank.vectors_of(job, vectors))
            if improved and tuned:
                _save_weights(model, _weights_of(best_checkpoint_path, progress.epoch), ranks)
            on_epoch(job.position, record)
        progress.next_epoch()
        bank.drop_stopped()
        save_if_due()
    results = [job.result for job in bank.jobs]
    if tuned and ranks.first:
        best = _weights_of(best_checkpoint_path, results[0].best_epoch)
        if best.exists():  # else an earlier call, killed since, has renamed it
            best.replace(best_checkpoint_path)
        _delete_weights(best_checkpoint_path, None)
    for result in results:
        result.vectors = None if result.vectors is None else result.vectors.float().cpu()
    if checkpoint is not None and ranks.first:
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


class _BankedJob:
    """A job of a bank: its examples, its random numbers, and its best epoch so far."""

    def __init__(self, position: int, job: TrainingJob, config: MethodParams) -> None:
        self.position = position
        self.job = job
        self.result = TrainingResult(examples=job.sizes)
        self.epochs_without_improvement = 0
        self.has_prompt = config.prompt is not None and job.prompt_tokens > 0
        self._steps_per_pass = math.ceil(len(job.train.rows) / config.batch_size)
        self.steps_per_epoch = config.steps_per_epoch or self._steps_per_pass
        self._batch_size = config.batch_size

    def steps(self, epoch: int) -> list[list[Item]]:
        """Return the examples of each step of an epoch.

        With an open vocabulary, the right word competes with the whole vocabulary.
        """
        data = self.job.train
        targets = data.targets
        words: tuple[int, ...] | None = tuple(data.word_ids.tolist())
        if self.job.open_vocabulary:
            targets, words = data.word_ids[targets], None
        answers = targets.tolist()
        return [
            [Item(self.position, data.rows[i], answers[i], words, len(batch)) for i in batch]
            for batch in self._batches(epoch)
        ]

    def _batches(self, epoch: int) -> list[list[int]]:
        """Positions of the examples of each step; each pass over them has a random order."""
        first = (epoch - 1) * self.steps_per_epoch
        batches: list[list[int]] = []
        number, skipped = divmod(first, self._steps_per_pass)
        while len(batches) < skipped + self.steps_per_epoch:
            number += 1
            order = list(range(len(self.job.train.rows)))
            name = self.job.name
            make_random(self.job.seed, "order of examples", name, str(number)).shuffle(order)
            size = self._batch_size
            batches += [order[start : start + size] for start in range(0, len(order), size)]
        return batches[skipped : skipped + self.steps_per_epoch]

    def examples_in(self, epoch: int) -> int:
        """Return how many examples the steps of an epoch have together."""
        return sum(map(len, self._batches(epoch)))

    @cached_property
    def dev(self) -> list[Item]:
        """The dev examples; the allowed answers compete."""
        data = self.job.dev
        words = tuple(data.word_ids.tolist())
        pairs = zip(data.rows, data.targets.tolist(), strict=True)
        return [Item(self.position, row, target, words) for row, target in pairs]

    def step_seed(self, purpose: str, epoch: int, step: int) -> int:
        """Return the seed of a step, derived from the job's name and the number of the step."""
        number = (epoch - 1) * self.steps_per_epoch + step
        return derive_seed(self.job.seed, purpose, self.job.name, str(number))

    def dropout_seed(self, epoch: int, step: int, number: int) -> int:
        """Return the seed of the model's dropout in a pass of a step, whoever makes the pass."""
        purpose = "dropout of the model"
        return self.step_seed(f"{purpose}, pass {number + 1}" if number else purpose, epoch, step)

    def update_best(self, record: EpochRecord, vectors: Tensor | None) -> bool:
        """Record an epoch and its vectors; return whether no earlier one has a better score."""
        self.result.history.append(record)
        if record.epoch and record.dev_score < self.result.best_score:
            self.epochs_without_improvement += 1
            return False
        self.result.vectors = vectors.clone() if vectors is not None else None
        self.result.best_epoch = record.epoch
        self.epochs_without_improvement = 0
        return True

    def state_dict(self) -> dict[str, Any]:
        return {
            "name": self.job.name,
            "result": self.result.state_dict(),
            "epochs_without_improvement": self.epochs_without_improvement,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.result = TrainingResult.from_state_dict(state["result"])
        self.epochs_without_improvement = state["epochs_without_improvement"]


class _Bank:
    """The jobs that train together, and how far they are."""

    def __init__(
        self,
        model: PromptedModel,
        jobs: Sequence[TrainingJob],
        config: MethodParams,
        max_tokens: int,
        ranks: Ranks,
    ) -> None:
        self._model = model
        self._ranks = ranks
        self._config = config
        self.jobs = [_BankedJob(n, job, config) for n, job in enumerate(jobs)]
        self.active = list(self.jobs)
        self.progress = TrainerState(losses=[0.0] * len(jobs))
        self._encoders = self._make_encoders()
        self._prompts = self._locate_prompts()
        self._prompt_optimizer, self._model_optimizer = self._make_optimizers()
        micro_batch_size = None
        if config.model is not None:
            passes = config.model.gradient_accumulation_steps
            micro_batch_size = math.ceil(config.batch_size / passes)
        self._planner = PassPlanner(model, max_tokens, micro_batch_size)
        self._dev_passes: list[ReadyPass] | None = None
        # Of steps since they were last read, which waits for a GPU: step and job of each loss.
        self._losses: list[Tensor] = []
        self._losses_of: list[tuple[int, int]] = []

    def _make_encoders(self) -> EncoderBank | None:
        config, model = self._config.prompt, self._model
        if config is None:
            return None
        encoders = [
            model.call(
                partial(
                    make_encoder,
                    config,
                    each.job.prompt_tokens,
                    model.input_embeddings,
                    seed=each.job.seed,
                    name=each.job.name,
                    words=each.job.start_words,
                )
            )
            for each in self.jobs
            if each.has_prompt
        ]
        if not encoders:
            return None
        return EncoderBank(encoders, dropout=config.dropout, device=model.device)

    def _make_optimizers(self) -> tuple[ScheduledOptimizer | None, ScheduledOptimizer | None]:
        config, epochs = self._config, self._config.epochs
        of_prompts = of_model = None
        if config.prompt is not None and self._encoders is not None:
            of_prompts = ScheduledOptimizer(
                self._encoders.parameters(),
                config.prompt,
                epochs=epochs,
                steps_per_epoch=[each.steps_per_epoch for each in self.jobs if each.has_prompt],
                stacked=True,
            )
        if config.model is not None:
            of_model = ScheduledOptimizer(
                # Vectors are biases and norms: they are not decayed, as in BERT and PET.
                [(p, p.ndim > 1) for p in self._model.network.parameters()],
                config.model,
                epochs=epochs,
                steps_per_epoch=[self.jobs[0].steps_per_epoch],
                stacked=False,
                ranks=self._ranks,
            )
        return of_prompts, of_model

    def steps(self) -> tuple[int, int]:
        """Return the number of steps so far, of all epochs, and that of the whole training."""
        per_epoch = max(job.steps_per_epoch for job in self.active)
        done = (self.progress.epoch - 1) * per_epoch + self.progress.step
        return done, self._config.epochs * per_epoch

    def train_epoch(self, after_step: Callable[[], None]) -> None:
        """Run the steps of the epoch that remain; add up the losses."""
        epoch, first = self.progress.epoch, self.progress.step
        steps_of = {job.position: job.steps(epoch) for job in self.active}
        count = max(map(len, steps_of.values()))
        stepping = [
            [job for job in self.active if step < len(steps_of[job.position])]
            for step in range(count)
        ]
        items = [
            [item for job in jobs for item in steps_of[job.position][step]]
            for step, jobs in enumerate(stepping)
        ]
        passes, seeds = self._prepare(items, first)
        self._model.network.train(self._config.model is not None)
        for step in range(first, count):
            self._step(stepping[step], passes[step], step, seeds[step] if len(seeds) else None)
            self.progress.step = step + 1
            after_step()
        self._model.network.eval()

    def _prepare(
        self, items: Sequence[Sequence[Item]], first: int
    ) -> tuple[dict[int, list[ReadyPass]], Tensor]:
        """Put the passes of all steps from the first on the device, and the seeds of dropout.

        Args:
            items: the examples of each step of the epoch.
            first: the first step to run. Those before it count for the shapes of passes.
        """
        length = self._train_length
        planned = [
            (step, each)
            for step, own in enumerate(items)
            for each in self._planner.plan(own, self._prompts, length=length, training=True)
        ]
        if length is not None and self._config.model is None:
            layouts = same_shapes([each.layout for _, each in planned])
            planned = [
                (step, each._replace(layout=layout))
                for (step, each), layout in zip(planned, layouts, strict=True)
            ]
        planned = [(step, each) for step, each in planned if step >= first]
        ready, (seeds,) = self._planner.upload(
            [each for _, each in planned],
            [items[step] for step, _ in planned],
            self._dropout_seeds(len(items)),
        )
        passes: dict[int, list[ReadyPass]] = {}
        for (step, _), made in zip(planned, ready, strict=True):
            passes.setdefault(step, []).append(made)
        return passes, seeds

    def _step(
        self,
        stepping: Sequence[_BankedJob],
        passes: Sequence[ReadyPass],
        step: int,
        seeds: Tensor | None,
    ) -> None:
        """Take one step.

        The encoders run once: the passes accumulate gradients at the vectors, from where one
        backward pass takes them through the encoders.
        """
        stacked = self._encoders(seeds) if self._encoders is not None else None
        vectors = stacked.detach().requires_grad_() if stacked is not None else None
        tuned = self._model_optimizer is not None
        with torch.random.fork_rng() if tuned else nullcontext():
            for number, each in enumerate(passes):
                if tuned:
                    seed = stepping[0].dropout_seed(self.progress.epoch, step, number)
                    torch.manual_seed(seed)
                if self._ranks.makes(number):
                    losses = self._backward_pass(each, vectors)
                else:
                    losses = torch.zeros(each.targets.shape, device=self._model.device)
                self._losses.append(losses)
                self._losses_of += [(step, job) for job in each.jobs]
            if self._model.sharded and self._ranks.idles(len(passes)):
                self._backward_pass(passes[0], vectors, share=0.0)
        if tuned and not self._model.sharded:  # else torch has added them
            self._ranks.add_gradients(self._model.network.parameters())
        if stacked is not None and vectors is not None:
            self._ranks.add_gradients([vectors])
            stacked.backward(vectors.grad)
        if self._prompt_optimizer is not None:
            rows = self._prompts.rows
            self._prompt_optimizer.step([rows[j.position] for j in stepping if j.has_prompt])
        if self._model_optimizer is not None:
            self._model_optimizer.step([0])

    def _backward_pass(self, each: ReadyPass, vectors: Tensor | None, share: float = 1.0) -> Tensor:
        """Accumulate a share of the gradients of one forward pass; return (examples,) losses."""
        log_probs = score_batch(self._model, each.batch, vectors, each.candidates)
        losses = nll_loss(log_probs, each.targets, reduction="none")
        (share * (losses / each.batch_sizes).sum()).backward()
        return losses.detach()

    @torch.no_grad()
    def score_dev(self) -> tuple[list[EpochRecord], Tensor | None]:
        """Score dev for all active jobs at the end of the epoch, in shared passes.

        Returns:
            The record of the epoch of each active job; and (prompts, longest, size) float, the
            vectors of their prompts, without dropout.
        """
        vectors = self._encoders() if self._encoders is not None else None
        if self._dev_passes is None:
            items = [item for each in self.active for item in each.dev]
            planned = self._planner.plan(items, self._prompts, length=None, training=False)
            self._dev_passes, _ = self._planner.upload(planned, [items] * len(planned))
        scores = [
            self._score_pass(ready, vectors)
            if self._ranks.makes(number)
            else torch.zeros(len(ready.targets), 2, device=self._model.device)
            for number, ready in enumerate(self._dev_passes)
        ]
        if self._model.sharded and self._ranks.idles(len(scores)):
            self._score_pass(self._dev_passes[0], vectors)
        found = self._read(scores)
        order = np.argsort([i for ready in self._dev_passes for i in ready.items])
        ends = np.cumsum([len(each.dev) for each in self.active])
        own = np.split(found[order], ends[:-1])
        records = list(map(self._record, self.active, own))
        pairs = zip(self.active, records, strict=True)
        self._refuse([each for each, one in pairs if not math.isfinite(one.dev_loss)], "dev")
        return records, vectors

    def _score_pass(self, ready: ReadyPass, vectors: Tensor | None) -> Tensor:
        """(examples, 2): the loss and the predicted answer of each example of a pass."""
        log_probs = score_batch(self._model, ready.batch, vectors, ready.candidates)
        losses = nll_loss(log_probs, ready.targets, reduction="none")
        return torch.stack((losses, log_probs.argmax(dim=1).float()), dim=1)

    def vectors_of(self, job: _BankedJob, vectors: Tensor | None) -> Tensor | None:
        """(prompt tokens, size): those of a job among the vectors of `score_dev`."""
        row = self._prompts.rows.get(job.position)
        if vectors is None or row is None:
            return None
        return vectors[row, : job.job.prompt_tokens].detach().float()

    def _record(self, job: _BankedJob, scores: NDArray[np.float32]) -> EpochRecord:
        """Summarize an epoch by (dev examples, 2): the loss and the predicted answer of each."""
        epoch = self.progress.epoch
        loss = self.progress.losses[job.position]
        answers = torch.from_numpy(scores[:, 1].astype(np.int64))
        return EpochRecord(
            epoch=epoch,
            train_loss=loss / job.examples_in(epoch) if epoch else None,
            dev_loss=float(scores[:, 0].mean(dtype=np.float64)),
            dev_score=job.job.score(answers, job.job.dev.targets),
        )

    def _read(self, scores: Sequence[Tensor]) -> NDArray[np.float32]:
        """Read (examples, 2) tensors from the device, and add up the losses of steps with them.

        Of a pass that another rank has made, both are 0 here, and what it has found is added.
        """
        waiting = [*self._losses, *(each.flatten() for each in scores)]
        joined = torch.cat(waiting) if waiting else torch.empty(0)
        self._ranks.add([joined])
        flat = joined.cpu().numpy()
        losses, rest = np.split(flat, [len(self._losses_of)])
        bad: dict[int, list[_BankedJob]] = {}
        for (step, position), loss in zip(self._losses_of, losses.tolist(), strict=True):
            self.progress.losses[position] += loss
            if not math.isfinite(loss):
                bad.setdefault(step, []).append(self.jobs[position])
        self._losses, self._losses_of = [], []
        # NaN spreads to the jobs that share a pass, so the first step is closest to the cause.
        for step, jobs in sorted(bad.items())[:1]:
            self._refuse(jobs, f"train, step {step + 1}")
        return rest.reshape(-1, 2)

    def _refuse(self, jobs: Sequence[_BankedJob], where: str) -> None:
        """Stop the training if there are jobs whose loss is not finite."""
        if not jobs:
            return
        epoch, config = self.progress.epoch, self._config
        trained = {"prompt": config.prompt, "model": config.model}
        advice = [
            f"lower {name}.learning_rate (now {section.learning_rate:g}) or set "
            f"{name}.max_grad_norm (now {section.max_grad_norm or 'null'})"
            for name, section in trained.items()
            if section is not None
        ]
        why = f"training diverged; {', or '.join(advice)}"
        if epoch == 0 or (config.model is None and nonfinite_weight(self._model.network)):
            why = explain_nonfinite(self._model)
        first, *others = dict.fromkeys(each.job.trial for each in jobs)
        names = f"{first} and {len(others)} more" if others else first
        raise ModelError(f"{names}: epoch {epoch}, {where}: the loss is not finite: {why}")

    def drop_stopped(self) -> None:
        """Leave out the jobs whose dev score has not improved for long enough."""
        patience = self._config.patience
        left = [each for each in self.active if each.epochs_without_improvement < patience]
        if len(left) < len(self.active):
            self._keep(left)

    def state_dict(self) -> dict[str, Any]:
        """Return all that a resumed training needs; random numbers depend on counts only."""
        self._read([])
        weights = {
            name: gathered(parameter.detach(), kept=self._ranks.first)
            for name, parameter in self._model.network.named_parameters()
            if parameter.requires_grad
        }
        return {
            "progress": asdict(self.progress),
            "weights": weights,
            "jobs": [each.state_dict() for each in self.jobs],
            "active": [each.position for each in self.active],
            "parts": [part.state_dict() for part in self._parts],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from a state of `state_dict`."""
        parameters = dict(self._model.network.named_parameters())
        for name, weight in state["weights"].items():
            assign(parameters[name], weight)
        for each, values in zip(self.jobs, state["jobs"], strict=True):
            each.load_state_dict(values)
        self._keep([self.jobs[position] for position in state["active"]])
        for part, values in zip(self._parts, state["parts"], strict=True):
            part.load_state_dict(values)
        self.progress = TrainerState(**state["progress"])

    @property
    def _parts(self) -> list[EncoderBank | ScheduledOptimizer]:
        parts = (self._encoders, self._prompt_optimizer, self._model_optimizer)
        return [part for part in parts if part is not None]

    def _locate_prompts(self) -> Prompts:
        """Where the vectors of the active jobs are."""
        prompted = [each.position for each in self.active if each.has_prompt]
        longest = self._encoders.longest if self._encoders is not None else 0
        return Prompts({position: row for row, position in enumerate(prompted)}, longest)

    def _keep(self, jobs: list[_BankedJob]) -> None:
        """Train only these of the active jobs from now on."""
        rows = self._prompts.rows
        kept = [rows[each.position] for each in jobs if each.has_prompt]
        self.active, self._dev_passes = jobs, None
        if self._encoders is not None and self._prompt_optimizer is not None and kept:
            self._encoders.keep(kept)
            self._prompt_optimizer.keep(self._encoders.parameters(), kept)
        self._prompts = self._locate_prompts()

    def _dropout_seeds(self, steps: int) -> Integers:
        """(steps, prompts) int64, of the epoch; empty where there is no dropout."""
        prompt = self._config.prompt
        if prompt is None or not prompt.dropout:
            return np.empty((0, 0), dtype=np.int64)
        prompted = [each for each in self.active if each.has_prompt]
        epoch = self.progress.epoch
        return np.array(
            [[each.step_seed("dropout", epoch, step) for each in prompted] for step in range(steps)]
        )

    @cached_property
    def _train_length(self) -> int | None:
        """The length of packed sequences in training; the same for all steps and epochs."""
        first = [item for each in self.jobs for item in each.steps(1)[0]]
        every = [row for each in self.jobs for row in each.job.train.rows]
        return self._planner.choose_length(first, every)


def _weights_of(path: Path, epoch: int) -> Path:
    """Return the file of an epoch's weights, beside that of the result."""
    return path.with_name(f"{path.stem}.{epoch}{path.suffix}")


def _delete_weights(path: Path, kept: int | None) -> None:
    """Delete the weights of all epochs but one."""
    for file in path.parent.glob(f"{path.stem}.*{path.suffix}"):
        if kept is None or file != _weights_of(path, kept):
            file.unlink()


def _save_weights(model: PromptedModel, path: Path, ranks: Ranks) -> None:
    """Write every parameter once; tied ones under their first name. The file appears whole."""
    weights = {
        name: gathered(parameter.detach(), kept=ranks.first)
        for name, parameter in model.network.named_parameters()
    }
    if not ranks.first:
        return
    with written_durably(path) as partial:
        save_file({name: weight.cpu().contiguous() for name, weight in weights.items()}, partial)
