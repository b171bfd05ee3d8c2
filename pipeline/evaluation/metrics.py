"""Metrics: pure functions of scores and right answers."""

from collections.abc import Sequence

from torch import Tensor


def accuracy(log_probs: Tensor, targets: Tensor) -> float:
    """Return the share of rows whose best word is the right one.

    On LAMA this is P@1 of a relation.

    Args:
        log_probs: (rows, words) float; of equal scores the first word is the best.
        targets: (rows,) int64.

    Raises:
        ValueError: there are no rows.
    """
    if not len(targets):
        raise ValueError("no rows to score")
    return float((log_probs.argmax(dim=1) == targets).double().mean())


def ranks(log_probs: Tensor, targets: Tensor) -> Tensor:
    """Return (rows,) int64: the right answer's rank, 1 for the best; equal scores rank alike."""
    right = log_probs.gather(1, targets.unsqueeze(1))
    return (log_probs > right).sum(dim=1) + 1


def mean(values: Sequence[float]) -> float:
    """Return the unweighted mean, as LAMA averages relations.

    Raises:
        ValueError: there are no values.
    """
    if not values:
        raise ValueError("no values to average")
    return sum(values) / len(values)
