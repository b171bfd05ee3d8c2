import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from pipeline.training import prompt_encoders as module
from pipeline.training.prompt_encoders import (
    PromptEncoder,
    encode,
    make_encoder,
    stack_prompts,
)
from tests.jobs import method

WORDS = torch.arange(80.0).reshape(20, 4)
KINDS = ("lstm", "mlp", "embedding")


def _encoder(
    kind: str, count: int = 5, size: int = 6, dropout: float = 0.0, *, start: int = 1
) -> PromptEncoder:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(start)
        return PromptEncoder(kind, count, size, dropout=dropout).double()


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
        torch.testing.assert_close(encoder(), expected)
    assert expected.shape == (count, 6)


def test_the_lstm_has_the_shape_of_the_released_code():
    lstm = _encoder("lstm").lstm
    assert (lstm.num_layers, lstm.bidirectional, lstm.hidden_size) == (2, True, 3)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_reach_every_parameter(kind):
    encoder = _encoder(kind)
    encoder().square().sum().backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name


def _layers_of_torch(encoder: PromptEncoder) -> Tensor:
    """Return what the same weights give where torch's own modules run them."""
    rows: Tensor = encoder.embedding.weight
    if encoder.kind == "lstm":
        rows = encoder.lstm(rows)[0]
    return encoder.mlp(rows) if encoder.kind != "embedding" else rows


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("counts", [(5,), (4, 4, 4), (3, 1, 9, 3, 1, 3)])
@pytest.mark.parametrize("most", [None, 1, 12_000])
def test_encoders_side_by_side_give_what_torch_gives_for_each(kind, counts, most, monkeypatch):
    """All at once, one at a time, and two LSTMs at a time of three."""
    if most is not None:
        monkeypatch.setattr(module, "_MAX_BYTES_ON_CPU", most)
    encoders = [_encoder(kind, count, start=start) for start, count in enumerate(counts)]
    made = encode(encoders)
    torch.cat(made).square().sum().backward()
    for encoder, vectors in zip(encoders, made, strict=True):
        gradients = [parameter.grad.clone() for parameter in encoder.parameters()]
        expected = _layers_of_torch(encoder)
        torch.testing.assert_close(vectors, expected)
        encoder.zero_grad()
        expected.square().sum().backward()
        torch.testing.assert_close(gradients, [own.grad for own in encoder.parameters()])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [1, 3])
def test_clipped_gradients_have_the_norm_that_was_asked_for(kind, count):
    encoders = [_encoder(kind, start=start) for start in range(count)]
    (torch.cat(encode(encoders)) * 100).square().sum().backward()
    for encoder in encoders:
        norm = nn.utils.clip_grad_norm_(encoder.parameters(), 1.0)
        clipped = [parameter.grad.clone() for parameter in encoder.parameters()]
        assert norm > 10
        assert torch.cat([gradient.flatten() for gradient in clipped]).norm().item() == (
            pytest.approx(1.0, abs=1e-6)
        )
        encoder.zero_grad()
        (_layers_of_torch(encoder) * 100).square().sum().backward()
        nn.utils.clip_grad_norm_(encoder.parameters(), 1.0)
        torch.testing.assert_close(clipped, [own.grad for own in encoder.parameters()])


class _Counting(TorchDispatchMode):
    """Counts the operations that torch runs; on a GPU each is a launch."""

    count = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        self.count += 1
        return operation(*args, **(kwargs or {}))


@pytest.mark.parametrize("kind", ["lstm", "mlp"])
def test_many_encoders_take_as_many_operations_as_one(kind):
    counts = []
    for number in (1, 2, 41):
        encoders = [_encoder(kind, start=start) for start in range(number)]
        with _Counting() as counting:
            encode(encoders)
        counts.append(counting.count)
    assert counts == [counts[0]] * 3
    assert counts[0] > (100 if kind == "lstm" else 10)


def test_no_encoders_give_nothing():
    assert encode([]) == []


@pytest.mark.parametrize(("kind", "drops"), [("lstm", True), ("mlp", True), ("embedding", False)])
def test_dropout_acts_with_a_seed_and_only_then(kind, drops):
    encoder = _encoder(kind, dropout=0.5)
    assert torch.equal(encoder(), encoder())
    assert torch.equal(encoder(7), encoder(7))
    assert torch.equal(encoder(7), encoder()) is not drops
    assert torch.equal(encoder(7), encoder(8)) is not drops


@pytest.mark.parametrize("kind", KINDS)
def test_without_dropout_a_seed_changes_nothing(kind):
    encoder = _encoder(kind)
    assert torch.equal(encoder(7), encoder())


@pytest.mark.parametrize("kind", ["lstm", "mlp"])
def test_what_is_dropped_of_a_prompt_hangs_on_its_own_seed(kind):
    encoders = [_encoder(kind, count, dropout=0.5, start=count) for count in (4, 9, 4, 4)]
    seeds = [11, 12, 13, 11]
    for encoder, seed, vectors in zip(encoders, seeds, encode(encoders, seeds), strict=True):
        torch.testing.assert_close(vectors, encoder(seed))


def test_dropout_takes_its_share_and_scales_the_rest_between_the_layers():
    encoder = _encoder("mlp", count=200, size=50, dropout=0.2)
    with torch.no_grad():
        encoder.embedding.weight.abs_()
        for layer in (encoder.mlp[0], encoder.mlp[-1]):
            nn.init.eye_(layer.weight)
            nn.init.zeros_(layer.bias)
    vectors, whole = encoder(3), encoder.embedding.weight
    kept = vectors != 0
    torch.testing.assert_close(vectors[kept], whole[kept] / 0.8)
    assert kept.double().mean().item() == pytest.approx(0.8, abs=0.02)


def test_dropout_disturbs_no_other_randomness():
    torch.manual_seed(5)
    undisturbed = torch.rand(3)
    torch.manual_seed(5)
    _encoder("lstm", dropout=0.5)(7)
    assert torch.equal(torch.rand(3), undisturbed)


def test_an_embedding_begins_where_it_is_told_to():
    encoder = _encoder("embedding", count=2)
    vectors = torch.arange(12.0, dtype=torch.float64).reshape(2, 6)
    encoder.start_from(vectors)
    assert torch.equal(encoder(), vectors)
    assert encoder().requires_grad


def test_an_unknown_kind_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="'gru'; choose lstm, mlp or embedding"):
        PromptEncoder("gru", 3, 6, dropout=0.0)


def test_an_odd_size_is_refused_for_the_lstm_alone():
    with pytest.raises(ValueError, match="even embedding size, not 5"):
        PromptEncoder("lstm", 3, 5, dropout=0.0)
    assert PromptEncoder("mlp", 3, 5, dropout=0.0)().shape == (3, 5)


# The encoder of a prompt, and the vectors of several


def _made(kind: str = "lstm", name: str = "P17", *, count: int = 3, seed: int = 1, words=WORDS):
    return make_encoder(method(encoder=kind).prompt, count, words, seed=seed, name=name)


@pytest.mark.parametrize("kind", KINDS)
def test_a_prompt_begins_alike_whatever_was_made_before_it(kind):
    alone = _made(kind)()
    for name in ("P30", "P36"):
        _made(kind, name)
    torch.rand(7)
    assert torch.equal(_made(kind)(), alone)


@pytest.mark.parametrize("kind", KINDS)
def test_another_name_or_seed_gives_another_beginning(kind):
    vectors = _made(kind)()
    assert not torch.equal(_made(kind, "P30")(), vectors)
    assert not torch.equal(_made(kind, seed=2)(), vectors)


@pytest.mark.parametrize("kind", KINDS)
def test_making_a_prompt_disturbs_no_other_randomness(kind):
    torch.manual_seed(5)
    undisturbed = torch.rand(3)
    torch.manual_seed(5)
    _made(kind)
    assert torch.equal(torch.rand(3), undisturbed)


def test_an_embedding_prompt_begins_as_words():
    words = WORDS.clone().requires_grad_()
    encoder = _made("embedding", count=30, words=words)
    rows = [tuple(row) for row in encoder().tolist()]
    assert set(rows) <= {tuple(row) for row in WORDS.tolist()}
    assert len(set(rows)) > 5


def test_words_of_a_half_precision_model_become_full_precision_prompts():
    encoder = _made("embedding", count=2, words=WORDS.bfloat16())
    assert encoder().dtype == torch.float32


def test_joined_prompts_are_filled_up_with_zeros():
    prompts = [_made("mlp", "a", count=2)(), _made("mlp", "b", count=3)(),
               _made("lstm", "c", count=1)()]  # fmt: skip
    joined = stack_prompts(prompts)
    assert joined.shape == (3, 3, 4)
    for row, prompt in zip(joined, prompts, strict=True):
        assert torch.equal(row[: len(prompt)], prompt)
        assert not row[len(prompt) :].any()


def test_no_prompts_join_to_none():
    assert stack_prompts([]) is None


def test_a_prompts_gradient_is_what_it_would_be_alone():
    together = [_made("lstm", name) for name in "abc"]
    stack_prompts([encoder() for encoder in together])[[0, 2]].square().sum().backward()
    alone = _made("lstm", "a")
    alone().square().sum().backward()
    for one, other in zip(together[0].parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)
    assert all(not parameter.grad.any() for parameter in together[1].parameters())
