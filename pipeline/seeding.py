"""Named random streams: each use has a separate one, so that their order does not matter."""

import hashlib
import random


def derive_seed(seed: int, *purpose: str) -> int:
    """Derive the seed of one purpose, independent of those of all others.

    Args:
        seed: the seed of `params.yaml`.
        purpose: what the randomness is for, such as `"train", "P17", "order"`.

    Returns:
        A whole number from 0 to 2**63 - 1, the same on every machine.
    """
    text = "\x1f".join([str(seed), *purpose])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def make_random(seed: int, *purpose: str) -> random.Random:
    """Python's generator, seeded for one purpose (see `derive_seed`)."""
    return random.Random(derive_seed(seed, *purpose))
