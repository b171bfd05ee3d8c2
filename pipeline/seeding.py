"""Randomness by name: every use has a stream of its own, so that order changes nothing."""

import hashlib
import random


def derive_seed(seed: int, *purpose: str) -> int:
    """Return a seed for one purpose, independent of every other purpose's.

    Args:
        seed: the seed of `params.yaml`.
        purpose: what the randomness is for, such as `"train", "P17", "order"`.

    Returns:
        A whole number from 0 to 2**63 - 1, the same on every machine.
    """
    text = "\x1f".join([str(seed), *purpose])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def make_random(seed: int, *purpose: str) -> random.Random:
    """Return Python's generator seeded for one purpose (see `derive_seed`)."""
    return random.Random(derive_seed(seed, *purpose))
