"""A plain loop, which the prompt bank is measured against: one relation after the other.

A step pads its rows, places the prompt vectors, runs the model with its vocabulary head, and
updates the encoder with torch's optimizer. Dev and test are scored in batches of the same size.
Start, order of examples, optimizer, schedule, loss and metric are the bank's, so that the results
are equal. It is how THUDM/P-tuning (LAMA/cli.py) trains, without what its code does needlessly:
it sorts the vocabulary and takes the loss at every position, and places vectors one by one.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, embedding
from torch.nn.utils import clip_grad_norm_
from torch.nn.utils.rnn import pad_sequence

from benchmarks.facts import Relation
from pipeline.config.schema import MethodParams
from pipeline.models.dataset import PromptDataset
from pipeline.models.encoding import NO_SLOT
from pipeline.models.language_model import PromptedModel
from pipeline.seeding import make_random
from pipeline.training.loop import EpochRecord, TrainingResult
from pipeline.training.optimizers import lr_lambda
from pipeline.training.prompt_encoders import make_encoder


class PlainLoop:
    """The training of one relation."""

    def __init__(self, model: PromptedModel, relation: Relation, config: MethodParams) -> None:
        """Create the encoder and its optimizer; `config` has a prompt and no model to tune."""
        assert config.prompt is not None
        model.network.requires_grad_(False)
        self._model, self._config, self._prompt = model, config, config.prompt
        self._job = job = relation.job
        self._allowed = job.train.word_ids.to(model.device)
        self._encoder = make_encoder(
            self._prompt, job.prompt_tokens, model.input_embeddings, seed=job.seed, name=job.name
        ).to(model.device)
        parameters = list(self._encoder.parameters())
        decayed = [p for p in parameters if p.ndim > 1]
        others = [p for p in parameters if p.ndim <= 1]
        kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[self._prompt.optimizer]
        self._optimizer = kind(
            [
                {"params": decayed, "weight_decay": self._prompt.weight_decay},
                {"params": others, "weight_decay": 0.0},
            ],
            lr=self._prompt.learning_rate,
        )
        steps = -(-len(job.train.rows) // config.batch_size)
        self._schedule = torch.optim.lr_scheduler.LambdaLR(
            self._optimizer,
            lambda step: lr_lambda(self._prompt, step, epochs=config.epochs, steps_per_epoch=steps),
        )

    def train(self) -> TrainingResult:
        """Score dev before and after each epoch; keep the vectors of the best one."""
        result = TrainingResult()
        for epoch in range(self._config.epochs + 1):
            train_loss = self.train_epoch(epoch) if epoch else None
            record = EpochRecord(epoch, train_loss, *self.score_dev())
            result.history.append(record)
            if record.dev_score >= result.best_score:
                result.vectors, result.best_epoch = self._encode().detach().cpu(), epoch
        return result

    def train_epoch(self, epoch: int) -> float:
        """Take the steps of an epoch; return the mean loss in nats."""
        data, size = self._job.train, self._config.batch_size
        order = list(range(len(data.rows)))
        make_random(self._job.seed, "order of examples", self._job.name, str(epoch)).shuffle(order)
        total = torch.zeros((), device=self._model.device)
        for start in range(0, len(order), size):
            chosen = order[start : start + size]
            targets = self._allowed[data.targets[chosen].to(self._model.device)]
            loss = cross_entropy(self._logits(data, chosen), targets)
            loss.backward()
            if self._prompt.max_grad_norm is not None:
                clip_grad_norm_(self._encoder.parameters(), self._prompt.max_grad_norm)
            self._optimizer.step()
            self._optimizer.zero_grad()
            self._schedule.step()
            total += loss.detach() * len(chosen)
        return float(total) / len(order)

    def score_dev(self) -> tuple[float, float]:
        """The mean loss in nats, and P@1, among the allowed words."""
        return self._score(self._job.dev)

    def score_test(self, data: PromptDataset) -> tuple[float, float]:
        """As `score_dev`, with the present vectors."""
        return self._score(data)

    @torch.no_grad()
    def _score(self, data: PromptDataset) -> tuple[float, float]:
        found = []
        for start in range(0, len(data.rows), self._config.batch_size):
            chosen = range(start, min(start + self._config.batch_size, len(data.rows)))
            found.append(self._logits(data, chosen)[:, self._allowed].log_softmax(dim=1))
        log_probs, targets = torch.cat(found), data.targets.to(self._model.device)
        right = log_probs.argmax(dim=1) == targets
        return float(cross_entropy(log_probs, targets)), int(right.sum()) / len(right)

    def _encode(self) -> Tensor:
        """Run the encoder by torch's own modules."""
        vectors: Tensor = self._encoder.mlp(self._encoder.lstm(self._encoder.embedding.weight)[0])
        return vectors

    def _logits(self, data: PromptDataset, chosen: Sequence[int]) -> Tensor:
        """(rows, vocabulary) float32: the scores at the answer of some rows."""
        model, rows = self._model, [data.rows[i].rows[0] for i in chosen]

        def padded(values: Sequence[Sequence[int]], filling: int) -> Tensor:
            tensors = [torch.tensor(value) for value in values]
            return pad_sequence(tensors, batch_first=True, padding_value=filling).to(model.device)

        slots = padded([row.slots for row in rows], NO_SLOT)
        token_ids = padded([row.token_ids for row in rows], model.codec.pad_id)
        embeds = model.network.get_input_embeddings()(token_ids)
        vectors = embedding(slots.clamp(min=0), self._encode().to(embeds.dtype))
        logits: Tensor = model.network(
            inputs_embeds=torch.where((slots == NO_SLOT).unsqueeze(2), embeds, vectors),
            attention_mask=padded([[1] * len(row.token_ids) for row in rows], 0),
            **({} if model.masked else {"use_cache": False}),
        ).logits
        answers = torch.tensor([row.answer_position for row in rows], device=model.device)
        return logits[torch.arange(len(rows), device=model.device), answers].float()
