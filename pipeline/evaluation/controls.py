"""Controls: what a method without a language model reaches."""

from collections import Counter
from collections.abc import Sequence


def majority_share(train: Sequence[str], test: Sequence[str]) -> float:
    """Return the share of test answers that equal the most frequent answer of train.

    A tuned prompt can learn which answers are frequent; this is what that alone is worth.
    Of equally frequent answers the first in the alphabet counts.

    Raises:
        ValueError: one of the two is empty.
    """
    if not train or not test:
        raise ValueError("no answers to count")
    counts = Counter(train)
    majority = min(counts, key=lambda answer: (-counts[answer], answer))
    return sum(answer == majority for answer in test) / len(test)
