"""A plain loop in the style of the released P-tuning code: one relation after the other.

It is what the prompt bank is measured against. Each step tokenizes its rows, puts the prompt
vectors into the embeddings one by one, runs the whole model with its vocabulary head at every
position, and finds the best allowed word by sorting the whole vocabulary. Start, order of examples,
optimizer, position of the loss and metric are the bank's, so that the results are equal.

Source: how THUDM/P-tuning, LAMA/p_tuning/modeling.py and LAMA/cli.py work; the code here is new.
Left on purpose: for GPT the released loss reads one position before the one that the score reads;
here both read the position before the answer. The released code also sorts at every position and
takes the loss over every position; here that is the switch `every_position`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, embedding
from torch.nn.utils import clip_grad_norm_
from torch.nn.utils.rnn import pad_sequence

from pipeline.config.schema import MethodParams
from pipeline.models.dataset import PromptDataset
from pipeline.models.encoding import NO_SLOT, build_row
from pipeline.models.language_model import PromptedModel
from pipeline.prompts.template import Template
from pipeline.seeding import make_random
from pipeline.training.loop import EpochRecord, TrainingJob, TrainingResult
from pipeline.training.optimizers import lr_lambda
from pipeline.training.prompt_encoders import make_encoder

_NO_LABEL = -100


@dataclass(frozen=True)
class Relation:
    """A relation for both sides; `job` has the facts of the subjects, in the same order."""

    template: Template
    train_subjects: list[str]
    dev_subjects: list[str]
    job: TrainingJob


@dataclass(frozen=True)
class Switches:
    """Where the loop differs from the plain one; none of them changes a result.

    Attributes:
        every_position: loss and sorting run over every position of a row, as in the released code.
        answer_head: the vocabulary head runs only at the answer.
        placed_at_once: all prompt vectors are placed by one operation.
        best_allowed: the best word is the largest score among the allowed words.
    """

    every_position: bool = False
    answer_head: bool = False
    placed_at_once: bool = False
    best_allowed: bool = False


@dataclass(frozen=True)
class Batch:
    """Rows padded at their end: (rows, length) int64 each, and (rows,) where answers are read."""

    token_ids: Tensor
    slots: Tensor
    attention_mask: Tensor
    answer_positions: Tensor


def train_one_by_one(
    model: PromptedModel, relations: Sequence[Relation], config: MethodParams, switches: Switches
) -> dict[str, TrainingResult]:
    """Train the prompt of each relation, one after the other; all epochs of `config` are run.

    Returns:
        Relation name -> its result, as `pipeline.training.loop.train` returns it.
    """
    model.network.requires_grad_(False)
    return {r.job.name: _Run(model, r, config, switches).train() for r in relations}


class _Run:
    """The training of one relation."""

    def __init__(
        self,
        model: PromptedModel,
        relation: Relation,
        config: MethodParams,
        switches: Switches,
    ) -> None:
        assert config.prompt is not None
        self._model = model
        self._relation = relation
        self._config = config
        self._prompt = config.prompt
        self._batch = config.batch_size
        self._seed = relation.job.seed
        self._switches = switches
        self._allowed = relation.job.train.word_ids.to(model.device)
        self._allowed_set = set(self._allowed.tolist())
        self._encoder = make_encoder(
            config.prompt,
            relation.template.prompt_tokens,
            model.input_embeddings,
            seed=self._seed,
            name=relation.job.name,
        ).to(model.device)

    def train(self) -> TrainingResult:
        """Score dev, then train and score dev in turns."""
        epochs = self._config.epochs
        questions = self._relation.job.train
        count = len(questions.rows)
        steps = -(-count // self._batch)
        optimizer, schedule = self._optimizer(epochs, steps)
        trained = TrainingResult()
        self._keep_if_best(trained, self._score_dev(0, None))
        for epoch in range(1, epochs + 1):
            order = list(range(count))
            name = self._relation.job.name
            make_random(self._seed, "order of examples", name, str(epoch)).shuffle(order)
            total = 0.0
            for start in range(0, count, self._batch):
                chosen = order[start : start + self._batch]
                loss, _, _ = self._answer(self._relation.train_subjects, questions, chosen)
                loss.backward()
                if self._prompt.max_grad_norm is not None:
                    clip_grad_norm_(self._encoder.parameters(), self._prompt.max_grad_norm)
                optimizer.step()
                optimizer.zero_grad()
                schedule.step()
                total += loss.item() * len(chosen)
            self._keep_if_best(trained, self._score_dev(epoch, total / count))
        return trained

    def _optimizer(
        self, epochs: int, steps: int
    ) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LambdaLR]:
        config, parameters = self._prompt, list(self._encoder.parameters())
        groups = [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": config.weight_decay},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]
        kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[config.optimizer]
        optimizer = kind(groups, lr=config.learning_rate)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: lr_lambda(config, step, epochs=epochs, steps_per_epoch=steps)
        )
        return optimizer, schedule

    @torch.no_grad()
    def _score_dev(self, epoch: int, train_loss: float | None) -> EpochRecord:
        questions = self._relation.job.dev
        count = len(questions.rows)
        hits, loss = 0, 0.0
        for start in range(0, count, self._batch):
            chosen = list(range(start, min(start + self._batch, count)))
            _, right, log_probs = self._answer(self._relation.dev_subjects, questions, chosen)
            hits += right
            targets = questions.targets[chosen].to(self._model.device)
            loss -= float(log_probs.gather(1, targets.unsqueeze(1)).sum())
        return EpochRecord(epoch, train_loss, loss / count, hits / count)

    @torch.no_grad()
    def _keep_if_best(self, trained: TrainingResult, record: EpochRecord) -> None:
        trained.history.append(record)
        if record.epoch == 0 or record.dev_score >= trained.best_score:
            trained.vectors = self._encode().float().cpu().clone()
            trained.best_epoch = record.epoch

    def _encode(self) -> Tensor:
        """Run the encoder as released: by torch's own modules."""
        vectors: Tensor = self._encoder.mlp(self._encoder.lstm(self._encoder.embedding.weight)[0])
        return vectors

    def _answer(
        self, subjects: list[str], questions: PromptDataset, chosen: list[int]
    ) -> tuple[Tensor, int, Tensor]:
        """The loss, the hits and the (rows, words) log-probabilities of some facts."""
        batch = self._rows([subjects[i] for i in chosen])
        target_ids = self._allowed[questions.targets[chosen].to(self._model.device)]
        at_answer = (torch.arange(len(chosen)), batch.answer_positions)
        inputs = {"inputs_embeds": self._embed(batch), "attention_mask": batch.attention_mask}
        if not self._model.masked:
            inputs["use_cache"] = False
        network = self._model.network
        if self._switches.answer_head:
            head = next(part for name, part in network.named_children() if name in _HEADS)
            logits = head(network.base_model(**inputs)[0][at_answer])
        else:
            everywhere = network(**inputs).logits
            logits = everywhere[at_answer]
        if self._switches.every_position:
            loss = _loss_everywhere(everywhere, batch, target_ids)
            ranked = everywhere.argsort(dim=2, descending=True)[at_answer]
        else:
            loss = cross_entropy(logits.float(), target_ids)
            ranked = None if self._switches.best_allowed else logits.argsort(1, descending=True)
        if ranked is None:
            best = self._allowed[logits[:, self._allowed].argmax(dim=1)]
            hits = int((best == target_ids).sum())
        else:
            hits = sum(
                next(word for word in row if word in self._allowed_set) == target
                for row, target in zip(map(Tensor.tolist, ranked), target_ids, strict=True)
            )
        log_probs = logits.detach()[:, self._allowed].float().log_softmax(dim=1)
        return loss, hits, log_probs

    def _rows(self, subjects: list[str]) -> Batch:
        codec = self._model.codec
        rows = [
            build_row(
                self._relation.template,
                {"subject": subject},
                codec,
                masked=self._model.masked,
                max_length=self._model.max_length,
            )
            for subject in subjects
        ]
        device = self._model.device

        def padded(values: list[tuple[int, ...]], filling: int) -> Tensor:
            tensors = [torch.tensor(value) for value in values]
            return pad_sequence(tensors, batch_first=True, padding_value=filling).to(device)

        return Batch(
            padded([row.token_ids for row in rows], codec.pad_id),
            padded([row.slots for row in rows], NO_SLOT),
            padded([(1,) * len(row.token_ids) for row in rows], 0),
            torch.tensor([row.answer_position for row in rows], device=device),
        )

    def _embed(self, batch: Batch) -> Tensor:
        """Return (rows, length, size): embeddings with the prompt vectors in their places."""
        embeds: Tensor = self._model.network.get_input_embeddings()(batch.token_ids)
        vectors = self._encode().to(embeds.dtype)
        is_prompt = batch.slots != NO_SLOT
        if self._switches.placed_at_once:
            placed = embedding(batch.slots.clamp(min=0), vectors)
            return torch.where(is_prompt.unsqueeze(2), placed, embeds)
        count = len(vectors)
        places = is_prompt.nonzero().reshape(len(batch.slots), count, 2)[:, :, 1]
        for row in range(len(batch.slots)):
            for slot in range(count):
                embeds[row, places[row, slot], :] = vectors[slot]
        return embeds


# What a model's vocabulary head is called: causal models and RoBERTa, BERT, ALBERT.
_HEADS = ("lm_head", "cls", "predictions")


def _loss_everywhere(logits: Tensor, batch: Batch, target_ids: Tensor) -> Tensor:
    labels = torch.full_like(batch.token_ids, _NO_LABEL)
    labels.scatter_(1, batch.answer_positions.unsqueeze(1), target_ids.unsqueeze(1))
    return cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), ignore_index=_NO_LABEL)
