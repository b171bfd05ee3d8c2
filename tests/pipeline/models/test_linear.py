"""Each layer against torch's own in double precision."""

import copy

import pytest
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from pipeline.models import linear as module
from pipeline.models.language_model import PromptedModel
from pipeline.models.linear import linear, torch_layers, use_onednn

needs_onednn = pytest.mark.skipif(
    not (torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()),
    reason="torch is built without MKL or oneDNN",
)


class Derived(nn.Linear):
    """Of another kind, as a quantized layer is."""


@pytest.fixture
def products(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes of the rows that oneDNN gets."""
    shapes = []
    multiply = module._multiply

    def noted(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        shapes.append(tuple(rows.shape))
        return multiply(rows, weight, bias)

    monkeypatch.setattr(module, "_multiply", noted)
    return shapes


def layer(kind: type[nn.Module], *, bias: bool = True) -> nn.Module:
    """From 48 numbers to 32."""
    torch.manual_seed(3)
    made = kind(32, 48) if kind is Conv1D else kind(48, 32, bias=bias)
    if bias:
        nn.init.normal_(made.bias)
    return made


@needs_onednn
@pytest.mark.parametrize("shape", [(1, 48), (40, 48), (2, 20, 48), (2, 3, 5, 48), (0, 48)])
@pytest.mark.parametrize(("kind", "bias"), [(nn.Linear, True), (nn.Linear, False), (Conv1D, True)])
def test_a_layer_and_all_its_gradients_are_those_of_torch(
    products: list[tuple[int, ...]], kind: type[nn.Module], bias: bool, shape: tuple[int, ...]
) -> None:
    ours = layer(kind, bias=bias)
    theirs = copy.deepcopy(ours).double()
    use_onednn(ours)
    rows = torch.randn(shape)
    inputs, results = [], []
    for each, dtype in ((ours, torch.float32), (theirs, torch.float64)):
        inputs.append(rows.to(dtype, copy=True).requires_grad_())
        results.append(each(inputs[-1]))
        (results[-1] * torch.arange(32)).sum().backward()
    assert len(products) == 2  # of the rows and of their gradient
    pairs = [results, [each.grad for each in inputs]]
    pairs += [[p.grad, q.grad] for p, q in zip(ours.parameters(), theirs.parameters(), strict=True)]
    for found, expected in pairs:
        assert found is not None
        assert found.shape == expected.shape
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-3)


@needs_onednn
def test_a_frozen_layer_keeps_only_its_weight_for_the_gradient_of_the_rows() -> None:
    ours = layer(nn.Linear).requires_grad_(False)
    use_onednn(ours)
    rows = torch.randn(4, 48, requires_grad=True)
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        result = ours(rows)
    assert [each.data_ptr() for each in kept] == [ours.weight.data_ptr()]
    result.sum().backward()
    torch.testing.assert_close(rows.grad, ours.weight.sum(0).expand(4, 48), rtol=1e-4, atol=1e-5)
    assert all(each.grad is None for each in ours.parameters())


@needs_onednn
def test_gradients_of_gradients_are_those_of_torch() -> None:
    rows, weight = torch.randn(4, 48, requires_grad=True), torch.randn(32, 48, requires_grad=True)
    found = []
    for multiply in (linear, nn.functional.linear):
        (first,) = torch.autograd.grad(multiply(rows, weight).sin().sum(), rows, create_graph=True)
        found.append(torch.autograd.grad(first.square().sum(), (rows, weight)))
    torch.testing.assert_close(*found, rtol=1e-3, atol=1e-3)


@needs_onednn
def test_results_can_be_changed_in_place_as_those_of_torch() -> None:
    """As DeBERTa does with views of them."""
    ours = layer(nn.Linear)
    use_onednn(ours)
    scores = ours(torch.randn(2, 5, 48, requires_grad=True)).view(10, 32).t()
    scores /= 2
    scores.sum().backward()
    torch.testing.assert_close(ours.bias.grad, torch.full((32,), 5.0))


@needs_onednn
def test_weights_may_have_any_strides() -> None:
    rows, weight = torch.randn(6, 48), torch.randn(48, 64)[:, ::2].t()
    torch.testing.assert_close(linear(rows, weight), rows @ weight.t(), rtol=1e-4, atol=1e-4)


def test_other_types_and_autocast_are_left_to_torch(products: list[tuple[int, ...]]) -> None:
    ours = layer(nn.Linear)
    use_onednn(ours)
    rows = torch.randn(4, 48)
    assert ours(rows[0]).shape == (32,)  # a vector
    with torch.autocast("cpu", torch.bfloat16):
        assert ours(rows).dtype == torch.bfloat16
    for dtype in (torch.float64, torch.bfloat16):
        assert ours.to(dtype)(rows.to(dtype)).dtype == dtype
    assert not products


@needs_onednn
def test_the_layers_of_a_network_are_torch_s_own_within_the_context(
    tiny_models: dict[str, PromptedModel], products: list[tuple[int, ...]]
) -> None:
    network = tiny_models["gpt2"].network
    ids = torch.tensor([[5, 6, 7]])
    expected = network(ids).logits
    count = len(products)
    assert count > 4
    with torch_layers(network):
        assert {type(each) for each in network.modules()} >= {nn.Linear, Conv1D}
        torch.testing.assert_close(network(ids).logits, expected)
    assert len(products) == count
    network(ids)
    assert len(products) == 2 * count


def test_layers_of_derived_classes_keep_their_forward(products: list[tuple[int, ...]]) -> None:
    other = Derived(4, 4)
    network = nn.Sequential(other)
    use_onednn(network)
    network(torch.randn(2, 4))
    assert type(other) is Derived
    assert not products
