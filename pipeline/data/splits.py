"""Disjoint train, dev and test sets, drawn with a seed."""

import random
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from typing import TypeVar

from pipeline.data.lama import Fact
from pipeline.errors import DataError

Item = TypeVar("Item")


def split_items(
    items: Sequence[Item],
    *,
    sizes: dict[str, int],
    group: Callable[[Item], Hashable],
    rng: random.Random,
) -> dict[str, list[Item]]:
    """Deal items into splits so that no group stands in two of them.

    Where there are fewer items than the sizes ask for, each split gets its proportional share.

    Args:
        items: what is dealt; none of them is used twice.
        sizes: split name -> wanted number of items. Splits are filled in this order.
        group: items with an equal group stay in one split.
        rng: the order in which groups are drawn.

    Returns:
        split name -> items, in the order drawn. A split may fall short by less than the largest
        group, and never exceeds its size.
    """
    groups: dict[Hashable, list[Item]] = {}
    for item in items:
        groups.setdefault(group(item), []).append(item)
    order = list(groups.values())
    rng.shuffle(order)

    wanted = sum(sizes.values())
    room = {name: size * min(len(items), wanted) // wanted for name, size in sizes.items()}
    dealt: dict[str, list[Item]] = {name: [] for name in sizes}
    for members in order:
        for name in sizes:
            if len(dealt[name]) + len(members) <= room[name]:
                dealt[name].extend(members)
                break
    return dealt


def holdout_split(
    items: Sequence[Item], *, share: float, group: Callable[[Item], Hashable], rng: random.Random
) -> dict[str, list[Item]]:
    """Take a dev set out of train, whole groups at a time; both keep their order.

    Args:
        items: the whole train set.
        share: of the items that goes to dev, from 0 to 1; at least one item.
        group: items with an equal group stay together.
        rng: the order in which groups are drawn.

    Raises:
        DataError: nothing would be left in train.
    """
    groups = Counter(map(group, items))
    order = list(groups)
    rng.shuffle(order)
    wanted = max(1, round(share * len(items)))
    held: set[Hashable] = set()
    count = 0
    for name in order:
        if count >= wanted:
            break
        held.add(name)
        count += groups[name]
    if count == len(items):
        raise DataError(
            f"{len(items)} examples in {len(groups)} groups leave none to learn from when "
            f"{share:g} of them are held out; take another protocol"
        )
    return {
        "train": [item for item in items if group(item) not in held],
        "dev": [item for item in items if group(item) in held],
    }


def multi_split(
    items: Sequence[Item],
    *,
    train_share: float,
    group: Callable[[Item], Hashable],
    rngs: Sequence[random.Random],
) -> list[dict[str, list[Item]]]:
    """Split items into train and dev several times, each time anew; whole groups at a time.

    Args:
        items: all labeled examples that there are.
        train_share: share of the items that goes to train (r), between 0 and 1.
        group: items with an equal group stay together.
        rngs: one for each split (K).

    Raises:
        DataError: there are fewer items than splits, or one split would have no train set.

    Source: FewNLU (arXiv 2109.12742), section 3.3, Multi-Splits.
    """
    if len(rngs) > len(items):
        raise DataError(
            f"{len(rngs)} splits of {len(items)} examples; lower superglue.splits.count or take "
            "more examples"
        )
    return [holdout_split(items, share=1 - train_share, group=group, rng=rng) for rng in rngs]


def take(items: Sequence[Item], size: int | None, rng: random.Random) -> list[Item]:
    """Return so many items, drawn with `rng`, in the order that they had; None: all."""
    if size is None or size >= len(items):
        return list(items)
    return [items[i] for i in sorted(rng.sample(range(len(items)), size))]


def split_facts(
    facts: Sequence[Fact], *, sizes: dict[str, int], rng: random.Random
) -> dict[str, list[Fact]]:
    """Split the facts of one relation; a subject-object pair stands in one split only.

    A fact and its mirror image (A borders B, B borders A) are kept together, so that one does not
    give the other away. A pair that occurs twice is used once.
    """
    unique = {(fact.sub_label, fact.obj_label): fact for fact in reversed(facts)}
    return split_items(
        list(reversed(unique.values())),
        sizes=sizes,
        group=lambda fact: frozenset((fact.sub_label, fact.obj_label)),
        rng=rng,
    )


def clean_splits(
    splits: Mapping[str, Sequence[Fact]],
    *,
    words: Collection[str],
    sizes: Mapping[str, int | None],
    rng: random.Random,
) -> tuple[dict[str, list[Fact]], dict[str, int]]:
    """Make given splits of one relation disjoint, then take at most so many facts of each.

    Test stays whole. A subject-object pair of test is taken out of train and dev, one of dev out
    of train. Facts whose object is none of the allowed words are left out.

    Args:
        splits: `train`, `dev` and `test` as they were given.
        words: the allowed objects.
        sizes: split name -> most facts; None: all. A smaller number is drawn with `rng`, in the
            order of the file.
        rng: for the draws.

    Returns:
        The splits, and how many facts of which split were left out and why
        (`train/overlap`, `test/outside_vocabulary`, ...).
    """
    counts: dict[str, int] = {}
    clean: dict[str, list[Fact]] = {}
    taken: set[tuple[str, str]] = set()
    for split in ("test", "dev", "train"):
        disjoint = [f for f in splits[split] if (f.sub_label, f.obj_label) not in taken]
        taken |= {(fact.sub_label, fact.obj_label) for fact in splits[split]}
        allowed = [fact for fact in disjoint if fact.obj_label in words]
        counts[f"{split}/overlap"] = len(splits[split]) - len(disjoint)
        counts[f"{split}/outside_vocabulary"] = len(disjoint) - len(allowed)
        clean[split] = take(allowed, sizes[split], rng)
    del counts["test/overlap"]
    return {split: clean[split] for split in splits}, counts
