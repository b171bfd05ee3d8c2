"""Prompt encoders: they produce the vectors of prompt tokens, and many of them run in parallel.

Source: P-tuning, arXiv:2103.10385 (v1 has the LSTM, v2 all three, its Table 8 compares them);
THUDM/P-tuning LAMA/p_tuning/prompt_encoder.py.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from pipeline.config.schema import PromptParams
from pipeline.seeding import derive_seed

_LAYERS = 2

# Maximum size in bytes of the weights of the encoders that run in parallel on a CPU. Each token
# reads all weights again, which is slow if they do not stay in the cache.
_MAX_BYTES_ON_CPU = 16 * 2**20


class PromptEncoder(nn.Module):
    """The weights that produce the vectors of one prompt's tokens.

    `lstm`: embeddings, a two-layer bidirectional LSTM, then a two-layer perceptron (the released
    LAMA code). `mlp`: embeddings, then the perceptron. `embedding`: the vectors themselves.
    """

    def __init__(self, kind: str, count: int, size: int, *, dropout: float) -> None:
        """Create an encoder; its weights are drawn from torch's current generator.

        Args:
            kind: `lstm`, `mlp` or `embedding`.
            count: number of prompt tokens, 1 or more.
            size: size of the language model's embeddings.
            dropout: probability, between the layers of the LSTM and of the perceptron.

        Raises:
            ValueError: an unknown kind, or an odd size for `lstm`.
        """
        super().__init__()
        if kind not in ("lstm", "mlp", "embedding"):
            raise ValueError(f"unknown prompt encoder {kind!r}; choose lstm, mlp or embedding")
        if kind == "lstm" and size % 2:
            raise ValueError(f"an lstm prompt encoder needs an even embedding size, not {size}")
        self.kind = kind
        self.dropout = dropout
        self.embedding = nn.Embedding(count, size)
        if kind == "lstm":
            self.lstm = nn.LSTM(size, size // 2, num_layers=_LAYERS, bidirectional=True)
        if kind != "embedding":
            self.mlp = nn.Sequential(nn.Linear(size, size), nn.ReLU(), nn.Linear(size, size))

    def start_from(self, vectors: Tensor) -> None:
        """Set the embeddings, (count, size) float, so that `embedding` prompts start as words."""
        with torch.no_grad():
            self.embedding.weight.copy_(vectors)

    def forward(self, seed: int | None = None) -> Tensor:
        """Return the prompt's vectors, (count, size) float, in reading order.

        Args:
            seed: of the dropout; None disables dropout.
        """
        return encode([self], None if seed is None else [seed])[0]


def make_encoder(
    config: PromptParams, count: int, embeddings: Tensor, *, seed: int, name: str
) -> PromptEncoder:
    """Create the encoder of one prompt; the same name and seed give the same weights.

    Args:
        config: its type and dropout.
        count: number of prompt tokens.
        embeddings: (vocabulary, size) float, the language model's. An `embedding` prompt starts as
            random words of it (as in FewNLU), not as noise of another scale.
        seed: of the training.
        name: of the task.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "prompt encoder", name))
        encoder = PromptEncoder(config.encoder, count, embeddings.shape[1], dropout=config.dropout)
        if config.encoder == "embedding":
            words = torch.randint(len(embeddings), (count,))
            encoder.start_from(embeddings[words].detach().cpu().float())
    return encoder


def stack_prompts(prompts: Sequence[Tensor]) -> Tensor | None:
    """Stack the vectors of several prompts.

    Args:
        prompts: (prompt tokens, size) float each; their numbers of tokens may differ.

    Returns:
        (prompts, longest, size) float, padded with zeros; None for no prompts.
    """
    return nn.utils.rnn.pad_sequence(list(prompts), batch_first=True) if prompts else None


def encode(encoders: Sequence[PromptEncoder], seeds: Sequence[int] | None = None) -> list[Tensor]:
    """Run encoders in parallel, with the same number of operations for many encoders as for one.

    Each returns what it would return by itself, up to rounding. One encoder is hundreds of small
    operations; run one after another, many encoders take longer than the language model.

    Args:
        encoders: of the same kind, size, dtype and device; their numbers of tokens may differ.
        seeds: of each encoder's dropout; None disables dropout.

    Returns:
        For each encoder its prompt's vectors, (count, size) float, in reading order.
    """
    vectors: list[Tensor] = [encoder.embedding.weight for encoder in encoders]
    if encoders and encoders[0].kind != "embedding":
        for places in _groups(encoders):
            encoded = _encode_group(
                [encoders[place] for place in places],
                [seeds[place] for place in places] if seeds is not None else None,
            )
            for place, prompt in zip(places, encoded, strict=True):
                vectors[place] = prompt
    return vectors


def _groups(encoders: Sequence[PromptEncoder]) -> Iterator[list[int]]:
    """Yield the positions of encoders that run in parallel: with the same number of tokens."""
    most = len(encoders)
    if encoders[0].embedding.weight.device.type == "cpu":
        encoder_bytes = sum(parameter.nbytes for parameter in encoders[0].parameters())
        most = max(1, _MAX_BYTES_ON_CPU // encoder_bytes)
    for count in {len(encoder.embedding.weight) for encoder in encoders}:
        group = [n for n, encoder in enumerate(encoders) if len(encoder.embedding.weight) == count]
        yield from (group[start : start + most] for start in range(0, len(group), most))


def _encode_group(encoders: Sequence[PromptEncoder], seeds: Sequence[int] | None) -> Tensor:
    """Encode prompts with the same number of tokens, as (encoders, count, size)."""
    drop = _dropout(encoders, seeds)
    rows = _stack(encoders, ["embedding.weight"])
    if encoders[0].kind == "lstm":
        rows = _run_lstms([encoder.lstm for encoder in encoders], rows, drop)
    rows = _run_linear([encoder.mlp[0] for encoder in encoders], rows).relu()
    return _run_linear([encoder.mlp[-1] for encoder in encoders], drop(rows))


def _dropout(
    encoders: Sequence[PromptEncoder], seeds: Sequence[int] | None
) -> Callable[[Tensor], Tensor]:
    """Return a function that applies dropout to (encoders, count, size).

    The mask of each encoder depends only on its own seed; each call draws a new one.
    """
    probability = encoders[0].dropout
    if seeds is None or not probability:
        return lambda rows: rows
    device = encoders[0].embedding.weight.device
    generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]

    def drop(rows: Tensor) -> Tensor:
        masks = torch.empty_like(rows)
        for mask, generator in zip(masks, generators, strict=True):
            mask.bernoulli_(1 - probability, generator=generator)
        return rows * masks / (1 - probability)

    return drop


def _run_linear(layers: Sequence[nn.Module], rows: Tensor) -> Tensor:
    """Apply each linear layer to its own rows: (layers, count, in) to (layers, count, out)."""
    weights, biases = _stack(layers, ["weight"]), _stack(layers, ["bias"])
    return torch.baddbmm(biases.unsqueeze(1), rows, weights.transpose(1, 2))


def _run_lstms(lstms: Sequence[nn.LSTM], rows: Tensor, drop: Callable[[Tensor], Tensor]) -> Tensor:
    """Run LSTMs on (LSTMs, count, size), with dropout between the layers.

    Both directions of a layer run in parallel too: one reads the tokens in reverse order.
    """
    for layer in range(_LAYERS):
        w_in, w_state, b_in, b_state = (
            _stack(lstms, [f"{name}_l{layer}", f"{name}_l{layer}_reverse"])
            for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        )
        rows = drop(rows) if layer else rows
        # A product, so that the two gradients do not share their memory: they are scaled in place.
        bias = (b_in + 1.0 * b_state).unsqueeze(1)
        entering = torch.baddbmm(bias, torch.cat([rows, rows.flip(1)]), w_in.transpose(1, 2))
        ahead, back = _recur(entering, w_state.transpose(1, 2)).chunk(2)
        rows = torch.cat([ahead, back.flip(1)], dim=2)
    return rows


def _stack(modules: Sequence[nn.Module], names: Sequence[str]) -> Tensor:
    """Stack parameters as (names x modules, ...): all of the first name, then of the next."""
    return torch.stack([module.get_parameter(name) for name in names for module in modules])


def _recur(entering: Tensor, w_state: Tensor) -> Tensor:
    """Run the recurrence of one layer; the states are (LSTMs, count, width).

    Args:
        entering: (LSTMs, count, 4 * width): the input's contribution to the gates.
        w_state: (LSTMs, width, 4 * width): weights from the previous state to the gates.
    """
    state = cell = entering.new_zeros(len(entering), 1, w_state.shape[1])
    states = []
    for token in entering.split(1, dim=1):
        gates = torch.baddbmm(token, state, w_state)
        enter, forget, candidate, leave = gates.chunk(4, dim=2)
        cell = forget.sigmoid() * cell + enter.sigmoid() * candidate.tanh()
        state = leave.sigmoid() * cell.tanh()
        states.append(state)
    return torch.cat(states, dim=1)
