import random
from collections import Counter

from pipeline.tasks.copa import TASK
from tests.pipeline.tasks.atlas import read_atlas


def _names(places):
    atlas = read_atlas(places)
    return atlas, (*atlas.inhabitants, *atlas.continent)


def _named(sentence, names):
    (name,) = [name for name in names if sentence.endswith(f" {name}.")]
    return name


def test_the_right_choice_is_the_one_of_the_same_country(places):
    atlas, names = _names(places)
    for seed in range(40):
        for example in TASK.from_geonames(places, random.Random(seed)):
            premise, one, two = (
                _named(example[key], names) for key in ("premise", "choice1", "choice2")
            )
            if example["question"] == "cause":
                fits = [atlas.country[city] == premise for city in (one, two)]
            else:
                fits = [country == atlas.country[premise] for country in (one, two)]
            assert fits == [example["label"] == 0, example["label"] == 1], example


def test_choices_differ_in_the_name_only_and_share_none_with_the_premise(places):
    _, names = _names(places)
    for example in TASK.from_geonames(places, random.Random(0)):
        one, two = example["choice1"], example["choice2"]
        assert one.replace(_named(one, names), "X") == two.replace(_named(two, names), "X")
        assert not any(_named(choice, names) in example["premise"] for choice in (one, two))


def test_no_name_is_right_more_often_than_wrong(places):
    """Two examples follow each other with the same two towns, each described once."""
    atlas, names = _names(places)
    balance = Counter()
    for example in TASK.from_geonames(places, random.Random(0)):
        for number in (0, 1):
            name = _named(example[f"choice{number + 1}"], names)
            country = atlas.country.get(name, name)
            balance[country] += 1 if number == example["label"] else -1
    assert set(balance.values()) == {0}


def test_causes_and_effects_are_asked_for(places):
    asked = Counter(
        e["question"] for s in range(40) for e in TASK.from_geonames(places, random.Random(s))
    )
    assert set(asked) == {"cause", "effect"}
    assert 0.4 < asked["cause"] / asked.total() < 0.6
