import random
import re
from collections import Counter
from dataclasses import replace

from pipeline.tasks.wsc import TASK
from tests.pipeline.tasks.atlas import read_atlas

_SIZE = (
    r"(?P<first>\S+) is (?P<word>larger|smaller|more populous|less populous) than (?P<second>\S+), "
    r"because it has (?P<people>only|as many as) (?P<fact>[\d,]+) inhabitants\."
)
_COUNTRY = (
    r"(?P<first>\S+) is not in the same country as (?P<second>\S+), because it lies in "
    r"(?P<fact>.+)\.",
    r"(?P<first>\S+) is abroad to those who live in (?P<second>\S+), because it belongs to "
    r"(?P<fact>.+)\.",
)


def _examples(places, seeds=40):
    return [e for seed in range(seeds) for e in TASK.from_geonames(places, random.Random(seed))]


def _read(text):
    return next((p, m) for p in (_SIZE, *_COUNTRY) if (m := re.fullmatch(p, text)))


def test_the_sentence_is_true_and_decides_which_town_is_meant(places):
    atlas = read_atlas(places)
    kinds, meant = Counter(), Counter()
    for example in _examples(places):
        pattern, said = _read(example["text"])
        first, second = said["first"], said["second"]
        if pattern == _SIZE:
            first_is_large = said["word"] in ("larger", "more populous")
            assert first_is_large == (atlas.inhabitants[first] > atlas.inhabitants[second])
            # "Only" is said of the smaller.
            right = first if first_is_large == (said["people"] == "as many as") else second
            assert said["fact"] == f"{atlas.inhabitants[right]:,}"
            kinds[said["word"], said["people"]] += 1
        else:
            (right,) = [name for name in (first, second) if atlas.country[name] == said["fact"]]
            kinds[pattern] += 1
        meant[right == first] += 1
        assert example["label"] is (example["target"]["span1_text"] == right), example
    assert len(kinds) == 4 * 2 + len(_COUNTRY)
    assert 0.4 < meant[True] / meant.total() < 0.6


def test_spans_stand_at_their_words(places):
    for example in _examples(places, 5):
        words, target = example["text"].split(" "), example["target"]
        assert set(target) == {"span1_index", "span1_text", "span2_index", "span2_text"}
        assert target["span2_text"] == "it"
        for span in ("span1", "span2"):
            assert words[target[f"{span}_index"]].strip(",.") == target[f"{span}_text"]


def test_a_text_is_asked_about_each_of_its_towns(places):
    examples = _examples(places, 1)
    for one, other in zip(examples[::2], examples[1::2], strict=True):
        _, said = _read(one["text"])
        assert one["text"] == other["text"]
        assert {one["label"], other["label"]} == {True, False}
        spans = {example["target"]["span1_text"] for example in (one, other)}
        assert spans == {said["first"], said["second"]}


def test_towns_with_names_of_several_words_are_left_out(places):
    cities = [
        replace(city, name="New Lyon") if city.name == "Lyon" else city for city in places.cities
    ]
    examples = _examples(replace(places, cities=cities))
    assert examples
    assert not any("New" in example["text"] for example in examples)
