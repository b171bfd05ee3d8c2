"""Counts the operations that torch runs; on a GPU each is a launch."""

from collections import Counter
from collections.abc import Callable
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode


class Operations(TorchDispatchMode):
    """Counts operations by name while it is active."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        self.counts[operation._overloadpacket.__name__] += 1
        return operation(*args, **(kwargs or {}))


def count_operations(run: Callable[[], object]) -> int:
    """Number of operations of a call, views included."""
    with Operations() as counted:
        run()
    return counted.counts.total()
