import pytest
from sklearn.dummy import DummyClassifier

from pipeline.evaluation.controls import majority_share
from pipeline.seeding import make_random


@pytest.mark.parametrize(
    ("train", "test", "share"),
    [
        (["France", "Norway", "France"], ["France", "Norway", "Norway", "Japan"], 1 / 4),
        (["yes"], ["no", "no"], 0.0),
        (["no"], ["no", "no"], 1.0),
        # Of equally frequent answers the first in the alphabet, wherever it stands.
        (["yes", "no"], ["no", "no", "yes"], 2 / 3),
        (["no", "yes"], ["no", "no", "yes"], 2 / 3),
    ],
)
def test_the_most_frequent_answer_of_train_is_scored_on_test(
    train: list[str], test: list[str], share: float
) -> None:
    assert majority_share(train, test) == pytest.approx(share)


@pytest.mark.parametrize("seed", range(5))
def test_the_share_is_that_of_sklearn(seed: int) -> None:
    rng = make_random(seed, "answers")
    train, test = (rng.choices("abcde", weights=[1, 5, 2, 4, 1], k=41) for _ in range(2))
    dummy = DummyClassifier(strategy="most_frequent").fit([[0]] * len(train), train)
    assert majority_share(train, test) == dummy.score([[0]] * len(test), test)


@pytest.mark.parametrize(("train", "test"), [([], ["no"]), (["no"], [])])
def test_nothing_has_no_majority(train: list[str], test: list[str]) -> None:
    with pytest.raises(ValueError, match="no answers"):
        majority_share(train, test)
