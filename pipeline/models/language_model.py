"""Masked and causal language models that score words at one position of a row.

`PromptedModel` takes rows with prompt vectors and returns the scores of words at the answer, or of
answers of several tokens. It knows no model family: it runs the network's body on the vectors, and
the network's own head on the answer positions only, and only over the candidate words. What each
model does differently is found out, or refused, by comparing with its own forward pass at loading.
"""

import copy
import inspect
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils.generic import ModelOutput

from pipeline.errors import ModelError
from pipeline.models.encoding import NO_SLOT, Row
from pipeline.models.linear import linear, use_onednn
from pipeline.models.packing import Batch, PackedExample, RowKind, pack, pad, upload
from pipeline.models.sharding import ShardedCalls, whole
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
        hidden_size: size of the hidden states that the head reads.
        has_dropout: whether the network drops units at random when it is trained.
        max_length: most positions of a row.
        max_packed_length: most positions of a sequence of several rows; 0 if the network does not
            heed a mask of four dimensions and position ids.
    """

    def __init__(
        self, network: PreTrainedModel, codec: PieceTokenizer, *, masked: bool, mixed: bool = False
    ) -> None:
        """Take a model and check that its answers equal its own full forward pass.

        Raises:
            ModelError: they do not: its head, its embeddings or its padding work in a way that is
                not supported.
        """
        self.network = network.eval()
        use_onednn(network)
        self.codec = codec
        self.masked = masked
        self.mixed = mixed
        config = network.config.get_text_config()
        self.has_dropout = _has_dropout(config)
        rounds = mixed or getattr(network, "hf_quantizer", None) is not None
        self._compared_dtype = torch.bfloat16 if rounds else self.dtype
        self._options: dict[str, Any] = {} if masked else {"use_cache": False}
        self._additive_mask = False
        self._first_position = 0
        self._shards: ShardedCalls | None = None
        body, self._body, states = _find_body(network, self._ids_to_check()[0], self._options)
        self.hidden_size: int = states["last_hidden_state"].shape[-1]
        self._head = _replace_modules(network, {body: _States(type(states))})
        output = network.get_output_embeddings()
        names = [name for name, module in network.named_modules() if module is output]
        self._output_name = names[0] if isinstance(output, nn.Linear) else None
        self._check_against_network()
        self._first_position = self._find_first_position()
        positions: int = getattr(config, "max_position_embeddings", 512)
        self.max_length = positions - self._first_position
        self.max_packed_length = self._find_packed_length(config)

    def add_classifier(self, outputs: int, *, seed: int) -> None:
        """Read answers with a new classification head from now on, not with the vocabulary head.

        The head is a part of `network`, so that it is trained, saved and loaded with it: dropout
        and a linear layer, for a masked model behind a dense layer with tanh (BERT's pooler).

        Args:
            outputs: number of labels; 1 scores each of an example's own answers.
            seed: the seed of `params.yaml`; the same one gives the same weights.
        """
        size = self.hidden_size
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(seed, "classifier"))
            pooler = [nn.Linear(size, size), nn.Tanh()] if self.masked else []
            head = nn.Sequential(*pooler, nn.Dropout(0.1), nn.Linear(size, outputs))
            for layer in head:
                if isinstance(layer, nn.Linear):
                    nn.init.normal_(layer.weight, std=0.02)
                    nn.init.zeros_(layer.bias)
        self.network.add_module(_CLASSIFIER, head.to(self.device, self.dtype).eval())

    def shard(self, device: torch.device, *, tuned: bool) -> None:
        """Cut the weights over the processes of the default group, which all call this together.

        Args:
            device: of this process; the weights are on the host until then.
            tuned: whether they will be trained.
        """
        self.network.requires_grad_(tuned)
        self._shards = ShardedCalls(self.network, device)

    @property
    def sharded(self) -> bool:
        """Whether each process has a part of the weights, and all make each pass together."""
        return self._shards is not None

    def call(self, function: Callable[..., Any], *given: Any) -> Any:
        """Call a function that reads embeddings or the head, which must be whole for it."""
        return function(*given) if self._shards is None else self._shards(function, *given)

    @property
    def device(self) -> torch.device:
        """Where rows and vectors are read, and scores returned."""
        return self._embedding_weight.device

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        return self._embedding_weight.dtype

    @property
    def vocabulary_size(self) -> int:
        """Number of input embeddings; some models have more than tokens."""
        return len(self._embedding_weight)

    @property
    def embedding_size(self) -> int:
        """Size of the vectors of words and prompt tokens."""
        return self._embedding_weight.shape[1]

    @property
    def input_embeddings(self) -> nn.Module:
        """From token ids to the vectors that the network reads.

        These are not always the rows of its weight: Gemma scales them.
        """
        embeddings: nn.Module = self.network.get_input_embeddings()
        return embeddings

    @property
    def _embedding_weight(self) -> nn.Parameter:
        return self.input_embeddings.get_parameter("weight")

    @property
    def kind(self) -> RowKind:
        """What packing depends on."""
        # A padding token that was added to the tokenizer alone has no embedding.
        pad_id = self.codec.pad_id if self.codec.pad_id < self.vocabulary_size else 0
        return RowKind(causal=not self.masked, pad_id=pad_id)

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
        scores: Tensor = self.call(self._read_scores, batch, prompts, candidates)
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
        scores: Tensor = self.call(self._read_scores, batch, prompts, None)
        if not len(batch.answer_ids):
            return scores.squeeze(1)
        places = batch.answer_reads * scores.shape[1] + batch.answer_ids
        # As an embedding lookup, as in `_read`.
        log_probs = nn.functional.embedding(places, scores.log_softmax(dim=1).view(-1, 1))[:, 0]
        # index_add, as its order of summing is fixed on a CPU: the same bits every time.
        sums = log_probs.new_zeros(2, batch.rows)
        both = torch.stack([log_probs, torch.ones_like(log_probs)])
        total, count = sums.index_add(1, batch.answer_rows, both)
        mean: Tensor = total / count
        return mean

    def _read_scores(
        self, batch: Batch, prompts: Tensor | None, candidates: Tensor | None
    ) -> Tensor:
        """(reads, words or labels) float32."""
        with self._precision():
            return self._scores(self._read(batch, prompts), candidates)

    def _read(self, batch: Batch, prompts: Tensor | None) -> Tensor:
        """Return (reads, hidden size): the last layer where answers are read."""
        embeds = self.input_embeddings(batch.tokens.clamp(min=0))
        if prompts is not None:
            # As an embedding lookup: the gradient of plain indexing is summed in an order that
            # differs from run to run.
            places = (-1 - batch.tokens).clamp(min=0)
            vectors = nn.functional.embedding(places, prompts.flatten(0, 1))
            embeds = torch.where((batch.tokens < 0).unsqueeze(2), vectors.to(embeds.dtype), embeds)
        options = dict(self._options)
        if batch.packed:
            options["attention_mask"] = self._mask(batch, embeds.dtype)
            options["position_ids"] = batch.positions + self._first_position
        elif self.masked:
            # The first position of a row is seen by all of it; of padding, only by itself.
            options["attention_mask"] = (batch.seen_from == 0).long()
        hidden = _move(self._body(inputs_embeds=embeds, **options)[0], self.device)
        return nn.functional.embedding(batch.reads, hidden.flatten(0, 1))

    def _mask(self, batch: Batch, dtype: torch.dtype) -> Tensor:
        """(sequences, 1, length, length): which positions see which, as the network reads it."""
        if not self._additive_mask:
            return batch.mask
        return torch.zeros_like(batch.mask, dtype=dtype).masked_fill(
            ~batch.mask, torch.finfo(dtype).min
        )

    def _scores(self, answers: Tensor, candidates: Tensor | None) -> Tensor:
        """Return (answers, words or labels) float32 of (answers, hidden size).

        The product with the words' weights is of single precision whatever the network's is: in
        bfloat16 the best words of a row often tie, and the first of them would win.
        """
        with torch.autocast(self.device.type, enabled=False):
            answers = answers.to(self.dtype)
            classifier = getattr(self.network, _CLASSIFIER, None)
            if classifier is not None:
                scores: Tensor = classifier(answers)
                return scores.float()
            head, words = self._head, candidates
            if self._output_name is not None:
                layer = self.network.get_output_embeddings()
                answers = _move(answers, layer.weight.device)
                head = _replace_modules(head, {self._output_name: _Words(layer, candidates)})
                words = None
            logits: Tensor = head(inputs_embeds=answers.unsqueeze(0), **self._options).logits[0]
            logits = _move(logits, self.device).float()
            return logits if words is None else logits.index_select(1, words)

    def _precision(self) -> AbstractContextManager[object]:
        """The context in which the network computes."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.mixed)

    @torch.no_grad()
    def _check_against_network(self) -> None:
        """Compare with the model's own forward pass on two short rows of different length.

        Some heads do not call their output layer; these score the vocabulary, whatever the
        candidates.
        """
        rows = self._ids_to_check()
        with self._precision():
            logits = [self.network(input_ids=ids[None], **self._options).logits for ids in rows]
        theirs = torch.stack([own[0, -1].to(self.device).float() for own in logits])
        words = rows[0][[5, 0, 3]]

        def equal(first_slot: int, candidates: Tensor | None) -> bool:
            # As in training: the first words of the rows as vectors.
            examples = self._rows_to_check(first_slot)
            (batch,) = upload([pad(examples, [0, 1], self.kind)], self.device)
            prompts = self.input_embeddings(torch.stack([ids[:1] for ids in rows]))
            expected = theirs if candidates is None else theirs[:, candidates]
            try:
                ours = self.log_probs(batch, prompts, candidates)
                return _close(ours, expected.log_softmax(dim=1), self._compared_dtype)
            except (AttributeError, RuntimeError):  # the layer is used in another way
                return False

        if not equal(NO_SLOT, words):
            self._output_name = None
        name = f"model type '{self.network.config.model_type}'"
        if not equal(NO_SLOT, None) or not equal(NO_SLOT, words):
            raise ModelError(
                f"{name}: reading the answers at one position of padded rows gives other scores "
                "than the model's own forward pass over each row, so it cannot be used; choose "
                "another model"
            )
        if not equal(0, None):
            raise ModelError(
                f"{name}: words given as vectors have other scores than the same words given as "
                "ids, so it cannot have prompt tokens; choose another model"
            )

    @torch.no_grad()
    def _find_first_position(self) -> int:
        """Number of the first position: 0, or in RoBERTa and its kind, one more than padding's.

        Those give padding a position in the table of position embeddings.
        """
        ids = self._ids_to_check()[0]
        embeds = self.input_embeddings(ids)[None]
        expected: Tensor = self._body(inputs_embeds=embeds, **self._options)[0]
        tables = [m for m in self.network.modules() if isinstance(m, nn.Embedding)]
        after_padding = {t.padding_idx + 1 for t in tables if t.padding_idx is not None}
        for first in (0, *sorted(after_padding)):
            positions = torch.arange(first, first + len(ids), device=self.device)[None]
            try:
                states = self._body(inputs_embeds=embeds, position_ids=positions, **self._options)
            except (TypeError, RuntimeError):  # no argument, or none of this shape
                return 0
            if _close(states[0], expected, self._compared_dtype):
                return first
        return 0

    def _find_packed_length(self, config: Any) -> int:
        """Compare rows that share a sequence with the same rows, one in each sequence.

        Where attention is local, a mask of four dimensions replaces that of the window, or the
        window counts places in the sequence; neither matters within the window.
        """
        names = ("sliding_window", "window_size", "attention_window_size", "attention_chunk_size")
        windows = [getattr(config, name, None) for name in names]
        longest = min([self.max_length, *(size for size in windows if isinstance(size, int))])
        for self._additive_mask in (False, True):
            if self._packs():
                return longest
        return 0

    @torch.no_grad()
    def _packs(self) -> bool:
        rows = self._rows_to_check(NO_SLOT)
        (packed,) = pack(rows, self.kind, length=16, max_tokens=None)
        apart, together = upload([pad(rows, packed.examples, self.kind), packed], self.device)
        expected = self.log_probs(apart, None)
        try:
            found = self.log_probs(together, None)
        except (AttributeError, IndexError, RuntimeError, TypeError, ValueError):
            return False  # it takes no such mask, or no positions
        return _close(found, expected, self._compared_dtype)

    def _ids_to_check(self) -> list[Tensor]:
        """Two rows of 8 and of 6 tokens; they begin alike, but for the first token."""
        last = range(self.vocabulary_size - 9, self.vocabulary_size)
        known = [i for i in last if i != self.kind.pad_id][-8:]
        first, second = known, [*known[:4], *known[-2:]]
        return [torch.tensor(ids, device=self.device) for ids in (first, second)]

    def _rows_to_check(self, first_slot: int) -> list[PackedExample]:
        """The same as rows; with a first slot of 0, each begins with a prompt of one token."""
        rows = [
            Row(tuple(ids), (first_slot, *[NO_SLOT] * (len(ids) - 1)), len(ids) - 1)
            for ids in (ids.tolist() for ids in self._ids_to_check())
        ]
        return [PackedExample.of(row, n) for n, row in enumerate(rows)]


class _States(nn.Module):
    """In place of a network's body: the hidden states are those that it is given."""

    def __init__(self, output_class: type[ModelOutput]) -> None:
        super().__init__()
        self._output_class = output_class

    def forward(self, *_: Any, inputs_embeds: Tensor, **__: Any) -> ModelOutput:
        return self._output_class(last_hidden_state=inputs_embeds)


class _Words(nn.Module):
    """In place of a network's output layer: the same for some words, in single precision."""

    def __init__(self, layer: nn.Linear, words: Tensor | None) -> None:
        super().__init__()
        self._layer, self._words = layer, words

    @property
    def weight(self) -> Tensor:
        return self._layer.weight

    def forward(self, states: Tensor) -> Tensor:
        weight: Tensor = self._layer.weight
        bias: Tensor | None = self._layer.bias
        if self._words is not None:
            words = _move(self._words, weight.device)
            weight = weight[words]
            bias = bias[words] if bias is not None else None
        return linear(
            _move(states, weight.device).float(),
            weight.float(),
            bias.float() if bias is not None else None,
        )


def _replace_modules(module: nn.Module, replacements: Mapping[str, nn.Module]) -> nn.Module:
    """A module that shares everything with another one but these submodules, by their names."""
    changed = copy.copy(module)
    if hasattr(module, "_hf_hook"):  # accelerate binds it to the other module
        changed.__dict__.pop("forward", None)
    children = dict(module.named_children())
    for name, replacement in replacements.items():
        child, _, rest = name.partition(".")
        children[child] = (
            _replace_modules(children[child], {rest: replacement}) if rest else replacement
        )
    changed._modules = children  # type: ignore[assignment]
    return changed


@torch.no_grad()
def _find_body(
    network: nn.Module, ids: Tensor, options: Mapping[str, Any]
) -> tuple[str, nn.Module, ModelOutput]:
    """Find the part of a network whose hidden states its head reads, by a forward pass.

    Args:
        network: a language model of transformers.
        ids: (length,) int64, tokens.
        options: of the forward pass.

    Returns:
        The name of the part; the innermost module within it that makes the same states of vectors,
        such as the language model of a multimodal one; and what the part returns.

    Raises:
        ModelError: no part returns hidden states.
    """
    calls: list[tuple[str, nn.Module, ModelOutput]] = []

    def note(name: str) -> Any:
        def hook(module: nn.Module, _: Any, output: Any) -> None:
            if isinstance(output, ModelOutput) and "last_hidden_state" in output:
                calls.append((name, module, output))

        return hook

    hooks = [m.register_forward_hook(note(name)) for name, m in network.named_modules() if name]
    try:
        network(input_ids=ids[None], **options)
    finally:
        for hook in hooks:
            hook.remove()
    if not calls:
        raise ModelError(
            f"{type(network).__name__} of transformers has no part that returns hidden states; "
            "choose another model"
        )
    name, _, output = calls[-1]
    states = output["last_hidden_state"]
    body = next(
        (
            module
            for _, module, inner in calls
            if inner["last_hidden_state"] is states
            and "inputs_embeds" in inspect.signature(module.forward).parameters
        ),
        None,
    )
    if body is None:
        raise ModelError(
            f"{type(network).__name__} of transformers takes no vectors in place of words; choose "
            "another model"
        )
    return name, body, output


def _move(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on a device, where the layers of a model are on several."""
    return tensor if tensor.device == device else tensor.to(device)


def _has_dropout(config: Any) -> bool:
    return any(
        isinstance(value, float) and value > 0
        for name, value in config.to_dict().items()
        # That of the classifiers of transformers is not used.
        if ("drop" in name and "classifier" not in name)
    )


def nonfinite_weight(network: nn.Module) -> str | None:
    """Name of the first weight that contains NaN or infinity; None if all are finite."""
    names, weights = zip(*network.named_parameters(), strict=True)
    # A sum is finite only if all its terms are. All sums are read from the device at once.
    sums = torch.stack([whole(weight.detach().sum(dtype=torch.float32)) for weight in weights])
    finite = sums.isfinite().tolist()
    return None if all(finite) else str(names[finite.index(False)])


def _close(ours: Tensor, theirs: Tensor, dtype: torch.dtype) -> bool:
    tolerance = 1e-3 if dtype == torch.float32 else 0.1
    return torch.allclose(ours, theirs, atol=tolerance, rtol=tolerance)
