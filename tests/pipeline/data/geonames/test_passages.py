import random
import re
from dataclasses import replace

import pytest

from pipeline.data.geonames.places import Places
from tests.pipeline.tasks.atlas import read_atlas

_SENTENCES = (
    r"(?P<city>.+), a city of (?P<inhabitants>[\d,]+) inhabitants, lies in (?P<country>.+)\. The "
    r"capital of that country in (?P<continent>.+) is (?P<capital>.+)\.",
    r"(?P<country>.+) is a country in (?P<continent>.+) with the capital (?P<capital>.+)\. Its "
    r"city (?P<city>.+) is home to (?P<inhabitants>[\d,]+) people\.",
    r"In (?P<city>.+) live (?P<inhabitants>[\d,]+) people\. The city is part of (?P<country>.+), "
    r"whose government sits in (?P<capital>.+), the capital, in (?P<continent>.+)\.",
)


def test_towns_are_known_cities_that_are_no_capitals(places):
    # Brussels and Monaco are capitals.
    assert [town.name for town in places.towns()] == [
        "Osaka", "Chicago", "Hamburg", "Lyon", "Vaduz", "Bruges",
    ]  # fmt: skip


@pytest.mark.parametrize("size", [2, 3])
def test_towns_of_a_group_differ_in_country_and_size(places, size):
    heads = 0
    for seed in range(40):
        for group in places.town_groups(size, random.Random(seed)):
            heads += 1
            assert len(group) == size
            assert len({town.country for town in group}) == size
            assert len({town.population for town in group}) == size
    # One a town; those with both Lyon and Vaduz, which are of one size, are left out.
    assert 40 * 4 < heads < 40 * 6


def test_the_town_that_a_group_is_made_for_may_stand_anywhere(places):
    """Were it always the first, no first town of a run would come twice."""
    runs = [[g[0].name for g in places.town_groups(2, random.Random(s))] for s in range(20)]
    assert any(len(set(first)) < len(first) for first in runs)


def test_a_country_whose_capital_has_its_name_is_left_out(places):
    germany = replace(places.countries["DE"], capital="Germany City")
    changed = replace(places, countries={**places.countries, "DE": germany})
    names = {t.name for group in changed.town_groups(2, random.Random(0)) for t in group}
    assert "Hamburg" in {town.name for town in changed.towns()}
    assert "Hamburg" not in names


@pytest.mark.parametrize(
    ("names", "free"),
    [
        (["Lyon", "New York"], True),
        (["Walla Walla", "Lyon"], True),
        (["New York", "new delhi"], False),
        (["Lyon", "Lyon"], False),
        ([], True),
    ],
)
def test_shared_words_are_found_in_any_case(names, free):
    assert Places.share_no_word(names) == free


def test_passages_say_what_the_files_say_in_every_way(places):
    atlas = read_atlas(places)
    ways = set()
    for seed in range(10):
        for town in places.towns():
            text = town.describe(random.Random(seed))
            ((way, said),) = [
                (p, m.groupdict()) for p in _SENTENCES if (m := re.fullmatch(p, text))
            ]
            ways.add(way)
            assert said["city"] == town.name
            assert said["country"] == atlas.country[town.name]
            assert said["capital"] == atlas.capital[said["country"]]
            assert said["continent"] == atlas.continent[said["country"]]
            assert said["inhabitants"] == f"{atlas.inhabitants[town.name]:,}"
    assert ways == set(_SENTENCES)
