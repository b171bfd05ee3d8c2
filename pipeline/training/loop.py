"""The one training loop: many prompts at once with a frozen model, or one with the model tuned.

Prompts that train together share the passes through the language model and nothing else. Each has
its own encoder, optimizer, schedule, order of examples, early stopping and best epoch, so it ends
as it would have ended alone.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from pipeline.models.dataset import PromptDataset
from pipeline.models.encoding import EncodedExample, rows_of
from pipeline.models.language_model import PromptedModel
from pipeline.models.scoring import ask, passes, predict
from pipeline.seeding import derive_seed, make_random
from pipeline.training.bank import make_encoder, stack_prompts
from pipeline.training.checkpoint import Checkpoint
from pipeline.training.optimizers import OptimizerConfig, ScheduledOptimizer
from pipeline.training.prompt_encoders import PromptEncoder, encode

Score = Callable[[Tensor, Tensor], float]


@dataclass(frozen=True)
class TrainingJob:
    """One prompt to train.

    Attributes:
        name: of the relation or task; its randomness hangs on it.
        prompt_tokens: number of prompt tokens in the template.
        train: the examples to learn from.
        dev: the examples that choose the epoch.
    """

    name: str
    prompt_tokens: int
    train: PromptDataset
    dev: PromptDataset


@dataclass(frozen=True)
class EpochRecord:
    """What one epoch of one problem gave.

    Attributes:
        problem: its name.
        epoch: 0 is before training.
        train_loss: mean cross-entropy over the epoch's examples, in nats; None for epoch 0.
        dev_loss: mean cross-entropy among the allowed words, in nats.
        dev_score: of the score function; higher is better.
    """

    problem: str
    epoch: int
    train_loss: float | None
    dev_loss: float
    dev_score: float


@dataclass
class Trained:
    """How one problem ended.

    Attributes:
        vectors: (prompt tokens, embedding size) float32 on the CPU, of the best epoch; None where
            the template has no prompt tokens.
        best_epoch: the epoch with the highest dev score, of equals the latest.
        history: one record an epoch, epoch 0 first.
    """

    vectors: Tensor | None = None
    best_epoch: int = 0
    history: list[EpochRecord] = field(default_factory=list)

    @property
    def best_score(self) -> float:
        """The dev score of the best epoch."""
        return self.history[self.best_epoch].dev_score


def train(
    model: PromptedModel,
    problems: Sequence[TrainingJob],
    *,
    score: Score,
    loss_over_vocabulary: bool,
    epochs: int,
    batch: int,
    gradient_accumulation_steps: int,
    patience: int,
    encoder: str | None,
    dropout: float,
    prompt_optimizer: OptimizerConfig | None,
    model_optimizer: OptimizerConfig | None,
    best_checkpoint_path: Path,
    max_rows_per_forward: int,
    seed: int,
    checkpoint: Checkpoint | None,
    on_epoch: Callable[[EpochRecord], None],
) -> dict[str, Trained]:
    """Train the prompts of some problems, the model, or both; or score dev once.

    Args:
        model: the language model. Its weights change where `model_optimizer` is given, and stay
            bit-equal where it is not.
        problems: with different names.
        score: log-probabilities (examples, words) and targets (examples,) -> a number; its
            value on dev chooses the epoch.
        loss_over_vocabulary: whether the right word competes with the whole vocabulary in the
            loss (LAMA) or with the allowed words (label words, as in PET).
        epochs: most epochs; 0 scores dev and trains nothing.
        batch: examples of each problem in a step.
        gradient_accumulation_steps: where the model is tuned, the number of passes that share a
            step's examples and add up their gradients: less memory, the same step but for dropout.
        patience: a problem stops after so many epochs in a row below its best dev score.
        encoder: of the prompts; None where prompts are not trained.
        dropout: within the encoder.
        prompt_optimizer: for each problem's encoder; None where prompts are not trained.
        model_optimizer: for the language model; None leaves it frozen.
        best_checkpoint_path: where the tuned model's weights of the best epoch are written
            (safetensors); not touched where the model is frozen.
        max_rows_per_forward: most rows of one pass; it changes memory and speed, not the result. A
            tuned model may have dropout, so there `gradient_accumulation_steps` cuts the steps.
        seed: with the problem's name, of all that is random.
        checkpoint: where to note how far training is, and to go on from what is noted there by an
            earlier call with the same arguments; the result is the same. None notes nothing.
        on_epoch: called after each epoch of each problem; not for epochs that a checkpoint has.

    Returns:
        problem name -> how it ended.

    Raises:
        ValueError: the model is to be tuned for several problems at once.
    """
    if model_optimizer is not None and len(problems) != 1:
        raise ValueError("a tuned model belongs to one problem: train the problems one by one")
    saved = checkpoint.load() if checkpoint is not None else None
    if saved is not None and saved["position"] is None:
        return _ended(saved)
    model.network.requires_grad_(model_optimizer is not None)
    states = []
    for problem in problems:
        prompt_encoder = None
        if encoder is not None and problem.prompt_tokens:
            prompt_encoder = make_encoder(
                encoder,
                problem.prompt_tokens,
                model.words,
                dropout=dropout,
                seed=seed,
                name=problem.name,
            ).to(model.device)
        state = _State(problem, prompt_encoder, batch=batch, seed=seed)
        state.make_optimizers(model, prompt_optimizer, model_optimizer, epochs=epochs)
        states.append(state)
    here = _Position(losses={problem.name: 0.0 for problem in problems})
    if saved is not None:
        here = _restore(model, states, saved)

    def note() -> None:
        if checkpoint is not None and checkpoint.due:
            checkpoint.save(_progress(model, states, here))

    cut = partial(
        _passes, size=_rows, most=max_rows_per_forward, by_problem=not loss_over_vocabulary
    )
    if model_optimizer is not None:
        # So many examples, whatever their rows: the model's dropout hangs on where passes end.
        cut = partial(cut, size=lambda _: 1, most=math.ceil(batch / gradient_accumulation_steps))
    while here.epoch <= epochs:
        active = [state for state in states if state.epochs_without_improvement < patience]
        if here.epoch:
            _train_epoch(model, active, loss_over_vocabulary, cut, here, note)
        for state, vectors in zip(active, _vectors(active), strict=True):
            loss = here.losses[state.problem.name] / len(state.problem.train.rows)
            record = _score_dev(
                model,
                state.problem,
                vectors,
                here.epoch,
                loss if here.epoch else None,
                score,
                max_rows_per_forward,
            )
            if state.update_best(record, vectors) and model_optimizer is not None and epochs:
                _save_weights(model, best_checkpoint_path)
            on_epoch(record)
        here.next_epoch()
        note()
    trained = {state.problem.name: state.trained for state in states}
    if checkpoint is not None:
        checkpoint.save(
            {"position": None, "problems": {name: _as_dict(own) for name, own in trained.items()}}
        )
    return trained


def finished(checkpoint: Checkpoint) -> dict[str, Trained]:
    """Return how the problems of a checkpoint ended; nothing while they are under way."""
    saved = checkpoint.load()
    return _ended(saved) if saved is not None and saved["position"] is None else {}


@dataclass
class _Position:
    """How far training is.

    Attributes:
        epoch: the one under way; 0 is before training.
        step: the next one of it.
        losses: problem name -> sum over the examples of the epoch so far, in nats.
    """

    losses: dict[str, float]
    epoch: int = 0
    step: int = 0

    def next_epoch(self) -> None:
        self.epoch += 1
        self.step = 0
        self.losses = dict.fromkeys(self.losses, 0.0)


class _State:
    """What belongs to one problem while it trains."""

    def __init__(
        self, problem: TrainingJob, encoder: PromptEncoder | None, *, batch: int, seed: int
    ) -> None:
        self.problem = problem
        self.encoder = encoder
        self.optimizers: list[ScheduledOptimizer] = []
        self.trained = Trained()
        self.epochs_without_improvement = 0
        self.steps = 0  # taken so far, in all epochs
        self._batch = batch
        self._seed = seed

    def make_optimizers(
        self,
        model: PromptedModel,
        prompt: OptimizerConfig | None,
        network: OptimizerConfig | None,
        *,
        epochs: int,
    ) -> None:
        steps = -(-len(self.problem.train.rows) // self._batch)
        if prompt is not None and self.encoder is not None:
            self.optimizers.append(
                ScheduledOptimizer(
                    self.encoder.parameters(), prompt, epochs=epochs, steps_per_epoch=steps
                )
            )
        if network is not None:
            self.optimizers.append(
                ScheduledOptimizer(
                    model.network.parameters(), network, epochs=epochs, steps_per_epoch=steps
                )
            )

    def batches(self, epoch: int) -> Iterator[list[int]]:
        """Yield positions of examples, each once, in an order of the epoch's own."""
        order = list(range(len(self.problem.train.rows)))
        make_random(self._seed, "order of examples", self.problem.name, str(epoch)).shuffle(order)
        for start in range(0, len(order), self._batch):
            yield order[start : start + self._batch]

    def update_best(self, record: EpochRecord, vectors: Tensor | None) -> bool:
        """Note an epoch and its vectors; return whether it is the best, or as good as the best."""
        self.trained.history.append(record)
        if record.epoch and record.dev_score < self.trained.best_score:
            self.epochs_without_improvement += 1
            return False
        self.trained.vectors = vectors
        self.trained.best_epoch = record.epoch
        self.epochs_without_improvement = 0
        return True

    def seed_of(self, what: str) -> int:
        """Return the seed of what the step that comes draws: it hangs on problem and step alone."""
        return derive_seed(self._seed, what, self.problem.name, str(self.steps))


def _vectors(states: Sequence[_State]) -> list[Tensor | None]:
    """Return a copy of each prompt's vectors on the CPU, without gradients and dropout."""
    encoders = [state.encoder for state in states if state.encoder is not None]
    with torch.no_grad():
        made = iter([vectors.float().cpu().clone() for vectors in encode(encoders)])
    return [None if state.encoder is None else next(made) for state in states]


@dataclass(frozen=True)
class _Item:
    """One training example of a step: whose it is, and its share of the loss."""

    state: int
    row: EncodedExample
    target: int
    weight: float


def _train_epoch(
    model: PromptedModel,
    states: Sequence[_State],
    loss_over_vocabulary: bool,
    cut: Callable[[Sequence[_Item]], Iterator[list[_Item]]],
    here: _Position,
    after_step: Callable[[], None],
) -> None:
    """Run each problem through the examples that the epoch has left; add up their losses.

    `cut` makes passes of the examples of a step.
    """
    tuned = any(parameter.requires_grad for parameter in model.network.parameters())
    model.network.train(tuned)
    streams = [list(state.batches(here.epoch)) for state in states]
    for step in range(here.step, max(map(len, streams), default=0)):
        items = [
            item
            for number, (state, stream) in enumerate(zip(states, streams, strict=True))
            if step < len(stream)
            for item in _items(number, state, stream[step], loss_over_vocabulary)
        ]
        passed = list(cut(items))
        losses = _backward(model, states, passed, loss_over_vocabulary, tuned=tuned)
        for state, stream in zip(states, streams, strict=True):
            if step < len(stream):
                state.steps += 1
                for optimizer in state.optimizers:
                    optimizer.step()
        # Only now: reading them waits for a GPU, which is to have its work for the step by then.
        for chosen, own in zip(passed, losses, strict=True):
            for item, loss in zip(chosen, own.tolist(), strict=True):
                here.losses[states[item.state].problem.name] += loss
        here.step = step + 1
        after_step()
    model.network.eval()


def _items(
    number: int, state: _State, chosen: Sequence[int], loss_over_vocabulary: bool
) -> Iterator[_Item]:
    questions = state.problem.train
    for i in chosen:
        target = int(questions.targets[i])
        yield _Item(
            state=number,
            row=questions.rows[i],
            target=int(questions.word_ids[target]) if loss_over_vocabulary else target,
            weight=1 / len(chosen),
        )


def _backward(
    model: PromptedModel,
    states: Sequence[_State],
    passed: Sequence[list[_Item]],
    loss_over_vocabulary: bool,
    *,
    tuned: bool,
) -> list[Tensor]:
    """Leave the gradients of one step, cut into passes; return each pass's losses of its examples.

    The encoders run once a step: the passes leave their gradients at the vectors, from where one
    backward pass takes them through the encoders.
    """
    asked = sorted({item.state for chosen in passed for item in chosen})
    encoders = {n: encoder for n in asked if (encoder := states[n].encoder) is not None}
    slot = {number: place for place, number in enumerate(encoders)}
    seeds = [states[number].seed_of("dropout") for number in encoders]
    joined = stack_prompts(encode(list(encoders.values()), seeds))
    vectors = joined.detach().requires_grad_() if joined is not None else None
    losses = []
    with torch.random.fork_rng() if tuned else nullcontext():
        if tuned:
            torch.manual_seed(states[0].seed_of("dropout of the model"))
        for chosen in passed:
            candidates = None
            if not loss_over_vocabulary:
                candidates = states[chosen[0].state].problem.train.word_ids.to(model.device)
            log_probs = ask(
                model,
                [item.row for item in chosen],
                [slot.get(item.state, 0) for item in chosen],
                vectors,
                candidates,
            )
            targets = torch.tensor([item.target for item in chosen], device=model.device)
            loss = torch.nn.functional.nll_loss(log_probs, targets, reduction="none")
            weights = torch.tensor([item.weight for item in chosen], device=model.device)
            (loss * weights).sum().backward()
            losses.append(loss.detach())
    if joined is not None and vectors is not None:
        joined.backward(vectors.grad)
    return losses


def _rows(item: _Item) -> int:
    return len(rows_of(item.row))


def _passes(
    items: Sequence[_Item], *, size: Callable[[_Item], int], most: int, by_problem: bool
) -> Iterator[list[_Item]]:
    """Yield the items of each pass: of like length, and of one problem where words differ."""
    groups: dict[int, list[_Item]] = {}
    for item in sorted(items, key=lambda item: len(item.row.token_ids)):
        groups.setdefault(item.state if by_problem else 0, []).append(item)
    for group in groups.values():
        yield from passes(group, size, most)


def _score_dev(
    model: PromptedModel,
    problem: TrainingJob,
    vectors: Tensor | None,
    epoch: int,
    train_loss: float | None,
    score: Score,
    max_rows_per_forward: int,
) -> EpochRecord:
    dev = problem.dev
    log_probs = predict(
        model, dev.rows, vectors, dev.word_ids, max_rows_per_forward=max_rows_per_forward
    )
    return EpochRecord(
        problem=problem.name,
        epoch=epoch,
        train_loss=train_loss,
        dev_loss=float(torch.nn.functional.nll_loss(log_probs, dev.targets)),
        dev_score=score(log_probs, dev.targets),
    )


def _save_weights(model: PromptedModel, path: Path) -> None:
    """Write every parameter once; tied ones under their first name."""
    save_file(
        {name: p.detach().cpu().contiguous() for name, p in model.network.named_parameters()}, path
    )


def _progress(model: PromptedModel, states: Sequence[_State], here: _Position) -> dict[str, Any]:
    """Return all that `_restore` needs; what is random hangs on counts alone."""
    weights = {
        name: parameter.detach()
        for name, parameter in model.network.named_parameters()
        if parameter.requires_grad
    }
    return {
        "position": asdict(here),
        "weights": weights,
        "problems": {
            state.problem.name: {
                **_as_dict(state.trained),
                "epochs_without_improvement": state.epochs_without_improvement,
                "steps": state.steps,
                "encoder": None if state.encoder is None else state.encoder.state_dict(),
                "optimizers": [optimizer.state() for optimizer in state.optimizers],
            }
            for state in states
        },
    }


def _restore(model: PromptedModel, states: Sequence[_State], saved: dict[str, Any]) -> _Position:
    model.network.load_state_dict(saved["weights"], strict=False)
    for state in states:
        own = saved["problems"][state.problem.name]
        state.trained = _trained(own)
        state.epochs_without_improvement = own["epochs_without_improvement"]
        state.steps = own["steps"]
        if state.encoder is not None:
            state.encoder.load_state_dict(own["encoder"])
        for optimizer, values in zip(state.optimizers, own["optimizers"], strict=True):
            optimizer.restore(values)
    return _Position(**saved["position"])


def _ended(saved: dict[str, Any]) -> dict[str, Trained]:
    return {name: _trained(state) for name, state in saved["problems"].items()}


def _as_dict(trained: Trained) -> dict[str, Any]:
    return {
        "vectors": trained.vectors,
        "best_epoch": trained.best_epoch,
        "history": [asdict(record) for record in trained.history],
    }


def _trained(own: dict[str, Any]) -> Trained:
    history = [EpochRecord(**record) for record in own["history"]]
    return Trained(own["vectors"], own["best_epoch"], history)
