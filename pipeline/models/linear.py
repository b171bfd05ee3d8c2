"""Linear layers of a network in single precision on a CPU, by oneDNN.

torch multiplies float32 matrices by MKL there. oneDNN, which is in the same builds, is faster on an
AMD EPYC.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

# The operator that torch's compiler uses for linear layers. It is not a public name, so a version
# of torch without it computes as before.
_AVAILABLE = (
    torch.backends.mkl.is_available()
    and torch.backends.mkldnn.is_available()
    and hasattr(torch.ops.mkldnn, "_linear_pointwise")
)


def use_onednn(network: nn.Module) -> None:
    """Let the linear layers of a network compute by `linear`; other kinds of layers keep theirs.

    A layer whose class was derived from a plain one, such as a quantized one, is another kind.
    """
    _change(network, _CLASSES)


@contextmanager
def torch_layers(network: nn.Module) -> Iterator[None]:
    """Let a network of `use_onednn` compute by torch's own layers in a `with` statement."""
    _change(network, {ours: plain for plain, ours in _CLASSES.items()})
    try:
        yield
    finally:
        use_onednn(network)


def linear(rows: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """As `torch.nn.functional.linear`, up to rounding.

    Args:
        rows: (..., in) float.
        weight: (out, in) float, with any strides.
        bias: (out,) float.

    Returns:
        (..., out) float.
    """
    suitable = (
        _AVAILABLE
        and rows.device.type == "cpu"
        and rows.dtype == weight.dtype == torch.float32
        and rows.ndim > 1
        and not torch.is_autocast_enabled("cpu")
    )
    if not suitable:
        return nn.functional.linear(rows, weight, bias)
    # Reshaped here, as a view that is made within `_Product` could not be changed in place.
    product: Tensor = _Product.apply(rows.flatten(0, -2), weight, bias)  # type: ignore[no-untyped-call]
    return product.view(*rows.shape[:-1], len(weight))


class _Linear(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return linear(input, self.weight, self.bias)


class _Conv1D(Conv1D):
    """GPT-2's linear layer, whose weight is (in, out)."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight.t(), self.bias)


_CLASSES: dict[type[nn.Module], type[nn.Module]] = {nn.Linear: _Linear, Conv1D: _Conv1D}


def _change(network: nn.Module, classes: Mapping[type[nn.Module], type[nn.Module]]) -> None:
    for module in network.modules():
        if type(module) in classes:
            module.__class__ = classes[type(module)]


class _Product(torch.autograd.Function):
    """The product of `linear` for (rows, in), and its gradients."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        for_rows, for_weight, _ = ctx.needs_input_grad
        ctx.save_for_backward(rows if for_weight else None, weight if for_rows else None)
        return _multiply(rows, weight, bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        rows, weight = ctx.saved_tensors
        for_rows, for_weight, for_bias = ctx.needs_input_grad
        # By this class, for the gradients of gradients.
        of_rows = _Product.apply(gradient, weight.t(), None) if for_rows else None  # type: ignore[no-untyped-call]
        return (
            of_rows,
            gradient.t() @ rows if for_weight else None,  # not faster by oneDNN
            gradient.sum(0) if for_bias else None,
        )


def _multiply(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    product: Tensor = torch.ops.mkldnn._linear_pointwise(rows, weight, bias, "none", [], "")
    return product
