import pytest
import torch
from torch import Tensor, nn

from pipeline.prompts.encoders import PromptEncoder

KINDS = ("lstm", "mlp", "embedding")


def _encoder(kind: str, count: int = 5, size: int = 6, dropout: float = 0.0) -> PromptEncoder:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
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


@pytest.mark.parametrize(("kind", "drops"), [("lstm", True), ("mlp", True), ("embedding", False)])
def test_dropout_acts_in_training_and_only_there(kind, drops):
    encoder = _encoder(kind, dropout=0.5)
    assert torch.equal(encoder(), encoder()) is not drops
    encoder.eval()
    assert torch.equal(encoder(), encoder())


@pytest.mark.parametrize("kind", KINDS)
def test_without_dropout_training_and_evaluation_agree(kind):
    encoder = _encoder(kind)
    trained = encoder()
    assert torch.equal(trained, encoder.eval()())


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
