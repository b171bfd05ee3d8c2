"""Prompt encoders: they produce the vectors of prompt tokens, and many of them run as one.

Source: P-tuning, arXiv:2103.10385 (v1 has the LSTM, v2 all three, its Table 8 compares them);
THUDM/P-tuning LAMA/p_tuning/prompt_encoder.py.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.config.schema import PromptParams
from pipeline.seeding import derive_seed

_LAYERS = 2

# Name of a stacked weight -> the parameters of an encoder that it has, side by side. Of an LSTM
# these are the two directions.
_LSTM = {
    f"{short}_{layer}": [f"lstm.{name}_l{layer}{direction}" for direction in ("", "_reverse")]
    for layer in range(_LAYERS)
    for short, name in (
        ("w_in", "weight_ih"),
        ("w_state", "weight_hh"),
        ("b_in", "bias_ih"),
        ("b_state", "bias_hh"),
    )
}
_MLP = {
    f"{short}_mlp_{place}": [f"mlp.{place}.{name}"]
    for place in (0, 2)
    for short, name in (("w", "weight"), ("b", "bias"))
}


class PromptEncoder(nn.Module):
    """The initial weights of the encoder of one prompt.

    `lstm`: embeddings, a two-layer bidirectional LSTM, then a two-layer perceptron (the released
    LAMA code). `mlp`: embeddings, then the perceptron. `embedding`: the vectors themselves.

    Attributes:
        words: (count, size) float, what the prompt starts as: the encoder's output is then the
            change from there. None: the prompt starts as the encoder's first output.
    """

    def __init__(self, kind: str, count: int, size: int) -> None:
        """Create an encoder; its weights are drawn from torch's current generator.

        Args:
            kind: `lstm`, `mlp` or `embedding`.
            count: number of prompt tokens, 1 or more.
            size: size of the language model's embeddings.

        Raises:
            ValueError: an unknown kind, or an odd size for `lstm`.
        """
        super().__init__()
        if kind not in ("lstm", "mlp", "embedding"):
            raise ValueError(f"unknown prompt encoder {kind!r}; choose lstm, mlp or embedding")
        if kind == "lstm" and size % 2:
            raise ValueError(f"an lstm prompt encoder needs an even embedding size, not {size}")
        self.kind = kind
        self.words: Tensor | None = None
        self.embedding = nn.Embedding(count, size)
        if kind == "lstm":
            self.lstm = nn.LSTM(size, size // 2, num_layers=_LAYERS, bidirectional=True)
        if kind != "embedding":
            self.mlp = nn.Sequential(nn.Linear(size, size), nn.ReLU(), nn.Linear(size, size))


def make_encoder(
    config: PromptParams,
    count: int,
    embeddings: nn.Module,
    *,
    seed: int,
    name: str,
    words: Sequence[int] = (),
) -> PromptEncoder:
    """Create the encoder of one prompt; the same name and seed give the same weights.

    Args:
        config: its type, and what it starts as.
        count: number of prompt tokens.
        embeddings: the language model's, from token ids to vectors. An `embedding` prompt always
            starts as words of them (as in FewNLU), not as noise of another scale.
        seed: of the training.
        name: of the task.
        words: (count,) ids of the words that the prompt starts as; empty for random ones.
    """
    weight = embeddings.get_parameter("weight")
    vocabulary_size, size = weight.shape
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "prompt encoder", name))
        encoder = PromptEncoder(config.encoder, count, size)
        if config.encoder == "embedding" or config.start != "random":
            chosen = torch.tensor(words) if words else torch.randint(vocabulary_size, (count,))
            vectors = embeddings(chosen.to(weight.device)).detach().cpu().float()
            if config.encoder == "embedding":
                with torch.no_grad():
                    encoder.embedding.weight.copy_(vectors)
            else:
                encoder.words = vectors
    return encoder


class EncoderBank:
    """The encoders of several prompts, as stacked weights.

    A step takes as many operations for many encoders as for one. Each encoder gives what it would
    give by itself, up to rounding. Prompts with fewer tokens than the longest are padded at their
    end; what is computed there reaches nothing else.

    Attributes:
        weights: name -> (prompts, ...) float leaf tensor. Matrices are (in, out), so that their
            gradients need no copy; the two directions of an LSTM are side by side. A backward pass
            writes the gradients of matrices to the same memory each time, and adds to none: with
            many prompts, getting new memory from the system takes longer than the products.
        counts: number of tokens of each prompt.
    """

    def __init__(
        self, encoders: Sequence[PromptEncoder], *, dropout: float, device: torch.device
    ) -> None:
        """Stack encoders of the same kind, size and dtype; one or more.

        Args:
            encoders: their numbers of tokens may differ.
            dropout: probability, between the layers of the LSTM and of the perceptron.
            device: of the weights.
        """
        self.counts = [encoder.embedding.num_embeddings for encoder in encoders]
        self._kind = encoders[0].kind
        self._dropout = dropout
        self._offset: Tensor | None = None
        tables = [encoder.embedding.weight.detach() for encoder in encoders]
        stacked = {"embedding": nn.utils.rnn.pad_sequence(tables, batch_first=True)}
        names = {"lstm": _LSTM | _MLP, "mlp": _MLP, "embedding": {}}[self._kind]
        for short, parts in names.items():
            own = [
                torch.stack([encoder.get_parameter(part).detach() for part in parts])
                for encoder in encoders
            ]
            stacked[short] = torch.stack(own).squeeze(1) if len(parts) == 1 else torch.stack(own)
        self.weights = {
            name: (tensor.transpose(-1, -2) if name.startswith("w_") else tensor)
            .to(device, memory_format=torch.contiguous_format)
            .contiguous()
            for name, tensor in stacked.items()
        }
        self._reserve_gradients()
        self._set_reversal(device)
        self._offset = self._words_less_output(encoders)

    @property
    def longest(self) -> int:
        """Number of tokens of the longest prompt."""
        return max(self.counts)

    def parameters(self) -> list[tuple[Tensor, bool]]:
        """Return each stacked weight, and whether weight decay applies: not to biases."""
        return [(weight, not name.startswith("b_")) for name, weight in self.weights.items()]

    def __call__(self, seeds: Tensor | None = None) -> Tensor:
        """Return the vectors of all prompts.

        Args:
            seeds: (prompts,) int64, of each prompt's dropout in this step; None disables dropout.

        Returns:
            (prompts, longest, size) float, in reading order; of no meaning behind a prompt's end.
        """
        rows = self.weights["embedding"]
        if self._kind == "embedding":
            return rows
        drop = _Dropout(self._dropout, seeds)
        if self._kind == "lstm":
            rows = self._run_lstm(rows, drop)
        rows = self._run_linear("mlp_0", rows).relu()
        vectors = self._run_linear("mlp_2", drop(rows))
        return vectors if self._offset is None else vectors + self._offset

    def keep(self, places: Sequence[int]) -> None:
        """Keep only some of the prompts, in this order."""
        self.counts = [self.counts[place] for place in places]
        device = self.weights["embedding"].device
        index = torch.tensor(places, device=device)
        for name, weight in self.weights.items():
            kept = weight.detach().index_select(0, index)
            if name == "embedding":
                kept = kept[:, : self.longest].contiguous()
            self.weights[name] = kept
        self._reserve_gradients()
        if self._offset is not None:
            self._offset = self._offset.index_select(0, index)[:, : self.longest]
        self._set_reversal(device)

    def state_dict(self) -> dict[str, Any]:
        """Return the weights by name, for a checkpoint."""
        return {name: weight.detach() for name, weight in self.weights.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over the weights of a state of as many prompts."""
        with torch.no_grad():
            for name, weight in self.weights.items():
                weight.copy_(state[name])

    @torch.no_grad()
    def _words_less_output(self, encoders: Sequence[PromptEncoder]) -> Tensor | None:
        """(prompts, longest, size): what makes the first vectors words; None for no words."""
        words = [encoder.words for encoder in encoders if encoder.words is not None]
        if not words:
            return None
        padded = nn.utils.rnn.pad_sequence(words, batch_first=True)
        first = self()
        return padded.to(first) - first

    def _reserve_gradients(self) -> None:
        """Reserve memory for the gradients of matrices; autograd makes the others."""
        self._gradients: dict[str, Tensor] = {}
        for name, weight in self.weights.items():
            if name.startswith("w_"):
                self._gradients[name] = torch.empty_like(weight)
            else:
                weight.requires_grad_()

    def _matrix(self, name: str) -> tuple[Tensor, Tensor]:
        """A stacked matrix, and the memory of its gradient."""
        return self.weights[name], self._gradients[name]

    def _set_reversal(self, device: torch.device) -> None:
        """Note the order in which an LSTM reads backwards: from each prompt's own end."""
        places = [
            [n * self.longest + (count - 1 - i if i < count else i) for i in range(self.longest)]
            for n, count in enumerate(self.counts)
        ]
        self._reversal = torch.tensor(places, device=device)

    def _reverse(self, rows: Tensor) -> Tensor:
        """Reverse the tokens of each prompt: (prompts, longest, size)."""
        return nn.functional.embedding(self._reversal, rows.flatten(0, 1))

    def _run_linear(self, name: str, rows: Tensor) -> Tensor:
        """Apply each prompt's own linear layer to (prompts, longest, size)."""
        bias = self.weights[f"b_{name}"].unsqueeze(1)
        return _affine(bias, rows, *self._matrix(f"w_{name}"))

    def _run_lstm(self, rows: Tensor, drop: Callable[[Tensor], Tensor]) -> Tensor:
        """Run the LSTMs on (prompts, longest, size); both directions of a layer at once."""
        for layer in range(_LAYERS):
            b_in, b_state = (self.weights[f"{name}_{layer}"] for name in ("b_in", "b_state"))
            rows = drop(rows) if layer else rows
            both = torch.stack([rows, self._reverse(rows)], dim=1).flatten(0, 1)
            # A product, so that the gradients of the biases do not share their memory: clipping
            # scales them in place.
            bias = (b_in + 1.0 * b_state).flatten(0, 1).unsqueeze(1)
            gates = _affine(bias, both, *self._matrix(f"w_in_{layer}"))
            states = _recur(gates, *self._matrix(f"w_state_{layer}")).unflatten(0, (-1, 2))
            rows = torch.cat([states[:, 0], self._reverse(states[:, 1])], dim=2)
        return rows


class _Dropout:
    """Dropout whose mask for each prompt depends only on the prompt's seed and the call.

    The random numbers are a hash (the finalizer of SplitMix64) of seed, call and place: one
    computation for all prompts, and the same numbers on every device.
    """

    def __init__(self, probability: float, seeds: Tensor | None) -> None:
        self._probability = probability
        self._seeds = seeds
        self._calls = 0

    def __call__(self, rows: Tensor) -> Tensor:
        """Apply dropout to (prompts, longest, size); each call draws a new mask."""
        if self._seeds is None or not self._probability:
            return rows
        self._calls += 1
        places = torch.arange(rows[0].numel(), device=rows.device).view(rows[0].shape)
        mixed = _hash(self._seeds.view(-1, 1, 1) + _hash(places + (self._calls << 40)))
        uniform = ((mixed >> 40) & ((1 << 24) - 1)).float() / (1 << 24)
        kept = (uniform >= self._probability).to(rows.dtype)
        return rows * kept / (1 - self._probability)


def _hash(values: Tensor) -> Tensor:
    """Mix the bits of int64 values; products wrap around."""
    for shift, factor in ((30, -0x40A7B892E31B1A47), (27, -0x6B2FB644ECCEEE15), (31, 1)):
        # A logical shift: the sign is not drawn in.
        values = (values ^ ((values >> shift) & ((1 << (64 - shift)) - 1))) * factor
    return values


def _affine(bias: Tensor, rows: Tensor, weight: Tensor, memory: Tensor) -> Tensor:
    """Apply linear layers, each to the tokens of its prompt.

    Args:
        bias: (layers, 1, out).
        rows: (layers, tokens, in).
        weight: (..., in, out), of as many layers.
        memory: of the weight's gradient.

    Returns:
        (layers, tokens, out).
    """
    result: Tensor = _Affine.apply(bias, rows, weight, memory)  # type: ignore[no-untyped-call]
    return result


class _Affine(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, bias: Tensor, rows: Tensor, weight: Tensor, memory: Tensor) -> Tensor:
        ctx.save_for_backward(rows)
        ctx.weight, ctx.memory = weight, memory
        return torch.baddbmm(bias, rows, _of_layers(weight))

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, Tensor, None, None]:
        (rows,), (of_result,) = ctx.saved_tensors, gradients
        _set_gradient(ctx.weight, ctx.memory, rows, of_result)
        of_rows = torch.bmm(of_result, _of_layers(ctx.weight).transpose(1, 2))
        return of_result.sum(1, keepdim=True), of_rows, None, None


def _of_layers(weight: Tensor) -> Tensor:
    """(layers, in, out) of (..., in, out)."""
    return weight.flatten(0, -3)


def _set_gradient(weight: Tensor, memory: Tensor, rows: Tensor, of_result: Tensor) -> None:
    """Write the gradient of a weight (..., in, out) to its memory, as one product.

    Args:
        weight: of as many layers as there are in the other arguments.
        memory: as large as the weight.
        rows: (layers, tokens, in), which the weight was multiplied with.
        of_result: (layers, tokens, out), the gradient of the products.
    """
    torch.bmm(rows.transpose(1, 2), of_result, out=_of_layers(memory))
    weight.grad = memory


def _recur(gates: Tensor, w_state: Tensor, memory: Tensor) -> Tensor:
    """Run the recurrence of LSTMs.

    Args:
        gates: (LSTMs, tokens, 4 * width): the input's contribution to the gates, in torch's order
            (input, forget, candidate, output).
        w_state: (..., width, 4 * width), of as many LSTMs: weights from the previous state to the
            gates.
        memory: of the gradient of `w_state`.

    Returns:
        (LSTMs, tokens, width): the states.
    """
    states: Tensor = _Recurrence.apply(gates, w_state, memory)  # type: ignore[no-untyped-call]
    return states


class _Recurrence(torch.autograd.Function):
    """`_recur`, whose gradient of the weights is one product over all tokens.

    Autograd would make a matrix as large as the weights for each token, and add them up.
    """

    @staticmethod
    def forward(ctx: Any, gates: Tensor, w_state: Tensor, memory: Tensor) -> Tensor:
        ctx.weight, ctx.memory = w_state, memory
        w_state = _of_layers(w_state)
        width = w_state.shape[1]
        opened: list[Tensor] = []
        cells: list[Tensor] = []
        states: list[Tensor] = []
        for token in gates.split(1, dim=1):
            total = torch.baddbmm(token, states[-1], w_state) if states else token
            enter, forget, _, leave = total.sigmoid().split(width, dim=2)
            candidate = total.narrow(2, 2 * width, width).tanh()
            cell = enter * candidate
            if cells:
                cell = torch.addcmul(cell, forget, cells[-1])
            opened.append(torch.cat([enter, forget, candidate, leave], dim=2))
            cells.append(cell)
            states.append(leave * cell.tanh())
        out = torch.cat(states, dim=1)
        ctx.save_for_backward(torch.cat(opened, dim=1), torch.cat(cells, dim=1), out)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, None, None]:
        opened, cells, out = ctx.saved_tensors
        enter, forget, candidate, leave = opened.chunk(4, dim=2)
        zero = torch.zeros_like(cells[:, :1])
        cells_before = torch.cat([zero, cells[:, :-1]], dim=1)
        states_before = torch.cat([zero, out[:, :-1]], dim=1)
        shown = cells.tanh()
        # How the gates enter the cell (the first three) and the state, and how the cell enters the
        # state; for all tokens at once.
        to_gates = torch.cat(
            [
                candidate * enter * (1 - enter),
                cells_before * forget * (1 - forget),
                enter * (1 - candidate.square()),
                shown * leave * (1 - leave),
            ],
            dim=2,
        )
        to_cell = leave * (1 - shown.square())
        parts = (gradients[0], to_gates, to_cell, forget)
        tokens = zip(*(part.split(1, dim=1) for part in parts), strict=True)
        back = _of_layers(ctx.weight).transpose(1, 2)
        found: list[Tensor] = []
        of_cell = zero
        for of_state, gate, cell, kept in reversed(list(tokens)):
            if found:
                of_state = torch.baddbmm(of_state, found[-1], back)
            of_cell = torch.addcmul(of_cell, of_state, cell)
            found.append(gate * torch.cat([of_cell, of_cell, of_cell, of_state], dim=2))
            of_cell = of_cell * kept
        of_gates = torch.cat(found[::-1], dim=1)
        _set_gradient(ctx.weight, ctx.memory, states_before, of_gates)
        return of_gates, None, None
