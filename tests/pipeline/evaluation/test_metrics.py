import pytest
import torch
from sklearn.metrics import accuracy_score, top_k_accuracy_score

from pipeline.evaluation.metrics import accuracy, mean, ranks, score_points, task_metrics
from pipeline.tasks import Example, Task
from pipeline.tasks.own import Definition


def scores(rows: int, words: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    log_probs = torch.randn(rows, words, generator=generator).log_softmax(dim=1)
    return log_probs, torch.randint(words, (rows,), generator=generator)


@pytest.mark.parametrize(("rows", "words"), [(1, 2), (40, 3), (97, 50)])
@pytest.mark.parametrize("seed", range(5))
def test_accuracy_is_that_of_sklearn(rows: int, words: int, seed: int) -> None:
    log_probs, targets = scores(rows, words, seed)
    answers = log_probs.argmax(dim=1)
    assert accuracy(answers, targets) == accuracy_score(targets, answers)


@pytest.mark.parametrize("seed", range(5))
def test_ranks_give_the_top_k_accuracy_of_sklearn(seed: int) -> None:
    log_probs, targets = scores(60, 9, seed)
    found = ranks(log_probs, targets)
    for k in range(1, 9):
        share = top_k_accuracy_score(targets, log_probs, k=k, labels=range(9))
        assert (found <= k).double().mean().item() == pytest.approx(share)


def test_accuracy_worked_by_hand() -> None:
    assert accuracy(torch.tensor([0, 1, 2]), torch.tensor([0, 1, 0])) == 2 / 3


def test_equal_scores_rank_alike() -> None:
    log_probs = torch.tensor([[-1.0, -3.0, -2.0, -2.0]]).repeat(4, 1)
    assert ranks(log_probs, torch.tensor([0, 1, 2, 3])).tolist() == [1, 4, 2, 2]


def test_a_mean_does_not_weigh() -> None:
    assert mean([0.25, 0.5, 0.0]) == 0.25


def test_nothing_has_no_score() -> None:
    with pytest.raises(ValueError, match="no examples"):
        accuracy(torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=torch.int64))
    with pytest.raises(ValueError, match="no values"):
        mean([])


def row(task: str, setting: int, seed: int, score: float) -> dict[str, object]:
    return {"task": task, "setting": setting, "split": 1, "seed": seed, "score": score}


def test_points_are_means_over_tasks_one_per_seed() -> None:
    # Dev selected another setting for each task; that makes no further points.
    rows = [
        row("P17", 1, 1, 0.2),
        row("P17", 1, 2, 0.4),
        row("P30", 2, 1, 0.6),
        row("P30", 2, 2, 1),
    ]
    assert score_points(rows, "score") == pytest.approx([0.4, 0.7])


def test_points_of_several_settings_are_means_over_seeds_one_per_setting() -> None:
    rows = [row("rte", n, seed, n + seed / 10) for n in (1, 2) for seed in (1, 3)]
    assert score_points(rows, "score") == pytest.approx([1.2, 2.2])


def own_task(*metrics: str, positive: str | None = None) -> Task:
    return Definition("own", ["text"], ["a", "b", "c"], metrics, positive).task


def test_f1_of_a_label_and_matthews_worked_by_hand() -> None:
    right, answers = "aabbc", "abbba"
    examples = [Example(str(n), {}, label) for n, label in enumerate(right)]
    task = own_task("f1_positive", "matthews", positive="b")
    found = task_metrics(task, examples, list(answers))
    # Of b: two of three answers are right, and both were found.
    assert found["f1_positive"] == pytest.approx(2 * (2 / 3) * 1 / (2 / 3 + 1))
    # Right 3 of 5; answers a 2, b 3; labels a 2, b 2, c 1: (3 * 5 - 10) / sqrt((25 - 13)(25 - 9)).
    assert found["matthews"] == pytest.approx((15 - 10) / (12 * 16) ** 0.5)


def test_a_constant_answer_has_no_correlation() -> None:
    examples = [Example(str(n), {}, label) for n, label in enumerate("abc")]
    assert task_metrics(own_task("matthews"), examples, ["a"] * 3) == {"matthews": 0}
