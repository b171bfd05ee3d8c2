import random
import re
from collections import Counter

import pytest

from pipeline.tasks.rte import TASK

# (subject, relation, object) or (city, "inhabitants", number)
Facts = set[tuple[str, str, str]]

_PREMISES = (
    r"(?P<city>.+) is a city in (?P<country>.+), a country in (?P<continent>.+) whose capital is "
    r"(?P<capital>.+)\.",
    r"The capital of (?P<country>.+) in (?P<continent>.+) is (?P<capital>.+)\. Another city of the "
    r"country is (?P<city>.+)\.",
    r"(?P<city>.+) has (?P<inhabitants>[\d,]+) inhabitants\. It belongs to (?P<country>.+) in "
    r"(?P<continent>.+), which is governed from its capital (?P<capital>.+)\.",
)
_HYPOTHESES = (
    (r"(.+) is located in (.+)", "in"),
    (r"(.+) is the capital of (.+)", "capital of"),
    (r"(.+) is a city in (.+)", "city in"),
    (r"(.+) has more inhabitants than (.+)", "larger than"),
)


def _read_premise(premise: str) -> Facts:
    """Return what a passage says, and what follows from it."""
    (said,) = [m.groupdict() for p in _PREMISES if (m := re.fullmatch(p, premise))]
    city, capital = said["city"], said["capital"]
    facts = {(place, "city in", said["country"]) for place in (city, capital)}
    facts |= {(said["country"], "in", said["continent"]), (capital, "capital of", said["country"])}
    facts |= {(a, "in", b) for a, relation, b in facts if relation == "city in"}
    return facts | {
        (a, "in", c) for a, one, b in facts for x, two, c in facts if one == two == "in" and b == x
    }


def _read_hypothesis(hypothesis: str) -> tuple[str, str, str]:
    ((match, relation),) = [
        (m, relation) for p, relation in _HYPOTHESES if (m := re.fullmatch(p, hypothesis))
    ]
    return match[1], relation, match[2]


@pytest.mark.parametrize("seed", range(40))
def test_labels_are_what_a_second_reader_gives(places, seed):
    examples = list(TASK.from_geonames(places, random.Random(seed)))
    for example in examples:
        says = _read_hypothesis(example["hypothesis"]) in _read_premise(example["premise"])
        assert example["label"] == ("entailment" if says else "not_entailment"), example


def test_passages_say_what_the_files_say(places):
    cities = {city.name: city for city in places.cities}
    for seed in range(10):
        for example in TASK.from_geonames(places, random.Random(seed)):
            (said,) = [
                m.groupdict() for p in _PREMISES if (m := re.fullmatch(p, example["premise"]))
            ]
            city = cities[said["city"]]
            country = places.countries[city.country]
            assert said["country"] == country.name
            assert said["continent"] == country.continent
            assert said["capital"] == country.capital
            if said.get("inhabitants"):
                assert int(said["inhabitants"].replace(",", "")) == city.population


def test_every_kind_of_passage_and_claim_occurs(places):
    premises: set[str] = set()
    claims: Counter[tuple[str, str]] = Counter()
    for seed in range(40):
        for example in TASK.from_geonames(places, random.Random(seed)):
            premises |= {p for p in _PREMISES if re.fullmatch(p, example["premise"])}
            _, relation, _ = _read_hypothesis(example["hypothesis"])
            claims[relation, example["label"]] += 1
    assert premises == set(_PREMISES)
    assert set(claims) == {
        ("in", "entailment"),
        ("in", "not_entailment"),
        ("capital of", "entailment"),
        ("capital of", "not_entailment"),
        ("city in", "not_entailment"),
        ("larger than", "not_entailment"),
    }


def test_each_city_gives_one_example_of_each_label_under_one_passage(places):
    examples = list(TASK.from_geonames(places, random.Random(0)))
    pairs = list(zip(examples[::2], examples[1::2], strict=True))
    # Brussels and Monaco are capitals of their countries.
    cities = ["Osaka", "Chicago", "Hamburg", "Lyon", "Vaduz", "Bruges"]
    assert len(pairs) == len(cities)
    for one, other in pairs:
        assert one["premise"] == other["premise"]
        assert {one["label"], other["label"]} == {"entailment", "not_entailment"}
    premises = [one["premise"] for one, _ in pairs]
    assert sorted(c for c in cities for p in premises if c in p) == sorted(cities)
    assert [example["idx"] for example in examples] == list(range(len(examples)))


def test_no_label_is_first_more_often(places):
    first = Counter(
        next(TASK.from_geonames(places, random.Random(seed)))["label"] for seed in range(400)
    )
    # 200 are expected; five standard deviations are 50.
    assert first["entailment"] == pytest.approx(200, abs=50)


def test_examples_have_the_official_schema(places):
    for example in TASK.from_geonames(places, random.Random(0)):
        assert list(example) == ["premise", "hypothesis", "label", "idx"]


def test_the_same_seed_gives_the_same_examples_and_another_gives_others(places):
    def examples(seed):
        return list(TASK.from_geonames(places, random.Random(seed)))

    assert examples(1) == examples(1)
    assert examples(1) != examples(2)
