import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.seeding import derive_seed, make_random

names = st.text(st.characters(exclude_categories=["C"]))


def test_seeds_are_the_same_on_every_machine():
    assert derive_seed(34, "train", "P17") == 3305555047091722369
    assert make_random(34, "train", "P17").sample(range(100), 3) == [94, 67, 74]


@given(seed=st.integers(min_value=0), purpose=st.lists(names))
def test_a_seed_is_the_beginning_of_a_digest(seed, purpose):
    digest = hashlib.sha256("\x1f".join([str(seed), *purpose]).encode()).hexdigest()
    bits = bin(int(digest, 16))[2:].zfill(256)
    assert derive_seed(seed, *purpose) == int(bits[:63], 2)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ((1, "ab"), (1, "a", "b")),
        ((1, "2"), (12,)),
        ((1, "a", "b"), (1, "b", "a")),
        ((1,), (1, "")),
    ],
)
def test_names_do_not_melt_into_each_other(one, other):
    assert derive_seed(*one) != derive_seed(*other)


def test_drawing_for_one_purpose_leaves_the_others_alone():
    alone = [make_random(1, "b").random() for _ in range(3)]
    beside = []
    for _ in range(3):
        make_random(1, "a").shuffle(list(range(10)))
        beside.append(make_random(1, "b").random())
    assert alone == beside
    assert make_random(2, "b").random() != alone[0]
