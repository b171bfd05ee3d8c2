import random
import re
from dataclasses import replace

import pytest

from pipeline.data.geonames.places import City
from pipeline.tasks.wic import TASK

_SENTENCES = {
    r"(?P<word>.+) is a city in (?P<hint>.+)\.": "country",
    r"They spent a week in (?P<hint>.+) and liked (?P<word>.+) best\.": "country",
    r"They left (?P<word>.+) for (?P<hint>.+), the capital of the country\.": "capital",
    r"A minister came from the capital, (?P<hint>.+), and opened a school in (?P<word>.+)\.": (
        "capital"
    ),
    r"(?P<word>.+) and (?P<hint>.+) are in the same country\.": "city",
    r"From (?P<hint>.+) she moved to (?P<word>.+), without leaving the country\.": "city",
}
_NAMESAKES = (
    ("Soest", "DE"), ("Soest", "FR"), ("Santa Ana", "US"), ("Santa Ana", "JP"),
    ("Santa Ana", "BE"), ("Springfield", "US"), ("Springfield", "US"), ("Springfield", "FR"),
)  # fmt: skip


@pytest.fixture
def places(places):
    more = [City(n, name, code, 20_000) for n, (name, code) in enumerate(_NAMESAKES)]
    return replace(places, cities=[*places.cities, *more])


def _records(places, seeds=20):
    return [r for seed in range(seeds) for r in TASK.from_geonames(places, random.Random(seed))]


def _hint(record, which):
    ((pattern, match),) = [
        (p, m) for p in _SENTENCES if (m := re.fullmatch(p, record[f"sentence{which}"]))
    ]
    return pattern, match


def _country(places, kind, hint):
    """Return the code of the country at which a hint hints."""
    if kind == "city":
        return next(city.country for city in places.cities if city.name == hint)
    (code,) = [
        c for c, country in places.countries.items()
        if hint == (country.name if kind == "country" else country.capital)
    ]  # fmt: skip
    return code


def test_labels_are_true_by_the_files_and_every_sentence_occurs(places):
    carried = {(city.name, city.country) for city in places.cities}
    patterns = set()
    for record in _records(places):
        hinted = []
        for which in ("1", "2"):
            pattern, match = _hint(record, which)
            patterns.add(pattern)
            hinted.append(_country(places, _SENTENCES[pattern], match["hint"]))
            assert (record["word"], hinted[-1]) in carried
        assert record["label"] is (hinted[0] == hinted[1]), record
    assert patterns == set(_SENTENCES)


def test_the_word_is_where_the_record_says(places):
    for record in _records(places):
        for which in ("1", "2"):
            start, end = record[f"start{which}"], record[f"end{which}"]
            _, match = _hint(record, which)
            assert (start, end) == match.span("word")
            assert record[f"sentence{which}"][start:end] == record["word"]


def test_hints_are_of_two_kinds_and_share_no_word(places):
    for record in _records(places):
        (one, first), (two, second) = _hint(record, "1"), _hint(record, "2")
        assert _SENTENCES[one] != _SENTENCES[two]
        words = [set(text.split()) for text in (first["hint"], second["hint"], record["word"])]
        assert len(set.union(*words)) == sum(map(len, words))


def test_the_hint_that_both_examples_of_a_city_share_may_stand_first_or_second(places):
    records = _records(places)
    found = set()
    for one, other in zip(records[::2], records[1::2], strict=True):
        hints = [[_hint(record, which)[1]["hint"] for which in "12"] for record in (one, other)]
        (shared,) = set(hints[0]) & set(hints[1])
        found.add(tuple(own.index(shared) for own in hints))
    assert found == {(0, 0), (0, 1), (1, 0), (1, 1)}


def test_each_city_gives_one_example_of_each_label(places):
    records = _records(places, 1)
    for one, other in zip(records[::2], records[1::2], strict=True):
        assert one["word"] == other["word"]
        assert {one["label"], other["label"]} == {True, False}
    # A country has two Springfields, which its name does not tell apart.
    assert sorted(record["word"] for record in records[::2]) == [
        "Paris", "Paris", "Santa Ana", "Santa Ana", "Santa Ana", "Soest", "Soest",
    ]  # fmt: skip
    assert {record["version"] for record in records} == {1.1}
