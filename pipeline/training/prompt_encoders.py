"""Prompt encoders: what makes the vectors of one prompt's tokens, and many of them side by side.

Source: P-tuning, arXiv:2103.10385 (v1 has the LSTM, v2 all three, its Table 8 compares them);
THUDM/P-tuning LAMA/p_tuning/prompt_encoder.py.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from pipeline.config.schema import PromptParams
from pipeline.seeding import derive_seed

_LAYERS = 2

# Encoders that run side by side on a CPU have so many bytes of weights together, at most: each
# token reads all of them again, which is slow where they do not stay in the cache.
_MOST_ON_CPU = 16 * 2**20


class PromptEncoder(nn.Module):
    """Weights that make the vectors for the tokens of one prompt.

    `lstm`: embeddings, a two-layer bidirectional LSTM, then a two-layer perceptron (the released
    LAMA code). `mlp`: embeddings, then the perceptron. `embedding`: the vectors themselves.
    """

    def __init__(self, kind: str, count: int, size: int, *, dropout: float) -> None:
        """Make an encoder; its weights are drawn from torch's current generator.

        Args:
            kind: `lstm`, `mlp` or `embedding`.
            count: number of prompt tokens, 1 or more.
            size: size of the language model's embeddings.
            dropout: share, between the layers of the LSTM and of the perceptron.

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
        """Set the embeddings: (count, size) float. `embedding` prompts then begin as words."""
        with torch.no_grad():
            self.embedding.weight.copy_(vectors)

    def forward(self, seed: int | None = None) -> Tensor:
        """Return (count, size) float: the prompt's vectors, in reading order.

        Args:
            seed: of the dropout; None for none of it.
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
    """Run encoders side by side: on a GPU in as many steps as one takes, whatever their number.

    Each gives what it would give alone, up to rounding. One encoder is hundreds of small
    operations; one after the other, those of many prompts take longer than the language model.

    Args:
        encoders: of the same kind, size, dtype and device; their numbers of tokens may differ.
        seeds: of each one's dropout; None for none of it.

    Returns:
        (count, size) float of each: its prompt's vectors, in reading order.
    """
    vectors: list[Tensor] = [encoder.embedding.weight for encoder in encoders]
    if encoders and encoders[0].kind != "embedding":
        for places in _groups(encoders):
            made = _encode_alike(
                [encoders[place] for place in places],
                [seeds[place] for place in places] if seeds is not None else None,
            )
            for place, own in zip(places, made, strict=True):
                vectors[place] = own
    return vectors


def _groups(encoders: Sequence[PromptEncoder]) -> Iterator[list[int]]:
    """Yield the places of encoders that run side by side: they have equally many tokens."""
    most = len(encoders)
    if encoders[0].embedding.weight.device.type == "cpu":
        own = sum(parameter.nbytes for parameter in encoders[0].parameters())
        most = max(1, _MOST_ON_CPU // own)
    for count in {len(encoder.embedding.weight) for encoder in encoders}:
        alike = [n for n, own in enumerate(encoders) if len(own.embedding.weight) == count]
        yield from (alike[start : start + most] for start in range(0, len(alike), most))


def _encode_alike(encoders: Sequence[PromptEncoder], seeds: Sequence[int] | None) -> Tensor:
    """Return (encoders, count, size) of encoders with equally many tokens."""
    drop = _dropout(encoders, seeds)
    rows = _stack(encoders, ["embedding.weight"])
    if encoders[0].kind == "lstm":
        rows = _run_lstms([encoder.lstm for encoder in encoders], rows, drop)
    rows = _run_linear([encoder.mlp[0] for encoder in encoders], rows).relu()
    return _run_linear([encoder.mlp[-1] for encoder in encoders], drop(rows))


def _dropout(
    encoders: Sequence[PromptEncoder], seeds: Sequence[int] | None
) -> Callable[[Tensor], Tensor]:
    """Return what drops numbers of (encoders, count, size), anew in each call.

    What it drops of an encoder hangs on that one's seed alone.
    """
    share = encoders[0].dropout
    if seeds is None or not share:
        return lambda rows: rows
    device = encoders[0].embedding.weight.device
    generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]

    def drop(rows: Tensor) -> Tensor:
        kept = torch.empty_like(rows)
        for own, generator in zip(kept, generators, strict=True):
            own.bernoulli_(1 - share, generator=generator)
        return rows * kept / (1 - share)

    return drop


def _run_linear(layers: Sequence[nn.Module], rows: Tensor) -> Tensor:
    """Return (layers, count, out) of (layers, count, in): each linear layer on rows of its own."""
    weights, biases = _stack(layers, ["weight"]), _stack(layers, ["bias"])
    return torch.baddbmm(biases.unsqueeze(1), rows, weights.transpose(1, 2))


def _run_lstms(lstms: Sequence[nn.LSTM], rows: Tensor, drop: Callable[[Tensor], Tensor]) -> Tensor:
    """Return (LSTMs, count, size) of the same shape, dropout between the layers.

    Both directions of a layer run side by side too: one reads the tokens in turned order.
    """
    for layer in range(_LAYERS):
        w_in, w_state, b_in, b_state = (
            _stack(lstms, [f"{name}_l{layer}", f"{name}_l{layer}_reverse"])
            for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        )
        rows = drop(rows) if layer else rows
        entering = torch.baddbmm(
            (b_in + b_state).unsqueeze(1), torch.cat([rows, rows.flip(1)]), w_in.transpose(1, 2)
        )
        ahead, back = _recur(entering, w_state.transpose(1, 2)).chunk(2)
        rows = torch.cat([ahead, back.flip(1)], dim=2)
    return rows


def _stack(modules: Sequence[nn.Module], names: Sequence[str]) -> Tensor:
    """Return (names x modules, ...): the parameters of the first name, then of the next."""
    return torch.stack([module.get_parameter(name) for name in names for module in modules])


def _recur(entering: Tensor, w_state: Tensor) -> Tensor:
    """Return (LSTMs, count, width): the states of one layer, one token after the other.

    Args:
        entering: (LSTMs, count, 4 * width): what comes to the gates from below.
        w_state: (LSTMs, width, 4 * width): to the gates from the state before.
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
