import random
import re
from collections import defaultdict

from pipeline.tasks.cb import TASK
from tests.pipeline.tasks.atlas import read_atlas

_SENTENCES = (
    r"(?P<city>.+) is a city in (?P<country>.+), and (?P<capital>.+) is the capital\.",
    r"(?P<capital>.+) is the capital of (?P<country>.+), to which the city of (?P<city>.+) belongs "
    r"too\.",
    r"(?P<city>.+) is a city in (?P<country>[^,]+)\.",
    r"The city of (?P<city>.+) belongs to (?P<country>.+)\.",
    r"(?P<large>.+) is larger than (?P<small>.+)\.",
    r"(?P<small>.+) is smaller than (?P<large>.+)\.",
)
_HYPOTHESES = {
    "in": r"(.+) is located in (.+)",
    "together": r"(.+) and (.+) are in the same country",
    "larger": r"(.+) has more inhabitants than (.+)",
}


def _read_premise(premise):
    """Return each sentence's pattern and names."""
    return [
        next((p, m.groupdict()) for p in _SENTENCES if (m := re.fullmatch(p, sentence)))
        for sentence in re.split(r"(?<=\.) ", premise)
    ]


def _second_label(said, hypothesis):
    """Return the label that a second reader gives."""
    country = {s[k]: s["country"] for s in said for k in ("city", "capital") if k in s}
    larger = {(s["large"], s["small"]) for s in said if "large" in s}
    ((kind, one, two),) = [
        (k, m[1], m[2]) for k, p in _HYPOTHESES.items() if (m := re.fullmatch(p, hypothesis))
    ]
    if kind == "larger":
        known = (one, two) in larger or (two, one) in larger
        holds = (one, two) in larger
    else:
        places = (country.get(one), two if kind == "in" else country.get(two))
        known = None not in places
        holds = places[0] == places[1]
    return kind, ("entailment" if holds else "contradiction") if known else "neutral"


def test_labels_are_what_a_second_reader_gives_and_every_form_has_all(places):
    labels = defaultdict(set)
    for seed in range(40):
        for example in TASK.from_geonames(places, random.Random(seed)):
            said = [names for _, names in _read_premise(example["premise"])]
            kind, label = _second_label(said, example["hypothesis"])
            labels[kind].add(label)
            assert example["label"] == label, example
    assert labels == {key: {"entailment", "contradiction", "neutral"} for key in _HYPOTHESES}


def test_premises_say_what_the_files_say_in_every_way(places):
    atlas = read_atlas(places)
    ways = set()
    for seed in range(10):
        for example in TASK.from_geonames(places, random.Random(seed)):
            for way, said in _read_premise(example["premise"]):
                ways.add(way)
                if "large" in said:
                    assert atlas.inhabitants[said["large"]] > atlas.inhabitants[said["small"]]
                else:
                    assert atlas.country[said["city"]] == said["country"]
                    assert said.get("capital") in (None, atlas.capital[said["country"]])
    assert ways == set(_SENTENCES)


def test_a_premise_has_a_hypothesis_of_each_label(places):
    examples = list(TASK.from_geonames(places, random.Random(0)))
    for three in zip(examples[::3], examples[1::3], examples[2::3], strict=True):
        assert len({example["premise"] for example in three}) == 1
        assert len({example["label"] for example in three}) == 3
