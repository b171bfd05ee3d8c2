import random
import re
from collections import Counter, defaultdict

from pipeline.tasks.multirc import TASK
from tests.pipeline.tasks.atlas import read_atlas

_FORMS = {
    "cities": r"Which cities are in (.+)\?",
    "country": r"In which country is (.+)\?",
    "capital": r"What is true of (.+)\?",
    "fewer": r"Which cities have fewer than ([\d,]+) inhabitants\?",
    "more": r"Which cities have ([\d,]+) inhabitants or more\?",
}


def _questions(records):
    return [question for record in records for question in record["passage"]["questions"]]


def _read(question):
    return next((k, m[1]) for k, p in _FORMS.items() if (m := re.fullmatch(p, question)))


def _is_right(atlas, form, subject, answer):
    if form == "cities":
        return atlas.country[answer] == subject
    if form == "country":
        country = atlas.country[subject]
        return answer in (country, f"The country whose capital is {atlas.capital[country]}")
    if form == "capital":
        country = atlas.country[subject]
        if match := re.fullmatch("It is in the same country as (.+)", answer):
            return atlas.country[match[1]] == country
        return answer == f"It is the capital of {country}"
    limit = int(subject.replace(",", ""))
    return (atlas.inhabitants[answer] < limit) == (form == "fewer")


def test_answers_are_labeled_as_the_files_say_and_every_form_is_asked(places):
    atlas = read_atlas(places)
    labels = defaultdict(set)
    for seed in range(20):
        for question in _questions(TASK.from_geonames(places, random.Random(seed))):
            form, subject = _read(question["question"])
            for answer in question["answers"]:
                right = _is_right(atlas, form, subject, answer["text"])
                labels[form].add(answer["label"])
                assert answer["label"] == int(right), (question, answer)
    assert labels == {key: {0, 1} for key in _FORMS}


def test_names_of_questions_and_answers_stand_in_the_passage(places):
    atlas = read_atlas(places)
    names = {*atlas.country, *atlas.continent}
    for record in TASK.from_geonames(places, random.Random(0)):
        for question in record["passage"]["questions"]:
            for text in (question["question"], *(a["text"] for a in question["answers"])):
                used = [name for name in names if name in text]
                assert all(name in record["passage"]["text"] for name in used)
                assert used or "inhabitants" in text


def test_numbers_of_questions_and_answers_run_on(places):
    records = list(TASK.from_geonames(places, random.Random(0)))
    questions = _questions(records)
    answers = [answer for question in questions for answer in question["answers"]]
    assert [question["idx"] for question in questions] == list(range(len(questions)))
    assert [answer["idx"] for answer in answers] == list(range(len(answers)))
    assert all(set(record["passage"]) == {"text", "questions"} for record in records)
    assert all(set(question) == {"question", "answers", "idx"} for question in questions)
    assert all(set(answer) == {"text", "idx", "label"} for answer in answers)
    assert {record["version"] for record in records} == {1.1}


def test_numbers_of_questions_answers_and_right_ones_are_as_wanted(places):
    asked, given, right, first, labels = (Counter() for _ in range(5))
    for seed in range(60):
        for record in TASK.from_geonames(places, random.Random(seed)):
            questions = record["passage"]["questions"]
            asked[len(questions)] += 1
            for question in questions:
                own = [answer["label"] for answer in question["answers"]]
                assert len({answer["text"] for answer in question["answers"]}) == len(own)
                given[len(own)] += 1
                right[sum(own)] += 1
                first[own[0]] += 1
                labels.update(own)
    assert set(asked) == {2, 3}
    assert set(given) == {3, 4, 5}
    assert set(right) == {1, 2}
    assert 0.47 < labels[1] / labels.total() < 0.53
    assert 0.45 < first[1] / first.total() < 0.55
