"""Counts the operations that torch runs; on a GPU each is a launch."""

from collections import Counter
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

# They move no data.
_VIEWS = {
    "alias", "as_strided", "detach", "diagonal", "empty", "empty_like", "empty_strided", "expand",
    "new_empty", "permute", "select", "slice", "split", "split_with_sizes", "squeeze", "t",
    "transpose", "unbind", "unsqueeze", "view", "_reshape_alias", "_unsafe_view",
}  # fmt: skip


class Operations(TorchDispatchMode):
    """Counts operations by name, and the bytes that they read and write, while it is active."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()
        self.bytes = 0

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        name = operation._overloadpacket.__name__
        self.counts[name] += 1
        result = operation(*args, **(kwargs or {}))
        if name not in _VIEWS:
            self.bytes += _bytes([*args, result])
        return result


def _bytes(values: Any) -> int:
    if isinstance(values, Tensor):
        return values.nbytes
    return sum(map(_bytes, values)) if isinstance(values, list | tuple) else 0


def count_operations(run: Callable[[], object]) -> int:
    """Number of operations of a call, views included."""
    with Operations() as counted:
        run()
    return counted.counts.total()
