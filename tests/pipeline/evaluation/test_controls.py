import math
from collections import defaultdict
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.dummy import DummyClassifier

from pipeline.data.superglue import read_examples
from pipeline.evaluation.controls import best_constant, majority, naive_bayes
from pipeline.seeding import make_random
from pipeline.tasks import Example, get_task
from pipeline.tasks.lama import lama_task

MIRROR = Path(__file__).parents[4] / "shared" / "mirror" / "superglue"


@pytest.mark.parametrize(
    ("train", "test", "share"),
    [
        (["France", "Norway", "France"], ["France", "Norway", "Norway", "Japan"], 1 / 4),
        (["yes"], ["no", "no"], 0.0),
        (["no"], ["no", "no"], 1.0),
        # Of equally frequent answers the first in the alphabet, wherever it is.
        (["yes", "no"], ["no", "no", "yes"], 2 / 3),
        (["no", "yes"], ["no", "no", "yes"], 2 / 3),
    ],
)
def test_the_most_frequent_answer_of_train_is_scored_on_test(
    train: list[str], test: list[str], share: float
) -> None:
    assert test.count(majority(train)) / len(test) == pytest.approx(share)


@pytest.mark.parametrize("seed", range(5))
def test_the_share_is_that_of_sklearn(seed: int) -> None:
    rng = make_random(seed, "answers")
    train, test = (rng.choices("abcde", weights=[1, 5, 2, 4, 1], k=41) for _ in range(2))
    dummy = DummyClassifier(strategy="most_frequent").fit([[0]] * len(train), train)
    assert majority(train) == dummy.predict([[0]])[0]
    assert test.count(majority(train)) / len(test) == dummy.score([[0]] * len(test), test)


def test_nothing_has_no_majority() -> None:
    with pytest.raises(ValueError, match="no answers"):
        majority([])


# The best constant answer


def examples(*labels: str, questions: str = "") -> list[Example]:
    return [
        Example(str(i), {}, label, question=questions[i : i + 1]) for i, label in enumerate(labels)
    ]


def test_each_number_of_a_constant_is_that_of_its_own_best_answer() -> None:
    # All 1: F1a 2 * 3 / (7 + 3), no question right. All 0: F1a 0, one question of four right.
    answers = examples("1", "0", "1", "0", "1", "0", "0", questions="aabbccd")
    found = best_constant(get_task("multirc"), answers)
    assert found == {"f1a": pytest.approx(0.6), "em": 0.25, "score": pytest.approx(0.3)}


def test_the_constant_of_a_relation_is_its_most_frequent_object_of_test() -> None:
    facts = examples("Asia", "Norway", "Norway", "France")
    assert best_constant(lama_task("P17", ["Asia"]), facts) == {"p_at_1": 0.5, "score": 0.5}
    with pytest.raises(ValueError, match="no answers"):
        best_constant(lama_task("P17", ["Asia"]), [])


@pytest.mark.skipif(not MIRROR.is_dir(), reason="no copy of SuperGLUE in ../shared/mirror")
@pytest.mark.parametrize(
    ("folder", "metrics", "score"),
    [
        ("BoolQ", {"accuracy": 62.2}, 62.2),
        ("CB", {"accuracy": 50.0, "f1": 22.2}, 36.1),
        ("COPA", {"accuracy": 55.0}, 55.0),
        ("MultiRC", {"f1a": 59.9, "em": 0.8}, 30.4),
        ("RTE", {"accuracy": 52.7}, 52.7),
        ("WiC", {"accuracy": 50.0}, 50.0),
        ("WSC", {"accuracy": 63.5}, 63.5),
    ],
)
def test_what_one_answer_reaches_on_the_dev_sets_of_superglue(
    folder: str, metrics: dict[str, float], score: float
) -> None:
    task = get_task(folder.lower())
    found = best_constant(task, read_examples(MIRROR / folder / "val.jsonl", task.examples))
    assert {name: round(100 * value, 1) for name, value in found.items()} == {
        **metrics, "score": score,
    }  # fmt: skip


# Naive Bayes


def naive_bayes_share(train: list[tuple[str, str]], test: list[tuple[str, str]]) -> float:
    answers = naive_bayes(train, [subject for subject, _ in test])
    return sum(a == object_ for a, (_, object_) in zip(answers, test, strict=True)) / len(test)


def log_likelihoods(train: list[tuple[str, str]], subject: str) -> dict[str, float]:
    """Object -> log-likelihood, with dictionaries, one word at a time."""
    objects = [object_ for _, object_ in train]
    known = {word for seen, _ in train for word in seen.split()}
    found = {}
    for object_ in sorted(set(objects)):
        counts: dict[str, int] = defaultdict(int)
        for seen, own in train:
            if own == object_:
                for word in seen.split():
                    counts[word] += 1
        total = sum(counts.values())
        terms = [math.log(objects.count(object_) / len(objects))]
        for word in subject.split():
            if word in known:
                terms.append(math.log((counts[word] + 1) / (total + len(known))))
        found[object_] = math.fsum(terms)
    return found


def slow_answer(train: list[tuple[str, str]], subject: str) -> str:
    scores = log_likelihoods(train, subject)
    # Scores that differ by rounding alone are equal.
    best = max(scores.values())
    return min(object_ for object_, score in scores.items() if score > best - 1e-9)


subjects = st.lists(
    st.sampled_from(["New", "new", "York", "of", "L'Hay-les-Roses", "."]), min_size=1
)
facts = st.lists(
    st.tuples(subjects.map(" ".join), st.sampled_from(["France", "Norway", "Asia"])), min_size=1
)


def share_right(train: list[tuple[str, str]], test: list[tuple[str, str]]) -> float:
    answers = naive_bayes(train, [subject for subject, _ in test])
    right = [answer == object_ for answer, (_, object_) in zip(answers, test, strict=True)]
    return sum(right) / len(right)


@settings(deadline=None, max_examples=60)
@given(train=facts, test=facts)
def test_naive_bayes_answers_as_with_dictionaries_and_logarithms(
    train: list[tuple[str, str]], test: list[tuple[str, str]]
) -> None:
    expected = [slow_answer(train, subject) == object_ for subject, object_ in test]
    assert share_right(train, test) == sum(expected) / len(expected)


def test_naive_bayes_worked_by_hand() -> None:
    train = [("New York", "Asia"), ("York", "Norway"), ("York of", "Norway")]
    # Asia: 1/3 * (1 + 1) / (2 + 3) = 6/45; Norway: 2/3 * (0 + 1) / (3 + 3) = 5/45.
    assert share_right(train, [("New", "Asia")]) == 1
    # Words apart, in their own case: "new" is unknown, so the prior decides.
    assert share_right(train, [("new", "Norway")]) == 1
    assert share_right(train, [("New, York", "Norway"), ("New", "Norway")]) == 1 / 2


@pytest.mark.parametrize(
    ("train", "subject", "first"),
    [
        ([("New", "Norway"), ("York", "Asia")], "of", "Asia"),
        ([("New", "Asia"), ("York", "Norway")], "New York", "Asia"),
        ([("New", "Norway"), ("New", "asia"), ("New", "Asia")], "New", "Asia"),
        # Equal but for rounding: 1/3 * 1/6 * 2/6 * 3/6, in one order and another.
        ([("c b b", "Z"), ("a a", "X"), ("b a b", "Y")], "d c a b", "Y"),
        ([("c", "X"), ("a", "X"), ("a c a", "X"), ("c b", "Z"), ("a a", "X")], "b", "X"),
    ],
)
def test_of_equally_likely_answers_the_first_in_the_alphabet_counts(
    train: list[tuple[str, str]], subject: str, first: str
) -> None:
    assert share_right(train, [(subject, first)]) == 1


def test_one_answer_in_train_is_every_answer() -> None:
    test = [("York", "Asia"), ("of", "Norway")]
    assert share_right([("New", "Asia")], test) == 1 / 2


@pytest.mark.parametrize(("train", "test"), [([], [("New", "Asia")]), ([("New", "Asia")], [])])
def test_nothing_has_no_naive_bayes(
    train: list[tuple[str, str]], test: list[tuple[str, str]]
) -> None:
    with pytest.raises(ValueError, match="no answers"):
        naive_bayes(train, [subject for subject, _ in test])
