import random

import numpy as np
import pytest
from scipy.stats import binomtest

from pipeline.report.significance import (
    Answers,
    Comparison,
    bootstrap,
    compare,
    compare_methods,
    correct_answers,
    mcnemar,
    read_correct,
    score_interval,
)
from pipeline.report.tables import comparisons_table
from tests.pipeline.report.conftest import write


def array(*rows):
    return np.array([[mark == "x" for mark in row] for row in rows])


def answers(trainings=((1, 1),), **correct):
    examples = {task: list(range(of.shape[1])) for task, of in correct.items()}
    return Answers(list(trainings), examples, correct)


def made_up(seed, trainings, count, share):
    return np.random.default_rng(seed).random((trainings, count)) < share


def test_mcnemar_worked_by_hand():
    # One example is right by the first alone, four by the second: 2 * (1 + 5) / 2**5.
    first, second = array("xx....", "x.xxxx")
    assert mcnemar(first, second) == mcnemar(second, first) == 2 * 6 / 32
    assert mcnemar(first, first) == 1
    assert mcnemar(*array("x.", ".x")) == 1


@pytest.mark.parametrize("seed", range(20))
def test_mcnemar_is_the_binomial_test_of_scipy(seed):
    first, second = made_up(seed, 1, 3000, 0.5)[0], made_up(seed + 99, 1, 3000, 0.45)[0]
    alone = int((first & ~second).sum()), int((second & ~first).sum())
    assert mcnemar(first, second) == pytest.approx(binomtest(alone[0], sum(alone)).pvalue)


def slow_draws(pairs, same_trainings, resamples=4000):
    """Draw one example and one training at a time."""
    rng = random.Random(0)
    draws = []
    for _ in range(resamples):
        sizes = [len(of) for of in pairs[0]]
        chosen = [[rng.randrange(size) for _ in range(size)] for size in sizes]
        if same_trainings:
            chosen[1] = chosen[0]
        means = []
        for pair in pairs:
            count = pair[0].shape[1]
            drawn = [rng.randrange(count) for _ in range(count)]
            shares = [
                sum(of[training][example] for training in trainings for example in drawn)
                / (count * len(trainings))
                for of, trainings in zip(pair, chosen, strict=True)
            ]
            means.append(shares[1] - shares[0])
        draws.append(sum(means) / len(means))
    return np.array(draws)


@pytest.mark.parametrize(
    ("trainings", "same"), [((1, 1), True), ((1, 3), False), ((3, 3), True), ((3, 3), False)]
)
def test_the_bootstrap_is_that_of_one_example_at_a_time(trainings, same):
    pairs = [
        tuple(made_up([i, part], trainings[part], 9 + 4 * i, 0.3 + part / 4) for part in (0, 1))
        for i in range(2)
    ]
    pairs[1][1][-1] = True  # the last training differs from the others
    draws = bootstrap(pairs, np.random.default_rng(0), same_trainings=same, resamples=20_000)
    slow = slow_draws(pairs, same)
    assert draws.mean() == pytest.approx(slow.mean(), abs=0.01)
    assert draws.std() == pytest.approx(slow.std(), rel=0.05)
    ends = np.quantile(draws, (0.025, 0.975))
    assert ends == pytest.approx(np.quantile(slow, (0.025, 0.975)), abs=0.03)


def test_the_spread_of_one_training_is_that_of_paired_shares():
    first, second = made_up(1, 1, 400, 0.5), made_up(2, 1, 400, 0.6)
    draws = bootstrap([(first, second)], np.random.default_rng(0), same_trainings=True)
    # The standard error of paired shares: sqrt((b + c) / n - ((c - b) / n)**2) / sqrt(n).
    differ, ahead = (first != second).mean(), second.mean() - first.mean()
    assert draws.std() == pytest.approx(((differ - ahead**2) / 400) ** 0.5, rel=0.05)
    assert draws.mean() == pytest.approx(ahead, abs=0.005)


def test_relations_count_alike_and_trainings_are_averaged():
    first = answers([(1, 1)], P17=array("x..."), P30=array(".."))
    second = answers([(1, 1), (1, 2)], P17=array("xxxx", "xx.."), P30=array("x.", ".."))
    # (0.75 - 0.25 + 0.25 - 0) / 2
    difference, low, high, p, test = compare(first, second)
    assert (difference, test) == (0.375, "bootstrap")
    assert low <= difference <= high
    assert 0 < p <= 1
    assert compare(first, second) == (difference, low, high, p, test)


def test_what_is_equal_does_not_differ_and_what_is_opposite_does():
    right, wrong = answers(a=array("xxxxxxxxxx")), answers(a=array(".........."))
    assert compare(right, right) == (0, 0, 0, 1, "McNemar")
    assert compare(wrong, right) == (1, 1, 1, 2 / 2**10, "McNemar")
    both = [answers(a=array("x" * 9), b=array(mark)) for mark in (".........", "xxxxxxxxx")]
    assert compare(*both)[3] == pytest.approx(2 / 2001)


def test_false_alarms_are_as_rare_as_they_should_be():
    """Of pairs that do not differ, about 5 % have p below 0.05."""
    found = [
        compare(*(answers(a=made_up([i, n, 0], 1, 80, 0.5), b=made_up([i, n, 1], 1, 50, 0.3))
                  for n in (0, 1)))[3]
        for i in range(300)
    ]  # fmt: skip
    assert sum(p < 0.05 for p in found) / 300 == pytest.approx(0.05, abs=0.04)


def test_predictions_are_read_by_training_in_the_order_of_their_seeds():
    trainings = [
        {"task": "P17", "training": name, "setting": 1, "split": 1, "seed": seed}
        for name, seed in (("two", 2), ("one", 1))
    ]
    records = [
        {"trial": trial, "subject": subject, "object": "Asia", "answer": answer}
        for trial, subject, answer in [
            ("two", "a", "Asia"), ("two", "b", "Asia"), ("one", "a", "Asia"), ("one", "b", "Rome"),
        ]
    ]  # fmt: skip
    found = correct_answers(records, trainings)
    assert found.trainings == [(1, 1), (1, 2)]
    assert found.examples == {"P17": [("a", "Asia"), ("b", "Asia")]}
    assert found.correct["P17"].tolist() == [[True, False], [True, True]]


def compared(files, results):
    return compare_methods(results, read_correct(results, files.evaluation))


def test_the_interval_of_one_training_is_that_of_the_binomial_distribution():
    right = np.arange(400) % 4 > 0
    answers = Answers([(1, 1)], {"P17": list(range(400))}, {"P17": right[None]})
    low, high = score_interval(answers)
    half = 1.96 * (0.75 * 0.25 / 400) ** 0.5
    assert (low, high) == pytest.approx((0.75 - half, 0.75 + half), abs=0.01)


def test_each_method_is_compared_with_p_tuning(files):
    files.add_lama(["manual", "p-tuning", "discrete"])
    found = compared(files, files.lama(["manual", "p-tuning", "discrete"]))
    assert [(of.first, of.second) for of in found] == [
        ("manual", "p-tuning"), ("discrete", "p-tuning"),
    ]  # fmt: skip
    files.add_task("rte", ["manual", "classifier"])
    (of,) = compared(files, files.task("rte", ["manual", "classifier"]))
    # 9 of 12 are right by the first, 8 of 12 by either training of the second.
    assert (of.task, of.first, of.second, of.test) == ("rte", "manual", "classifier", "bootstrap")
    assert of.difference == pytest.approx(8 / 12 - 9 / 12)


def test_other_examples_and_tasks_without_accuracy_are_not_compared(files):
    files.add_task("rte")
    results = files.task("rte")
    path = files.evaluation / "superglue/rte/manual/predictions/predictions.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))
    assert compared(files, results) == []
    files.add_task("rte")
    for result in results:
        del result.metrics["test/accuracy"]
    assert compared(files, results) == []
    assert compared(files, files.task("rte", ["manual"])) == []


def test_the_table_is_in_points():
    rows = [
        Comparison("", "manual", "p-tuning", 0.2634, 0.2, 0.31234, 0.00099, "bootstrap"),
        Comparison("", "discrete", "p-tuning", -0.01, -0.05, 0.03, 0.0421, "McNemar"),
    ]
    assert comparisons_table(rows).splitlines() == [
        "| methods | difference | 95 % interval | p | test |",
        "| --- | ---: | --- | --- | --- |",
        "| manual → p-tuning | +26.3 | +20.0 to +31.2 | < 0.001 | bootstrap |",
        "| discrete → p-tuning | -1.0 | -5.0 to +3.0 | 0.042 | McNemar |",
    ]
    assert comparisons_table([]) == ""


def test_report_and_summary_show_the_comparisons(files, tmp_path):
    files.add_lama()
    files.add_task("rte")
    of = {
        "lama": compared(files, files.lama()),
        "superglue": compared(files, files.task("rte")),
    }
    folder = write(tmp_path, lama=files.lama(), tasks=files.task("rte"), comparisons=of)
    for name in ("report.md", "summary.md"):
        text = (folder / name).read_text()
        assert "| manual → p-tuning |" in text
        assert "| rte | manual → p-tuning |" in text
