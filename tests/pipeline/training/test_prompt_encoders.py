from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from pipeline.training.prompt_encoders import EncoderBank, PromptEncoder, make_encoder
from tests.jobs import method
from tests.operations import count_operations
from tests.worked import torch_vectors

WORDS = torch.arange(80.0).reshape(20, 4)
KINDS = ("lstm", "mlp", "embedding")
CPU = torch.device("cpu")


def _encoder(kind: str, count: int = 5, size: int = 6, *, start: int = 1) -> PromptEncoder:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(start)
        return PromptEncoder(kind, count, size).double()


def _bank(*encoders: PromptEncoder, dropout: float = 0.0) -> EncoderBank:
    return EncoderBank(encoders, dropout=dropout, device=CPU)


def _vectors(bank: EncoderBank, *seeds: int) -> list[Tensor]:
    """The vectors of each prompt, with dropout if there are seeds."""
    found = bank(torch.tensor(seeds) if seeds else None)
    return [rows[:count] for rows, count in zip(found, bank.counts, strict=True)]


def _lstm_step_by_step(lstm: nn.LSTM, rows: Tensor) -> Tensor:
    """Return what a bidirectional LSTM gives for one sequence, one token and gate at a time."""
    weights = dict(lstm.named_parameters())
    for layer in range(lstm.num_layers):
        directions = []
        for end, order in (("", range(len(rows))), ("_reverse", reversed(range(len(rows))))):
            w_in, w_state, b_in, b_state = (
                weights[f"{name}_l{layer}{end}"]
                for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
            )
            state = cell = torch.zeros(lstm.hidden_size, dtype=rows.dtype)
            outputs: dict[int, Tensor] = {}
            for place in order:
                gates = w_in @ rows[place] + b_in + w_state @ state + b_state
                enter, forget, candidate, leave = gates.split(lstm.hidden_size)
                cell = forget.sigmoid() * cell + enter.sigmoid() * candidate.tanh()
                state = leave.sigmoid() * cell.tanh()
                outputs[place] = state
            directions.append(torch.stack([outputs[place] for place in range(len(rows))]))
        rows = torch.cat(directions, dim=1)
    return rows


def _perceptron_by_hand(mlp: nn.Sequential, rows: Tensor) -> Tensor:
    first, last = mlp[0], mlp[-1]
    hidden = (rows @ first.weight.T + first.bias).clamp(min=0)
    return hidden @ last.weight.T + last.bias


@pytest.mark.parametrize("count", [1, 5])
@pytest.mark.parametrize("kind", KINDS)
def test_the_vectors_are_those_of_the_layers_worked_out_one_by_one(kind, count):
    encoder = _encoder(kind, count)
    with torch.no_grad():
        expected = encoder.embedding.weight
        if kind == "lstm":
            expected = _lstm_step_by_step(encoder.lstm, expected)
        if kind != "embedding":
            expected = _perceptron_by_hand(encoder.mlp, expected)
    (found,) = _vectors(_bank(encoder))
    torch.testing.assert_close(found.detach(), expected)
    assert expected.shape == (count, 6)


def test_the_lstm_has_the_shape_of_the_released_code():
    lstm = _encoder("lstm").lstm
    assert (lstm.num_layers, lstm.bidirectional, lstm.hidden_size) == (2, True, 3)


# Name of a weight of the bank -> those of an encoder, side by side.
LSTM = {
    f"{ours}_{layer}": [f"lstm.{theirs}_l{layer}{end}" for end in ("", "_reverse")]
    for layer in (0, 1)
    for ours, theirs in (
        ("w_in", "weight_ih"),
        ("w_state", "weight_hh"),
        ("b_in", "bias_ih"),
        ("b_state", "bias_hh"),
    )
}
MLP = {
    "w_mlp_0": ["mlp.0.weight"],
    "b_mlp_0": ["mlp.0.bias"],
    "w_mlp_2": ["mlp.2.weight"],
    "b_mlp_2": ["mlp.2.bias"],
}
PARTS = {"lstm": LSTM | MLP, "mlp": MLP, "embedding": {}}


def _as_stacked(encoder: PromptEncoder, of: Callable[[nn.Parameter], Tensor]) -> dict[str, Tensor]:
    """A number of each parameter of torch's modules, in the layout of one row of the bank."""

    def part(name: str) -> Tensor:
        value = of(encoder.get_parameter(name))
        return value.T if value.ndim == 2 else value

    stacked = {"embedding": of(encoder.embedding.weight)}
    for name, parts in PARTS[encoder.kind].items():
        stacked[name] = torch.stack([part(p) for p in parts]) if len(parts) > 1 else part(parts[0])
    return stacked


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("counts", [(5,), (1,), (4, 4, 4), (3, 1, 9, 3, 1, 3)])
def test_encoders_give_what_torch_gives_for_each(kind, counts):
    """Vectors, and the gradients of every parameter, also of prompts of different lengths."""
    encoders = [_encoder(kind, count, start=start) for start, count in enumerate(counts)]
    bank = _bank(*encoders)
    made = _vectors(bank)
    torch.cat(made).square().sum().backward()
    for row, (encoder, vectors) in enumerate(zip(encoders, made, strict=True)):
        expected = torch_vectors(encoder)
        torch.testing.assert_close(vectors, expected)
        expected.square().sum().backward()
        gradients = _as_stacked(encoder, lambda parameter: parameter.grad)
        assert set(gradients) == set(bank.weights)
        for name, gradient in gradients.items():
            ours = bank.weights[name].grad[row]
            if name == "embedding":
                assert not ours[len(gradient) :].any()
                ours = ours[: len(gradient)]
            torch.testing.assert_close(ours, gradient)


@pytest.mark.parametrize("kind", ["lstm", "mlp"])
def test_no_two_gradients_share_their_memory(kind):
    """Clipping scales them in place, so a shared one would be scaled twice."""
    bank = _bank(_encoder(kind), _encoder(kind, start=2))
    bank().square().sum().backward()
    places = [weight.grad.data_ptr() for weight in bank.weights.values()]
    assert len(set(places)) == len(places)


@pytest.mark.parametrize("kind", ["lstm", "mlp"])
def test_steps_write_the_gradients_of_matrices_to_the_same_memory(kind):
    bank = _bank(*(_encoder(kind, count, start=count) for count in (4, 2, 4)))
    places, values = [], []
    for scale in (1.0, 2.0):
        (scale * bank().square().sum()).backward()
        gradients = [bank.weights[name].grad for name in bank.weights if name.startswith("w_")]
        assert len(gradients) == {"lstm": 6, "mlp": 2}[kind]
        places.append([gradient.data_ptr() for gradient in gradients])
        values.append([gradient.clone() for gradient in gradients])
        for weight in bank.weights.values():
            weight.grad = None
    assert places[0] == places[1]
    torch.testing.assert_close(values[1], [2 * each for each in values[0]])


@pytest.mark.parametrize("kind", KINDS)
def test_many_encoders_take_as_many_operations_as_one(kind):
    counts = []
    for number in (1, 2, 41):
        bank = _bank(*(_encoder(kind, start=start) for start in range(number)))
        counts.append(count_operations(lambda bank=bank: bank().square().sum().backward()))
    assert max(counts) <= 1.02 * counts[0]
    assert counts[0] > {"lstm": 100, "mlp": 10, "embedding": 1}[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_prompts_that_stay_give_what_they_gave(kind):
    encoders = [_encoder(kind, count, start=count) for count in (4, 9, 2, 5)]
    bank = _bank(*encoders)
    before = _vectors(bank)
    bank.keep([0, 2, 3])
    assert bank.counts == [4, 2, 5]
    assert bank.longest == 5
    for place, vectors in zip((0, 2, 3), _vectors(bank), strict=True):
        torch.testing.assert_close(vectors, before[place])
    assert all(len(weight) == 3 and weight.is_leaf for weight in bank.weights.values())
    bank().sum().backward()
    assert all(weight.grad is not None for weight in bank.weights.values())


@pytest.mark.parametrize("kind", KINDS)
def test_a_bank_takes_over_the_weights_of_another(kind):
    one = _bank(*(_encoder(kind, start=start) for start in (1, 2)))
    other = _bank(*(_encoder(kind, start=start) for start in (3, 4)))
    assert not torch.equal(one(), other())
    other.load_state_dict(one.state_dict())
    assert torch.equal(one(), other())


def test_weight_decay_spares_biases_alone():
    bank = _bank(_encoder("lstm"))
    decayed = {
        name
        for name, weight in bank.weights.items()
        for parameter, applies in bank.parameters()
        if parameter is weight and applies
    }
    assert decayed == {name for name in bank.weights if name.startswith("w_")} | {"embedding"}


# Dropout


@pytest.mark.parametrize(("kind", "drops"), [("lstm", True), ("mlp", True), ("embedding", False)])
def test_dropout_acts_with_a_seed_and_only_then(kind, drops):
    bank = _bank(_encoder(kind), dropout=0.5)

    def same(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
        return torch.equal(_vectors(bank, *one)[0], _vectors(bank, *other)[0])

    assert same((), ())
    assert same((7,), (7,))
    assert same((7,), ()) is not drops
    assert same((7,), (8,)) is not drops


@pytest.mark.parametrize("kind", KINDS)
def test_without_dropout_a_seed_changes_nothing(kind):
    bank = _bank(_encoder(kind))
    assert torch.equal(_vectors(bank, 7)[0], _vectors(bank)[0])


@pytest.mark.parametrize("kind", ["lstm", "mlp"])
def test_what_is_dropped_of_a_prompt_depends_on_its_own_seed(kind):
    encoders = [_encoder(kind, 4, start=start) for start in range(4)]
    seeds = [11, 12, 13, 11]
    together = _vectors(_bank(*encoders, dropout=0.5), *seeds)
    for encoder, seed, vectors in zip(encoders, seeds, together, strict=True):
        torch.testing.assert_close(vectors, _vectors(_bank(encoder, dropout=0.5), seed)[0])
    one = _bank(encoders[0], encoders[0], encoders[0], dropout=0.5)
    first, same, other = _vectors(one, 11, 11, 12)
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_dropout_takes_its_share_and_scales_the_rest_between_the_layers():
    encoder = _encoder("mlp", count=200, size=50)
    with torch.no_grad():
        encoder.embedding.weight.abs_()
        for layer in (encoder.mlp[0], encoder.mlp[-1]):
            nn.init.eye_(layer.weight)
            nn.init.zeros_(layer.bias)
    shares = []
    for seed in (3, 4, 2**62 + 5):
        (vectors,) = _vectors(_bank(encoder, dropout=0.2), seed)
        kept = vectors != 0
        torch.testing.assert_close(vectors[kept], encoder.embedding.weight[kept] / 0.8)
        shares.append(kept.double().mean().item())
        # Neither rows nor columns are dropped together.
        for dim in (0, 1):
            assert kept.double().mean(dim=dim).std() < 0.08
    assert shares == pytest.approx([0.8] * 3, abs=0.02)
    assert len(set(shares)) == 3


def test_dropout_disturbs_no_other_randomness():
    torch.manual_seed(5)
    undisturbed = torch.rand(3)
    torch.manual_seed(5)
    _vectors(_bank(_encoder("lstm"), dropout=0.5), 7)
    assert torch.equal(torch.rand(3), undisturbed)


def test_an_unknown_kind_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="'gru'; choose lstm, mlp or embedding"):
        PromptEncoder("gru", 3, 6)


def test_an_odd_size_is_refused_for_the_lstm_alone():
    with pytest.raises(ValueError, match="even embedding size, not 5"):
        PromptEncoder("lstm", 3, 5)
    assert _bank(PromptEncoder("mlp", 3, 5))().shape == (1, 3, 5)


# The encoder of a prompt


def embeddings(words: torch.Tensor) -> torch.nn.Embedding:
    return torch.nn.Embedding.from_pretrained(words, freeze=False)


def _made(kind: str = "lstm", name: str = "P17", *, count: int = 3, seed: int = 1, words=WORDS):
    config = method(encoder=kind).prompt
    encoder = make_encoder(config, count, embeddings(words), seed=seed, name=name)
    return torch_vectors(encoder).detach()


@pytest.mark.parametrize("kind", KINDS)
def test_a_prompt_begins_alike_whatever_was_made_before_it(kind):
    alone = _made(kind)
    for name in ("P30", "P36"):
        _made(kind, name)
    torch.rand(7)
    assert torch.equal(_made(kind), alone)


@pytest.mark.parametrize("kind", KINDS)
def test_another_name_or_seed_gives_another_beginning(kind):
    vectors = _made(kind)
    assert not torch.equal(_made(kind, "P30"), vectors)
    assert not torch.equal(_made(kind, seed=2), vectors)


@pytest.mark.parametrize("kind", KINDS)
def test_making_a_prompt_disturbs_no_other_randomness(kind):
    torch.manual_seed(5)
    undisturbed = torch.rand(3)
    torch.manual_seed(5)
    _made(kind)
    assert torch.equal(torch.rand(3), undisturbed)


def test_an_embedding_prompt_begins_as_words():
    rows = [tuple(row) for row in _made("embedding", count=30).tolist()]
    assert set(rows) <= {tuple(row) for row in WORDS.tolist()}
    assert len(set(rows)) > 5


@pytest.mark.parametrize("kind", KINDS)
def test_words_are_what_the_embedding_layer_makes_of_them(kind):
    """Gemma's layer scales its weight."""

    class Scaled(torch.nn.Embedding):
        def forward(self, ids):
            return super().forward(ids) * 3.0

    layers = (embeddings(WORDS), Scaled.from_pretrained(WORDS))
    config = method(encoder=kind, start="words").prompt
    encoders = [make_encoder(config, 5, layer, seed=1, name="P17") for layer in layers]
    plain, found = (EncoderBank([one], dropout=0.0, device=CPU)()[0].detach() for one in encoders)
    torch.testing.assert_close(found, 3.0 * plain, rtol=1e-4, atol=1e-4)


def _started(kind: str, *names: str) -> EncoderBank:
    config = method(encoder=kind, start="words").prompt
    encoders = [
        make_encoder(config, 3 + n, embeddings(WORDS), seed=1, name=s) for n, s in enumerate(names)
    ]
    return EncoderBank(encoders, dropout=0.0, device=CPU)


@pytest.mark.parametrize("kind", KINDS)
def test_a_prompt_that_starts_as_words_is_words_whatever_its_encoder(kind):
    bank = _started(kind, "P17", "P30")
    words = {tuple(row) for row in WORDS.tolist()}
    for vectors in _vectors(bank):
        assert {tuple(row) for row in vectors.round(decimals=4).tolist()} <= words
    alone = _vectors(_started(kind, "P17"))[0]
    torch.testing.assert_close(_vectors(bank)[0], alone)


@pytest.mark.parametrize("kind", ["lstm", "mlp"])
def test_what_an_encoder_changes_is_added_to_the_words(kind):
    bank = _started(kind, "P17", "P30", "P36")
    start = _vectors(bank)
    plain = _vectors(_random_twin(kind))
    with torch.no_grad():
        bank.weights["embedding"].mul_(2)
    twin = _random_twin(kind)
    with torch.no_grad():
        twin.weights["embedding"].mul_(2)
    for now, was, twins, twin_was in zip(_vectors(bank), start, _vectors(twin), plain, strict=True):
        torch.testing.assert_close(now - was, twins - twin_was, rtol=1e-4, atol=1e-5)
        assert (now - was).abs().max() > 1e-3
    kept = _vectors(bank)[2]
    bank.keep([2])
    torch.testing.assert_close(_vectors(bank)[0], kept)


@pytest.mark.parametrize("kind", KINDS)
def test_a_prompt_starts_as_the_words_that_are_chosen_for_it(kind):
    config = method(encoder=kind, start="manual").prompt
    words = embeddings(WORDS)
    chosen = ([5, 2, 5], [7])
    encoders = [
        make_encoder(config, len(ids), words, seed=1, name=str(n), words=ids)
        for n, ids in enumerate(chosen)
    ]
    bank = EncoderBank(encoders, dropout=0.0, device=CPU)
    for vectors, ids in zip(_vectors(bank), chosen, strict=True):
        torch.testing.assert_close(vectors, WORDS[ids], rtol=1e-4, atol=1e-4)


def _random_twin(kind: str) -> EncoderBank:
    """The same encoders, without words."""
    config = method(encoder=kind).prompt
    names = enumerate(("P17", "P30", "P36"))
    encoders = [make_encoder(config, 3 + n, embeddings(WORDS), seed=1, name=s) for n, s in names]
    return EncoderBank(encoders, dropout=0.0, device=CPU)


def test_words_of_a_half_precision_model_become_full_precision_prompts():
    assert _made("embedding", count=2, words=WORDS.bfloat16()).dtype == torch.float32
