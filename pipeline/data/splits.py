"""Disjoint train, dev and test sets, drawn with a seed."""

import random
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TypeVar

import numpy as np

from pipeline.errors import DataError

Item = TypeVar("Item")


def split_items(
    items: Sequence[Item],
    *,
    sizes: Mapping[str, int | None],
    group: Callable[[Item], Hashable],
    rng: random.Random,
    stratum: Callable[[Item], Hashable] | None = None,
) -> dict[str, list[Item]]:
    """Distribute items over splits so that no group is in two of them.

    If there are fewer items than the sizes request, each split gets its proportional share.

    Args:
        items: each is used once at most.
        sizes: split name -> requested number of items, None for all, in the order in which splits
            are filled.
        group: items with an equal group stay in one split.
        rng: shuffles the groups.
        stratum: groups are spread so that, as far as their sizes allow, each split has the same
            share of every stratum, that of a group's first item; None: at random.

    Returns:
        Split name -> items, in the order drawn. A split may fall short by less than the largest
        group, and never exceeds its size.
    """
    groups: dict[Hashable, list[Item]] = {}
    for item in items:
        groups.setdefault(group(item), []).append(item)
    order = list(groups.values())
    rng.shuffle(order)
    if stratum is not None:
        order = _spread(order, [stratum(members[0]) for members in order])

    counts = {name: len(items) if size is None else size for name, size in sizes.items()}
    total = sum(counts.values())
    room = {name: size * min(len(items), total) // total for name, size in counts.items()}
    splits: dict[str, list[Item]] = {name: [] for name in sizes}
    for members in order:
        for name in sizes:
            if len(splits[name]) + len(members) <= room[name]:
                splits[name].extend(members)
                break
    return splits


def _spread(items: Sequence[Item], strata: Sequence[Hashable]) -> list[Item]:
    """Items in an order in which every stretch has its share of each stratum."""
    totals, seen = Counter(strata), Counter[Hashable]()
    places = []
    for stratum in strata:
        seen[stratum] += 1
        places.append((seen[stratum] - 0.5) / totals[stratum])
    return [items[i] for i in sorted(range(len(items)), key=places.__getitem__)]


def holdout_split(
    items: Sequence[Item], *, fraction: float, group: Callable[[Item], Hashable], rng: random.Random
) -> dict[str, list[Item]]:
    """Move a fraction of a train set, at least one item, to `dev`; both keep their order.

    Items with an equal group stay together.

    Raises:
        DataError: train would be empty.
    """
    groups = Counter(map(group, items))
    order = list(groups)
    rng.shuffle(order)
    dev_size = max(1, round(fraction * len(items)))
    dev_groups: set[Hashable] = set()
    count = 0
    for name in order:
        if count >= dev_size:
            break
        dev_groups.add(name)
        count += groups[name]
    if count == len(items):
        raise DataError(
            f"train is empty after {fraction:g} of {len(items)} examples in {len(groups)} groups "
            "are held out; choose another superglue.protocol"
        )
    return {
        "train": [item for item in items if group(item) not in dev_groups],
        "dev": [item for item in items if group(item) in dev_groups],
    }


def multi_split(
    items: Sequence[Item],
    *,
    train_fraction: float,
    group: Callable[[Item], Hashable],
    rngs: Sequence[random.Random],
) -> list[dict[str, list[Item]]]:
    """Split items into train and dev several times, independently, in whole groups.

    `train_fraction` (r) of the items goes to train; there is one of `rngs` per split (K).

    Raises:
        DataError: there are fewer items than splits, or a train set would be empty.

    Source: FewNLU (arXiv 2109.12742), section 3.3, Multi-Splits.
    """
    if len(rngs) > len(items):
        raise DataError(
            f"{len(rngs)} splits of {len(items)} examples; lower superglue.splits.count or use "
            "more examples"
        )
    return [holdout_split(items, fraction=1 - train_fraction, group=group, rng=rng) for rng in rngs]


# The order in which LM-BFF's script draws the splits of its default seeds.
_LM_BFF_SEEDS = (100, 13, 21, 42, 87)


def few_shot_splits(
    items: Sequence[Item],
    *,
    label: Callable[[Item], Hashable],
    per_class: int,
    seeds: Sequence[int],
    in_place: bool,
) -> dict[int, dict[str, list[Item]]]:
    """Draw equally many items of each label for train, and as many for dev, with each of the seeds.

    Args:
        items: the whole train set, in the order of the official file.
        label: the label of an item.
        per_class: number of items of each label (LM-BFF's K).
        seeds: of NumPy's legacy generator, whose stream never changes.
        in_place: whether each of LM-BFF's default seeds shuffles what the one before it has left.
            There this is so for files without a header, as they are not copied (CoLA).

    Returns:
        Seed -> train and dev, label after label, in the order in which they are drawn.

    Raises:
        DataError: a label has too few items.

    Source: princeton-nlp/LM-BFF, tools/generate_k_shot_data.py; the same files, byte by byte.
    """
    splits = {}
    for seed in seeds:
        before = in_place and seed in _LM_BFF_SEEDS
        shuffled = list(items)
        for each in (*_LM_BFF_SEEDS[: _LM_BFF_SEEDS.index(seed) if before else 0], seed):
            np.random.RandomState(each).shuffle(shuffled)  # type: ignore[arg-type]
        by_label: dict[Hashable, list[Item]] = {}
        for item in shuffled:
            by_label.setdefault(label(item), []).append(item)
        for name, own in by_label.items():
            if len(own) < 2 * per_class:
                raise DataError(
                    f"superglue.splits.per_class is {per_class}, for train and again for dev, but "
                    f"only {len(own)} examples have the label {name}; lower it"
                )
        splits[seed] = {
            "train": [item for own in by_label.values() for item in own[:per_class]],
            "dev": [item for own in by_label.values() for item in own[per_class : 2 * per_class]],
        }
    return splits


def subsample(items: Sequence[Item], size: int | None, rng: random.Random) -> list[Item]:
    """At most `size` items, drawn with `rng`, in their original order; None keeps all."""
    if size is None or size >= len(items):
        return list(items)
    return [items[i] for i in sorted(rng.sample(range(len(items)), size))]


def check_not_empty(place: str, unit: str, splits: dict[str, list[Item]]) -> None:
    """Check that no split is empty: a group may be larger than the size of its split.

    The message has `place`, such as `lama.splits: P17`, and `unit` of the items, in the plural.

    Raises:
        DataError: a split is empty.
    """
    empty = [name for name, items in splits.items() if not items]
    if empty:
        sizes = ", ".join(f"{name} {len(items)}" for name, items in splits.items())
        raise DataError(
            f"{place}: no {unit} in {', '.join(empty)} (sizes: {sizes}); groups of {unit} stay in "
            f"one split, so request more {unit} there, or fewer elsewhere"
        )
