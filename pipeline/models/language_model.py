"""Masked and causal language models that score words at one position of a row.

`PromptedModel` takes rows with prompt vectors and returns the scores of words at the answer, or of
answers of several tokens. It is the only class that depends on the model family. The vocabulary
head runs only at answer positions, and only over the candidate words.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from pipeline.errors import ModelError
from pipeline.models.encoding import NO_SLOT, Row
from pipeline.models.packing import Batch, PackedExample, RowKind, pack, pad, upload
from pipeline.models.tokenizer import PieceTokenizer
from pipeline.seeding import derive_seed

# Name of the classification head within the network.
_CLASSIFIER = "answer_classifier"


class PromptedModel:
    """A masked or causal language model that answers at one position of each row.

    Attributes:
        network: the transformers model, in evaluation mode.
        codec: its tokenizer.
        masked: whether it reads the answer at a mask token.
        mixed: whether it computes in bfloat16 with weights in single precision.
        max_length: most positions of a row.
        packs: whether a sequence may have several rows: whether the network heeds a mask of four
            dimensions and position ids.
    """

    def __init__(
        self, network: PreTrainedModel, codec: PieceTokenizer, *, masked: bool, mixed: bool = False
    ) -> None:
        """Take a model and check that its answers equal its own full forward pass.

        Raises:
            ModelError: the vocabulary head gives other scores here than in the model.
        """
        self.network = network.eval()
        self.codec = codec
        self.masked = masked
        self.mixed = mixed
        self.max_length: int = getattr(network.config, "max_position_embeddings", 512)
        self._first_position = 0
        if network.config.model_type in ("roberta", "xlm-roberta", "camembert"):
            self._first_position = network.config.pad_token_id + 1
            self.max_length -= self._first_position
        self._transform = _head_transform(network) if masked else nn.Identity()
        self._output: nn.Linear = network.get_output_embeddings()
        self._check_against_network()
        self.packs = self._check_packing()

    def add_classifier(self, outputs: int, *, seed: int) -> None:
        """Read answers with a new classification head from now on, not with the vocabulary head.

        The head is a part of `network`, so that it is trained, saved and loaded with it: dropout
        and a linear layer, for a masked model behind a dense layer with tanh (BERT's pooler).

        Args:
            outputs: number of labels; 1 scores each of an example's own answers.
            seed: the seed of `params.yaml`; the same one gives the same weights.
        """
        size: int = self.network.config.hidden_size
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(seed, "classifier"))
            pooler = [nn.Linear(size, size), nn.Tanh()] if self.masked else []
            head = nn.Sequential(*pooler, nn.Dropout(0.1), nn.Linear(size, outputs))
            for layer in head:
                if isinstance(layer, nn.Linear):
                    nn.init.normal_(layer.weight, std=0.02)
                    nn.init.zeros_(layer.bias)
        self.network.add_module(
            _CLASSIFIER, head.to(self.device, self.input_embeddings.dtype).eval()
        )

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        device: torch.device = self.network.device
        return device

    @property
    def input_embeddings(self) -> Tensor:
        """(vocabulary, embedding size): the input embeddings, not a copy."""
        weight: Tensor = self.network.get_input_embeddings().weight
        return weight

    @property
    def has_dropout(self) -> bool:
        """Whether the network drops units at random when it is trained."""
        return any(
            isinstance(value, float) and value > 0
            for name, value in self.network.config.to_dict().items()
            # That of the classifiers of transformers is not used.
            if ("dropout" in name and "classifier" not in name) or name.endswith("pdrop")
        )

    @property
    def kind(self) -> RowKind:
        """What packing depends on."""
        return RowKind(causal=not self.masked, pad_id=self.codec.pad_id)

    def log_probs(
        self, batch: Batch, prompts: Tensor | None, candidates: Tensor | None = None
    ) -> Tensor:
        """Score words at the answer of each row.

        Args:
            batch: rows that score words at one position.
            prompts: (prompts, longest, embedding size) float, vectors of the prompt tokens; None
                where no row has any. Gradients reach them.
            candidates: (words,) int64, ids of the allowed words; None allows the vocabulary.

        Returns:
            (rows, words) float32: log-probabilities among the allowed words; of a model with a
            classifier, among its labels, whatever `candidates` are.
        """
        with self._precision():
            scores = self._scores(self._read(batch, prompts), candidates)
        return scores.log_softmax(dim=1)

    def choice_scores(self, batch: Batch, prompts: Tensor | None) -> Tensor:
        """Score the answer that each row has written out.

        Args:
            batch: rows with `answer_ids`; rows as a whole for a model with a classifier.
            prompts: as in `log_probs`.

        Returns:
            (rows,) float32: the mean log-probability of the answer's tokens, so that a long answer
            is no worse than a short one; of a model with a classifier, its score.
        """
        with self._precision():
            scores = self._scores(self._read(batch, prompts), None)
        if not len(batch.answer_ids):
            return scores.squeeze(1)
        log_probs = scores.log_softmax(dim=1).gather(1, batch.answer_ids.unsqueeze(1)).squeeze(1)
        # index_add, as its order of summing is fixed on a CPU: the same bits every time.
        sums = log_probs.new_zeros(2, batch.rows)
        both = torch.stack([log_probs, torch.ones_like(log_probs)])
        total, count = sums.index_add(1, batch.read_rows, both)
        mean: Tensor = total / count
        return mean

    def _read(self, batch: Batch, prompts: Tensor | None) -> Tensor:
        """Return (reads, hidden size): the last layer where answers are read."""
        embeds = self.network.get_input_embeddings()(batch.tokens.clamp(min=0))
        if prompts is not None:
            # As an embedding lookup: the gradient of plain indexing is summed in an order that
            # differs from run to run.
            places = (-1 - batch.tokens).clamp(min=0)
            vectors = nn.functional.embedding(places, prompts.flatten(0, 1))
            embeds = torch.where((batch.tokens < 0).unsqueeze(2), vectors.to(embeds.dtype), embeds)
        options: dict[str, Any] = {} if self.masked else {"use_cache": False}
        if batch.packed:
            options["attention_mask"] = batch.mask
            options["position_ids"] = batch.positions + self._first_position
        elif self.masked:
            # The first position of a row is seen by all of it; of padding, only by itself.
            options["attention_mask"] = (batch.seen_from == 0).long()
        hidden: Tensor = self.network.base_model(inputs_embeds=embeds, **options)[0]
        return nn.functional.embedding(batch.reads, hidden.flatten(0, 1))

    def _scores(self, answers: Tensor, candidates: Tensor | None) -> Tensor:
        """Return (answers, words or labels) float32 of (answers, hidden size).

        The last product is of single precision whatever the network's is: in bfloat16 the best
        words of a row often tie, and the first of them would win.
        """
        with torch.autocast(self.device.type, enabled=False):
            answers = answers.to(self.input_embeddings.dtype)
            classifier = getattr(self.network, _CLASSIFIER, None)
            if classifier is not None:
                scores: Tensor = classifier(answers)
                return scores.float()
            weight: Tensor = self._output.weight
            bias: Tensor | None = self._output.bias
            if candidates is not None:
                weight = weight[candidates]
                bias = bias[candidates] if bias is not None else None
            return nn.functional.linear(
                self._transform(answers).float(),
                weight.float(),
                bias.float() if bias is not None else None,
            )

    def _precision(self) -> AbstractContextManager[object]:
        """The context in which the network computes."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.mixed)

    @torch.no_grad()
    def _check_against_network(self) -> None:
        """Compare with the model's own forward pass on two short rows of different length."""
        layout = pad(self._rows_to_check(), [0, 1], self.kind)
        (batch,) = upload([layout], self.device)
        ours = self.log_probs(batch, None)
        ids = batch.tokens
        attention_mask = torch.ones_like(ids)
        attention_mask[1, 6:] = 0
        with self._precision():
            logits = self.network(input_ids=ids, attention_mask=attention_mask).logits
        theirs = logits[torch.arange(2), torch.tensor([7, 5])].float().log_softmax(dim=1)
        if not _close(ours, theirs, logits.dtype):
            raise ModelError(
                f"the head of model type '{self.network.config.model_type}' works in a way that "
                "pipeline/models/language_model.py does not know; add it to _head_transform"
            )

    @torch.no_grad()
    def _check_packing(self) -> bool:
        """Compare rows that share a sequence with the same rows in sequences of their own."""
        rows = self._rows_to_check()
        (packed,) = pack(rows, self.kind, length=16, max_tokens=None)
        apart, together = upload([pad(rows, packed.examples, self.kind), packed], self.device)
        expected = self.log_probs(apart, None)
        try:
            found = self.log_probs(together, None)
        except (RuntimeError, TypeError, ValueError):  # it takes no such mask, or no positions
            return False
        return _close(found, expected, self.input_embeddings.dtype)

    def _rows_to_check(self) -> list[PackedExample]:
        """Two rows of 8 and of 6 positions; they begin alike."""
        known = [i for i in range(len(self.input_embeddings)) if i != self.codec.pad_id]
        first, second = known[-8:], [*known[-8:-4], *known[-2:]]
        rows = [Row(tuple(ids), (NO_SLOT,) * len(ids), len(ids) - 1) for ids in (first, second)]
        return [PackedExample.of(row, 0) for row in rows]


def nonfinite_weight(network: nn.Module) -> str | None:
    """Name of the first weight that contains NaN or infinity; None if all are finite."""
    names, weights = zip(*network.named_parameters(), strict=True)
    # A sum is finite only if all its terms are. All sums are read from the device at once.
    sums = torch.stack([weight.detach().sum(dtype=torch.float32) for weight in weights])
    finite = sums.isfinite().tolist()
    return None if all(finite) else str(names[finite.index(False)])


def _close(ours: Tensor, theirs: Tensor, dtype: torch.dtype) -> bool:
    tolerance = 1e-3 if dtype == torch.float32 else 0.1
    return torch.allclose(ours, theirs, atol=tolerance, rtol=tolerance)


def _head_transform(network: Any) -> Callable[[Tensor], Tensor]:
    """The layers of a masked model between its last hidden state and its word scores."""
    model_type = network.config.model_type
    if model_type == "bert":
        transform: Callable[[Tensor], Tensor] = network.cls.predictions.transform
        return transform
    if model_type in ("roberta", "xlm-roberta", "camembert"):
        head = network.lm_head
        return lambda hidden: head.layer_norm(nn.functional.gelu(head.dense(hidden)))
    if model_type == "albert":
        head = network.predictions
        return lambda hidden: head.LayerNorm(head.activation(head.dense(hidden)))
    raise ModelError(
        f"model type '{model_type}' is not supported; supported masked models: albert, bert, "
        "camembert, roberta, xlm-roberta (pipeline/models/language_model.py, _head_transform)"
    )
