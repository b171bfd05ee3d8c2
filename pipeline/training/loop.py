"""The one training loop: many prompts at once with a frozen model, or one with the model tuned.

Prompts that train together share the passes through the language model and nothing else. Each has
its own encoder, optimiser, schedule, order of examples, early stopping and best epoch, so it ends
as it would have ended alone.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from pipeline.models.answers import AnswerModel
from pipeline.models.predict import predict
from pipeline.models.questions import Questions
from pipeline.models.rows import Row, collate
from pipeline.prompts.bank import make_encoder, stack_prompts
from pipeline.prompts.encoders import PromptEncoder
from pipeline.seeding import derive_seed, make_random
from pipeline.training.optimisers import Optimiser, OptimiserSettings

Score = Callable[[Tensor, Tensor], float]


@dataclass(frozen=True)
class Problem:
    """One prompt to train.

    Attributes:
        name: of the relation or task; its randomness hangs on it.
        prompt_tokens: number of prompt tokens in the template.
        train: the examples to learn from.
        dev: the examples that choose the epoch.
    """

    name: str
    prompt_tokens: int
    train: Questions
    dev: Questions


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
    model: AnswerModel,
    problems: Sequence[Problem],
    *,
    score: Score,
    loss_over_vocabulary: bool,
    epochs: int,
    batch: int,
    patience: int,
    encoder: str | None,
    dropout: float,
    prompt_optimiser: OptimiserSettings | None,
    model_optimiser: OptimiserSettings | None,
    best_weights: Path,
    rows_per_pass: int,
    seed: int,
    on_epoch: Callable[[EpochRecord], None],
) -> dict[str, Trained]:
    """Train the prompts of some problems, the model, or both; or score dev once.

    Args:
        model: the language model. Its weights change where `model_optimiser` is given, and stay
            bit-equal where it is not.
        problems: with different names.
        score: log-probabilities (examples, words) and targets (examples,) -> a number; its
            value on dev chooses the epoch.
        loss_over_vocabulary: whether the right word competes with the whole vocabulary in the
            loss (LAMA) or with the allowed words (label words, as in PET).
        epochs: most epochs; 0 scores dev and trains nothing.
        batch: examples of each problem in a step.
        patience: a problem stops after so many epochs in a row below its best dev score.
        encoder: of the prompts; None where prompts are not trained.
        dropout: within the encoder.
        prompt_optimiser: for each problem's encoder; None where prompts are not trained.
        model_optimiser: for the language model; None leaves it frozen.
        best_weights: where the tuned model's weights of the best epoch are written (safetensors);
            not touched where the model is frozen.
        rows_per_pass: most rows of one pass; it changes memory and speed, not the result. A
            tuned model may have dropout, so there a step is one pass.
        seed: with the problem's name, of all that is random.
        on_epoch: called after each epoch of each problem.

    Returns:
        problem name -> how it ended.

    Raises:
        ValueError: the model is to be tuned for several problems at once.
    """
    if model_optimiser is not None and len(problems) != 1:
        raise ValueError("a tuned model belongs to one problem: train the problems one by one")
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
        states.append(_State(problem, prompt_encoder, batch=batch, seed=seed))
    model.network.requires_grad_(model_optimiser is not None)
    for state in states:
        state.take_optimisers(model, prompt_optimiser, model_optimiser, epochs=epochs)

    if model_optimiser is not None:
        rows_per_pass = max(rows_per_pass, batch)
    with torch.random.fork_rng():
        torch.manual_seed(derive_seed(seed, "dropout of the model", *(p.name for p in problems)))
        for epoch in range(epochs + 1):
            active = [state for state in states if state.rounds_below_best < patience]
            losses = (
                _train_epoch(model, active, loss_over_vocabulary, rows_per_pass)
                if epoch
                else [None] * len(active)
            )
            for state, loss in zip(active, losses, strict=True):
                record = _score_dev(model, state, epoch, loss, score, rows_per_pass)
                if state.keep_if_best(record) and model_optimiser is not None and epochs:
                    _save_weights(model, best_weights)
                on_epoch(record)
    return {state.problem.name: state.trained for state in states}


class _State:
    """What belongs to one problem while it trains."""

    def __init__(
        self, problem: Problem, encoder: PromptEncoder | None, *, batch: int, seed: int
    ) -> None:
        self.problem = problem
        self.encoder = encoder
        self.optimisers: list[Optimiser] = []
        self.trained = Trained()
        self.rounds_below_best = 0
        self._batch = batch
        self._order = make_random(seed, "order of examples", problem.name)
        self._steps = 0
        self._seed = seed

    def take_optimisers(
        self,
        model: AnswerModel,
        prompt: OptimiserSettings | None,
        network: OptimiserSettings | None,
        *,
        epochs: int,
    ) -> None:
        steps = -(-len(self.problem.train.rows) // self._batch)
        if prompt is not None and self.encoder is not None:
            self.optimisers.append(
                Optimiser(self.encoder.parameters(), prompt, epochs=epochs, steps_per_epoch=steps)
            )
        if network is not None:
            self.optimisers.append(
                Optimiser(model.network.parameters(), network, epochs=epochs, steps_per_epoch=steps)
            )

    def batches(self) -> Iterator[list[int]]:
        """Yield positions of examples, each once, in a new random order."""
        order = list(range(len(self.problem.train.rows)))
        self._order.shuffle(order)
        for start in range(0, len(order), self._batch):
            yield order[start : start + self._batch]

    def encode(self) -> Tensor | None:
        """Return the prompt's vectors for a step of training: with gradients, and dropout.

        The dropout of a step hangs on the problem and the step alone.
        """
        if self.encoder is None:
            return None
        self._steps += 1
        with torch.random.fork_rng():
            name = self.problem.name
            torch.manual_seed(derive_seed(self._seed, "dropout", name, str(self._steps)))
            vectors: Tensor = self.encoder.train()()
            return vectors

    def vectors(self) -> Tensor | None:
        """Return a copy of the prompt's vectors on the CPU, without gradients and dropout."""
        if self.encoder is None:
            return None
        with torch.no_grad():
            vectors: Tensor = self.encoder.eval()()
            return vectors.float().cpu().clone()

    def keep_if_best(self, record: EpochRecord) -> bool:
        """Note an epoch; return whether it is the best so far, or as good as the best."""
        self.trained.history.append(record)
        if record.epoch and record.dev_score < self.trained.best_score:
            self.rounds_below_best += 1
            return False
        self.trained.vectors = self.vectors()
        self.trained.best_epoch = record.epoch
        self.rounds_below_best = 0
        return True


@dataclass(frozen=True)
class _Item:
    """One training example of a step: whose it is, and its share of the loss."""

    state: int
    row: Row
    target: int
    weight: float


def _train_epoch(
    model: AnswerModel,
    states: Sequence[_State],
    loss_over_vocabulary: bool,
    rows_per_pass: int,
) -> list[float]:
    """Run each problem through its examples once; return each problem's mean loss."""
    tuned = any(parameter.requires_grad for parameter in model.network.parameters())
    model.network.train(tuned)
    totals = [0.0] * len(states)
    streams = [list(state.batches()) for state in states]
    for step in range(max(map(len, streams), default=0)):
        items = [
            item
            for number, (state, stream) in enumerate(zip(states, streams, strict=True))
            if step < len(stream)
            for item in _items(number, state, stream[step], loss_over_vocabulary)
        ]
        for number, loss in _backward(model, states, items, loss_over_vocabulary, rows_per_pass):
            totals[number] += loss
        for state, stream in zip(states, streams, strict=True):
            if step < len(stream):
                for optimiser in state.optimisers:
                    optimiser.step()
    model.network.eval()
    return [
        total / len(state.problem.train.rows) for total, state in zip(totals, states, strict=True)
    ]


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
    model: AnswerModel,
    states: Sequence[_State],
    items: list[_Item],
    loss_over_vocabulary: bool,
    rows_per_pass: int,
) -> list[tuple[int, float]]:
    """Leave the gradients of one step; return each example's problem and loss.

    The encoders run once a step: the passes leave their gradients at the vectors, from where one
    backward pass takes them through the encoders.
    """
    encoded = {n: states[n].encode() for n in sorted({item.state for item in items})}
    with_prompt = {n: vectors for n, vectors in encoded.items() if vectors is not None}
    slot = {number: place for place, number in enumerate(with_prompt)}
    joined = stack_prompts(list(with_prompt.values()))
    vectors = joined.detach().requires_grad_() if joined is not None else None
    losses = []
    for chosen in _passes(items, rows_per_pass, by_problem=not loss_over_vocabulary):
        batch = collate(
            [item.row for item in chosen],
            [slot.get(item.state, 0) for item in chosen],
            pad_id=model.codec.pad_id,
            device=model.device,
        )
        candidates = None
        if not loss_over_vocabulary:
            candidates = states[chosen[0].state].problem.train.word_ids.to(model.device)
        log_probs = model.log_probs(batch, vectors, candidates)
        targets = torch.tensor([item.target for item in chosen], device=model.device)
        loss = torch.nn.functional.nll_loss(log_probs, targets, reduction="none")
        weights = torch.tensor([item.weight for item in chosen], device=model.device)
        (loss * weights).sum().backward()
        losses += [(item.state, value) for item, value in zip(chosen, loss.tolist(), strict=True)]
    if joined is not None and vectors is not None:
        joined.backward(vectors.grad)
    return losses


def _passes(
    items: Sequence[_Item], rows_per_pass: int, *, by_problem: bool
) -> Iterator[list[_Item]]:
    """Yield the items of each pass: of like length, and of one problem where words differ."""
    groups: dict[int, list[_Item]] = {}
    for item in sorted(items, key=lambda item: len(item.row.token_ids)):
        groups.setdefault(item.state if by_problem else 0, []).append(item)
    for group in groups.values():
        for start in range(0, len(group), rows_per_pass):
            yield group[start : start + rows_per_pass]


def _score_dev(
    model: AnswerModel,
    state: _State,
    epoch: int,
    train_loss: float | None,
    score: Score,
    rows_per_pass: int,
) -> EpochRecord:
    dev = state.problem.dev
    log_probs = predict(model, dev.rows, state.vectors(), dev.word_ids, rows_per_pass=rows_per_pass)
    return EpochRecord(
        problem=state.problem.name,
        epoch=epoch,
        train_loss=train_loss,
        dev_loss=float(torch.nn.functional.nll_loss(log_probs, dev.targets)),
        dev_score=score(log_probs, dev.targets),
    )


def _save_weights(model: AnswerModel, path: Path) -> None:
    """Write every parameter once; tied ones under their first name."""
    save_file(
        {name: p.detach().cpu().contiguous() for name, p in model.network.named_parameters()}, path
    )
