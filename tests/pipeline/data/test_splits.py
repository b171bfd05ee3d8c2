import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data.splits import multi_split, split_items
from pipeline.errors import DataError

NAMES = ("train", "dev", "test")

sizes_of_splits = st.tuples(*[st.integers(1, 12)] * 3).map(
    lambda sizes: dict(zip(NAMES, sizes, strict=True))
)
# The group of each item.
groups_of_items = st.lists(st.integers(0, 15), max_size=50)


def _deal(groups, sizes, seed=0):
    return split_items(
        list(enumerate(groups)),
        sizes=sizes,
        group=lambda item: item[1],
        rng=random.Random(seed),
    )


@settings(deadline=None)
@given(groups=groups_of_items, sizes=sizes_of_splits, seed=st.integers(0, 5))
def test_an_item_is_dealt_once_and_a_group_is_in_one_split_only(groups, sizes, seed):
    dealt = _deal(groups, sizes, seed)
    items = [item for split in dealt.values() for item in split]
    assert len(set(items)) == len(items)
    assert set(items) <= set(enumerate(groups))
    places = {(group, name) for name in NAMES for _, group in dealt[name]}
    assert max(Counter(group for group, _ in places).values(), default=1) == 1


@settings(deadline=None)
@given(groups=groups_of_items, sizes=sizes_of_splits, seed=st.integers(0, 5))
def test_a_group_is_dealt_whole(groups, sizes, seed):
    dealt = _deal(groups, sizes, seed)
    whole = Counter(groups)
    for split in dealt.values():
        for group, count in Counter(group for _, group in split).items():
            assert count == whole[group]


@settings(deadline=None)
@given(groups=groups_of_items, sizes=sizes_of_splits, seed=st.integers(0, 5))
def test_a_split_has_its_size_but_for_less_than_a_group(groups, sizes, seed):
    dealt = _deal(groups, sizes, seed)
    largest = max(Counter(groups).values(), default=1)
    wanted = sum(sizes.values())
    for name, size in sizes.items():
        share = size * min(len(groups), wanted) / wanted
        assert len(dealt[name]) <= share + 1e-9
        assert len(dealt[name]) > int(share + 1e-9) - largest


@settings(deadline=None)
@given(count=st.integers(0, 40), sizes=sizes_of_splits)
def test_items_by_themselves_fill_the_splits_exactly(count, sizes):
    dealt = _deal(range(count), sizes)
    wanted = sum(sizes.values())
    assert {name: len(dealt[name]) for name in NAMES} == {
        name: size * min(count, wanted) // wanted for name, size in sizes.items()
    }


@pytest.mark.parametrize(
    ("count", "sizes", "shares"),
    [
        (310, {"train": 120, "dev": 40, "test": 150}, (120, 40, 150)),
        (1000, {"train": 120, "dev": 40, "test": 150}, (120, 40, 150)),
        (31, {"train": 120, "dev": 40, "test": 150}, (12, 4, 15)),
        (0, {"train": 120, "dev": 40, "test": 150}, (0, 0, 0)),
        (7, {"train": 7, "dev": 7, "test": 35}, (1, 1, 5)),
        (58, {"train": 10, "dev": 40, "test": 50}, (5, 23, 29)),
    ],
)
def test_too_few_items_are_shared_in_proportion(count, sizes, shares):
    dealt = _deal(range(count), sizes)
    assert tuple(len(dealt[name]) for name in NAMES) == shares


def test_pairs_fill_even_sizes_and_leave_odd_ones_one_short():
    groups = [number // 2 for number in range(40)]
    dealt = _deal(groups, {"train": 8, "dev": 5, "test": 6})
    assert [len(dealt[name]) for name in NAMES] == [8, 4, 6]


@settings(deadline=None)
@given(groups=groups_of_items, sizes=sizes_of_splits, seed=st.integers(0, 5))
def test_the_same_seed_gives_the_same_splits(groups, sizes, seed):
    assert _deal(groups, sizes, seed) == _deal(groups, sizes, seed)


def test_another_seed_gives_other_splits():
    sizes = {"train": 10, "dev": 10, "test": 10}
    assert _deal(range(50), sizes, seed=0) != _deal(range(50), sizes, seed=1)


def test_every_item_has_the_same_chance_of_each_split():
    sizes = {"train": 2, "dev": 2, "test": 4}
    counts = Counter(
        (item, name)
        for seed in range(2000)
        for name, items in _deal(range(8), sizes, seed).items()
        for item, _ in items
    )
    for item in range(8):
        # 500, 500, 1000 are expected; five standard deviations are 97 and 112.
        assert counts[item, "train"] == pytest.approx(500, abs=97)
        assert counts[item, "dev"] == pytest.approx(500, abs=97)
        assert counts[item, "test"] == pytest.approx(1000, abs=112)


def _several(groups, *, share, count):
    return multi_split(
        list(enumerate(groups)),
        train_fraction=share,
        group=lambda item: item[1],
        rngs=[random.Random(seed) for seed in range(count)],
    )


def test_each_of_several_splits_deals_all_items_anew():
    splits = _several(range(64), share=0.5, count=4)
    assert [(len(split["train"]), len(split["dev"])) for split in splits] == [(32, 32)] * 4
    for split in splits:
        assert sorted([*split["train"], *split["dev"]]) == list(enumerate(range(64)))
    assert len({tuple(split["train"]) for split in splits}) == 4


def test_a_group_crosses_none_of_several_splits():
    groups = [number // 5 for number in range(60)]
    for split in _several(groups, share=0.75, count=5):
        train, dev = ({group for _, group in split[name]} for name in ("train", "dev"))
        assert not train & dev
        assert train | dev == set(groups)


def test_more_splits_than_examples_are_refused():
    with pytest.raises(DataError, match=r"5 splits of 4 examples; lower superglue\.splits\.count"):
        _several(range(4), share=0.5, count=5)
