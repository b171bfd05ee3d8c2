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
from pipeline.models.encoding import NO_ANSWER, NO_SLOT, Batch
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
        if network.config.model_type in ("roberta", "xlm-roberta", "camembert"):
            self.max_length -= network.config.pad_token_id + 1  # their positions begin behind it
        self._transform = _head_transform(network) if masked else nn.Identity()
        self._output: nn.Linear = network.get_output_embeddings()
        self._check_against_network()

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

    def log_probs(
        self, batch: Batch, prompts: Tensor | None, candidates: Tensor | None = None
    ) -> Tensor:
        """Score words at the answer of each row.

        Args:
            batch: rows of `collate`.
            prompts: (prompts, longest, embedding size) float, vectors of the prompt tokens; None
                where no row has any. Gradients reach them.
            candidates: (words,) int64, ids of the allowed words; None allows the vocabulary.

        Returns:
            (rows, words) float32: log-probabilities among the allowed words; of a model with a
            classifier, among its labels, whatever `candidates` are.
        """
        with self._precision():
            hidden = self._hidden(batch, prompts)
            rows = torch.arange(len(hidden), device=hidden.device)
            scores = self._scores(hidden[rows, batch.answer_positions], candidates)
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
            hidden = self._hidden(batch, prompts)
            if batch.answer_ids is None:
                rows = torch.arange(len(hidden), device=hidden.device)
                return self._scores(hidden[rows, batch.answer_positions], None).squeeze(1)
            present = batch.answer_ids != NO_ANSWER
            row, place = present.nonzero(as_tuple=True)
            scores = self._scores(hidden[row, batch.answer_positions[row] + place], None)
        log_probs = scores.log_softmax(dim=1)
        tokens = batch.answer_ids[row, place].unsqueeze(1)
        # index_add, as its order of summing is fixed on a CPU: the same bits every time.
        total = torch.zeros(len(hidden), device=hidden.device)
        total = total.index_add(0, row, log_probs.gather(1, tokens).squeeze(1))
        return total / present.sum(dim=1)

    def _hidden(self, batch: Batch, prompts: Tensor | None) -> Tensor:
        """Return (rows, length, hidden size): the last layer, prompt vectors in their places."""
        embeds = self.network.get_input_embeddings()(batch.token_ids)
        if prompts is not None:
            # As an embedding lookup: the gradient of plain indexing is summed in an order that
            # differs from run to run.
            places = batch.prompts.unsqueeze(1) * prompts.shape[1] + batch.slots.clamp(min=0)
            vectors = nn.functional.embedding(places, prompts.flatten(0, 1))
            embeds = torch.where(
                (batch.slots != NO_SLOT).unsqueeze(2), vectors.to(embeds.dtype), embeds
            )
        # Padding is on the right: no position of a causal model's row ever sees it.
        attention_mask = batch.attention_mask if self.masked else None
        options = {} if self.masked else {"use_cache": False}
        hidden: Tensor = self.network.base_model(
            inputs_embeds=embeds, attention_mask=attention_mask, **options
        )[0]
        return hidden

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
        known = [i for i in range(len(self.input_embeddings)) if i != self.codec.pad_id]
        ids = torch.tensor([known[-8:], [*known[-6:], *[self.codec.pad_id] * 2]])
        ids = ids.to(self.device)
        attention_mask = torch.ones_like(ids)
        attention_mask[1, 6:] = 0
        answers = torch.tensor([7, 5], device=self.device)
        batch = Batch(
            token_ids=ids,
            slots=torch.full_like(ids, NO_SLOT),
            attention_mask=attention_mask,
            answer_positions=answers,
            prompts=torch.zeros_like(answers),
        )
        ours = self.log_probs(batch, None)
        with self._precision():
            logits = self.network(input_ids=ids, attention_mask=attention_mask).logits
        theirs = logits[torch.arange(2), answers].float().log_softmax(dim=1)
        tolerance = 1e-3 if logits.dtype == torch.float32 else 0.1
        if not torch.allclose(ours, theirs, atol=tolerance, rtol=tolerance):
            raise ModelError(
                f"the head of model type '{self.network.config.model_type}' works in a way that "
                "pipeline/models/language_model.py does not know; add it to _head_transform"
            )


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
