import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data.build_lama import clean_splits, split_facts
from pipeline.data.lama import Fact
from pipeline.seeding import make_random

NAMES = ("train", "dev", "test")

sizes_of_splits = st.tuples(*[st.integers(1, 12)] * 3).map(
    lambda sizes: dict(zip(NAMES, sizes, strict=True))
)
few_places = st.sampled_from("ABCDEFGH")
pairs = st.lists(st.tuples(few_places, few_places), min_size=1, max_size=60)
# Splits as they are given: labels of the facts of each.
given_splits = st.fixed_dictionaries(
    {name: st.lists(st.tuples(few_places, few_places), max_size=20) for name in NAMES}
)
some_words = st.sets(few_places)
caps = st.fixed_dictionaries(dict.fromkeys(NAMES, st.none() | st.integers(1, 12)))
NO_CAPS = dict.fromkeys(NAMES)


def _facts(pairs_of_labels):
    return [Fact("P47", subject, object_) for subject, object_ in pairs_of_labels]


@settings(deadline=None)
@given(labels=pairs, sizes=sizes_of_splits, seed=st.integers(0, 5))
def test_a_pair_and_its_mirror_image_are_in_one_split_only(labels, sizes, seed):
    dealt = split_facts(_facts(labels), sizes=sizes, rng=random.Random(seed))
    where = [
        (frozenset((fact.sub_label, fact.obj_label)), name)
        for name, split in dealt.items()
        for fact in split
    ]
    for one, name in where:
        assert {other for pair, other in where if pair == one} == {name}
    used = [(f.sub_label, f.obj_label) for split in dealt.values() for f in split]
    assert len(set(used)) == len(used)
    assert set(used) <= set(labels)
    for subject, object_ in used:
        assert (object_, subject) in used or (object_, subject) not in labels


def test_of_a_pair_that_occurs_twice_the_first_is_used():
    facts = [
        Fact("P17", "Lyon", "France", uuid="first"),
        Fact("P17", "Oslo", "Norway"),
        Fact("P17", "Lyon", "France", uuid="second"),
    ]
    dealt = split_facts(facts, sizes={"train": 9}, rng=random.Random(0))
    assert sorted((f.sub_label, f.uuid) for f in dealt["train"]) == [
        ("Lyon", "first"),
        ("Oslo", None),
    ]


def test_repeats_do_not_count_towards_a_size():
    facts = _facts([("A", "B")] * 90 + [("C", "D"), ("E", "F")])
    dealt = split_facts(facts, sizes={"train": 1, "test": 2}, rng=random.Random(0))
    assert {name: len(split) for name, split in dealt.items()} == {"train": 1, "test": 2}


def test_a_relations_splits_do_not_depend_on_the_other_relations():
    facts = {
        relation: [Fact(relation, f"s{n}", f"{relation}{n % 7}") for n in range(60)]
        for relation in ("P17", "P30", "P47")
    }
    sizes = {"train": 20, "dev": 10, "test": 20}

    def build(relations):
        return {
            relation: split_facts(
                facts[relation],
                sizes=sizes,
                rng=make_random(3, "splits", "lama", relation),
            )
            for relation in relations
        }

    everything = build(["P17", "P30", "P47"])
    backwards = build(["P47", "P17"])
    assert backwards["P17"] == everything["P17"]
    assert backwards["P47"] == everything["P47"]
    drawn = {name: [f.sub_label for f in everything[name]["train"]] for name in ("P17", "P30")}
    assert drawn["P17"] != drawn["P30"]


# Given splits, made disjoint


def _numbered(splits):
    """Facts of given labels, each with a unique number that nothing depends on."""
    numbers = iter(range(10_000))
    return {
        name: [Fact("P47", subject, object_, uuid=str(next(numbers))) for subject, object_ in own]
        for name, own in splits.items()
    }


def _clean(splits, words, sizes=NO_CAPS, seed=0):
    return clean_splits(splits, words=words, sizes=sizes, rng=random.Random(seed))


def _pairs(facts):
    return [(fact.sub_label, fact.obj_label) for fact in facts]


@settings(deadline=None)
@given(labels=given_splits, words=some_words)
def test_given_splits_are_cleaned_as_by_one_fact_at_a_time(labels, words):
    splits = _numbered(labels)
    before = {"test": [], "dev": ["test"], "train": ["test", "dev"]}
    kept, counts = {}, Counter()
    for name in NAMES:
        kept[name] = []
        for fact in splits[name]:
            pair = (fact.sub_label, fact.obj_label)
            if any(pair in labels[other] for other in before[name]):
                counts[f"{name}/overlap"] += 1
            elif fact.obj_label not in words:
                counts[f"{name}/outside_vocabulary"] += 1
            else:
                kept[name].append(fact)

    found, left_out = _clean(splits, words)

    assert found == kept
    assert list(found) == list(splits)
    assert set(left_out) == {
        "train/overlap", "dev/overlap",
        "train/outside_vocabulary", "dev/outside_vocabulary", "test/outside_vocabulary",
    }  # fmt: skip
    assert left_out == {name: counts[name] for name in left_out}


@settings(deadline=None)
@given(labels=given_splits, words=some_words, sizes=caps, seed=st.integers(0, 3))
def test_cleaned_splits_share_no_pair_and_test_loses_to_the_vocabulary_alone(
    labels, words, sizes, seed
):
    splits = _numbered(labels)
    found, _ = _clean(splits, words, sizes, seed)
    pairs_of = {name: set(_pairs(found[name])) for name in NAMES}
    assert not pairs_of["train"] & (pairs_of["dev"] | set(labels["test"]))
    assert not pairs_of["dev"] & set(labels["test"])
    if sizes["test"] is None:
        assert found["test"] == [f for f in splits["test"] if f.obj_label in words]


@settings(deadline=None)
@given(labels=given_splits, words=some_words, sizes=caps, seed=st.integers(0, 3))
def test_every_given_fact_is_kept_or_counted(labels, words, sizes, seed):
    splits = _numbered(labels)
    found, left_out = _clean(splits, words, sizes, seed)
    uncapped, _ = _clean(splits, words)
    for name in NAMES:
        size = len(uncapped[name]) if sizes[name] is None else sizes[name]
        capped = max(0, len(uncapped[name]) - size)
        assert len(splits[name]) == (
            len(found[name])
            + left_out.get(f"{name}/overlap", 0)
            + left_out[f"{name}/outside_vocabulary"]
            + capped
        )


@settings(deadline=None)
@given(labels=given_splits, sizes=caps, seed=st.integers(0, 3))
def test_a_cap_draws_of_what_is_left_in_the_order_of_the_file(labels, sizes, seed):
    splits = _numbered(labels)
    found, _ = _clean(splits, "ABCDEFGH", sizes, seed)
    uncapped, _ = _clean(splits, "ABCDEFGH")
    for name in NAMES:
        drawn = iter(uncapped[name])
        assert all(fact in drawn for fact in found[name])  # a subsequence
    assert found == _clean(splits, "ABCDEFGH", sizes, seed)[0]


def test_another_seed_draws_other_facts_under_a_cap():
    splits = _numbered({name: [(f"{name}{n}", "A") for n in range(50)] for name in NAMES})
    sizes = dict.fromkeys(NAMES, 10)
    one, other = (_clean(splits, "A", sizes, seed)[0] for seed in (0, 1))
    assert all(one[name] != other[name] for name in NAMES)


def test_every_fact_has_the_same_chance_under_a_cap():
    splits = _numbered({"train": [], "dev": [], "test": [(f"s{n}", "A") for n in range(8)]})
    counts = Counter(
        fact.sub_label
        for seed in range(2000)
        for fact in _clean(splits, "A", {**NO_CAPS, "test": 2}, seed)[0]["test"]
    )
    # 500 are expected; five standard deviations are 97.
    assert len(counts) == 8
    assert all(count == pytest.approx(500, abs=97) for count in counts.values())


def test_what_is_outside_the_vocabulary_still_keeps_its_pair_out_of_train():
    splits = _numbered({"train": [("A", "B"), ("C", "B")], "dev": [("C", "B")], "test": []})
    assert _clean(splits, "A")[1]["train/overlap"] == 1
