import random
import re
from collections import defaultdict

from pipeline.tasks.boolq import TASK
from tests.pipeline.tasks.atlas import read_atlas

_FORMS = {
    "city": r"is (.+) a city in (.+)",
    "capital": r"is (.+) the capital of (.+)",
    "same": r"is (.+) in the same country as (.+)",
    "more": r"does (.+) have more inhabitants than (.+)",
    "fewer": r"does (.+) have fewer inhabitants than (.+)",
    "continent": r"is (.+) in (\S+|north america)",
}


def _read(question):
    return next((k, m[1], m[2]) for k, p in _FORMS.items() if (m := re.fullmatch(p, question)))


def _answer(atlas, kind, one, two):
    country, capital = atlas.country, atlas.capital
    return {
        "city": lambda: country[one] == two,
        "capital": lambda: capital[two] == one,
        "same": lambda: country[one] == country[two],
        "more": lambda: atlas.inhabitants[one] > atlas.inhabitants[two],
        "fewer": lambda: atlas.inhabitants[one] < atlas.inhabitants[two],
        "continent": lambda: atlas.continent[country[one]] == two,
    }[kind]()


def test_answers_are_those_of_the_files_and_every_form_has_both(places):
    atlas = read_atlas(places)
    spelled = {
        name.lower(): name for name in (*atlas.country, *atlas.capital, *atlas.continent.values())
    }
    labels = defaultdict(set)
    for seed in range(40):
        for example in TASK.from_geonames(places, random.Random(seed)):
            kind, one, two = _read(example["question"])
            labels[kind].add(example["label"])
            assert example["label"] is _answer(atlas, kind, spelled[one], spelled[two]), example
            # Nothing but the passage is asked for.
            assert one in example["passage"].lower()
            assert two in example["passage"].lower()
    assert labels == {key: {True, False} for key in _FORMS}


def test_questions_are_spelled_as_in_boolq(places):
    for example in TASK.from_geonames(places, random.Random(0)):
        assert example["question"] == example["question"].lower()
        assert not example["question"].endswith("?")


def test_a_passage_has_a_question_of_each_label(places):
    examples = list(TASK.from_geonames(places, random.Random(0)))
    for one, other in zip(examples[::2], examples[1::2], strict=True):
        assert one["passage"] == other["passage"]
        assert {one["label"], other["label"]} == {True, False}
