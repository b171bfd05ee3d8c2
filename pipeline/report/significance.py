"""Whether methods differ by more than chance: paired tests on the stored predictions."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from math import comb
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.files import read_jsonl
from pipeline.report.scores import MethodResult, Row
from pipeline.seeding import derive_seed

RESAMPLES = 2000
# The method that all others are compared with; without it, the last one.
_JUDGED = "p-tuning"

Correct = NDArray[np.bool_]


@dataclass(frozen=True)
class Answers:
    """Which test examples a method answered right.

    Attributes:
        trainings: split and seed of each training, in the order of the rows of `correct`.
        examples: task or relation -> what identifies each example.
        correct: task or relation -> (trainings, examples) bool.
    """

    trainings: list[tuple[int, int]]
    examples: dict[str, list[Any]]
    correct: dict[str, Correct]


@dataclass(frozen=True)
class Comparison:
    """How much better the second method is: differences of accuracy or P@1, as shares of 1.

    Attributes:
        task: SuperGLUE task; empty for the mean over relations.
        first: name of the method that is subtracted.
        second: name of the other one.
        difference: on the test set, of means over trainings and relations.
        low: lower end of the 95 % interval of the bootstrap.
        high: its upper end.
        p: two-sided.
        test: that gave `p`: `McNemar` or `bootstrap`.
    """

    task: str
    first: str
    second: str
    difference: float
    low: float
    high: float
    p: float
    test: str

    @property
    def cells(self) -> dict[str, str]:
        """Difference and interval in points, p, and its test, as text."""
        return {
            "difference": f"{100 * self.difference:+.1f}",
            "95 % interval": f"{100 * self.low:+.1f} to {100 * self.high:+.1f}",
            "p": "< 0.001" if self.p < 0.001 else f"{self.p:.3f}",
            "test": self.test,
        }


def read_correct(results: Iterable[MethodResult], evaluation: Path) -> dict[str, Answers]:
    """Return which examples were answered right, by name of the result.

    Tasks without accuracy (MultiRC) are left out.

    Args:
        results: of LAMA or SuperGLUE.
        evaluation: the folder of evaluations, with the predictions.

    Raises:
        DataError: a file is missing.
    """
    return {
        result.name: correct_answers(
            read_jsonl(evaluation / result.name / "predictions" / "predictions.jsonl"),
            result.trainings,
        )
        for result in results
        if not result.task or "test/accuracy" in result.metrics
    }


def compare_methods(
    results: Iterable[MethodResult], answers: Mapping[str, Answers]
) -> list[Comparison]:
    """Compare p-tuning, or else the last method, with each other method on the same examples.

    Left out: methods that were scored on other examples or whose relations differ in their number
    of trainings.

    Args:
        results: of one benchmark, LAMA or SuperGLUE, those of a task in a row.
        answers: as `read_correct` returns them.
    """
    return [
        comparison
        for task, group in groupby(results, key=lambda result: result.task)
        for comparison in compare_answers(
            task, {r.method: answers[r.name] for r in group if r.name in answers}
        )
    ]


def compare_answers(task: str, answers: Mapping[str, Answers]) -> list[Comparison]:
    """Compare the answers of p-tuning, or else of the last method, with those of each other one.

    Left out: methods that were scored on other examples, or whose relations differ in their number
    of trainings.

    Args:
        task: SuperGLUE task; empty for LAMA.
        answers: by method.
    """
    second = _JUDGED if _JUDGED in answers else next(reversed(list(answers)), "")
    return [
        Comparison(task, method, second, *compare(first, answers[second], task))
        for method, first in answers.items()
        if method != second and _comparable(first, answers[second])
    ]


def _comparable(*both: Answers) -> bool:
    even = all(len(of) == len(one.trainings) for one in both for of in one.correct.values())
    return even and both[0].examples == both[1].examples


def correct_answers(records: Iterable[Row], trainings: Sequence[Row]) -> Answers:
    """Return which of the stored predictions are right.

    Args:
        records: rows of `predictions.jsonl`.
        trainings: rows of `trials.csv`.
    """
    by_trial: dict[str, list[Row]] = {}
    for record in records:
        by_trial.setdefault(record["trial"], []).append(record)
    by_task: dict[str, list[Row]] = {}
    for row in sorted(trainings, key=lambda row: (row["split"], row["seed"], row["setting"])):
        by_task.setdefault(row["task"], []).append(row)
    examples, correct = {}, {}
    for task, rows in by_task.items():
        of = [by_trial[row["training"]] for row in rows]
        examples[task] = [r.get("example") or (r["subject"], r["object"]) for r in of[0]]
        right = [[r["answer"] == r.get("label", r.get("object")) for r in own] for own in of]
        correct[task] = np.array(right)
    keys = [(row["split"], row["seed"]) for row in next(iter(by_task.values()))]
    return Answers(keys, examples, correct)


def compare(
    first: Answers, second: Answers, purpose: str = ""
) -> tuple[float, float, float, float, str]:
    """Return difference, interval, p and the name of its test, as in `Comparison`.

    Single trainings on one task: McNemar's exact test. Otherwise, a bootstrap.
    """
    pairs = [(of, second.correct[task]) for task, of in first.correct.items()]
    difference = float(np.mean([b.mean() - a.mean() for a, b in pairs]))
    rng = np.random.default_rng(derive_seed(0, "bootstrap", purpose))
    draws = bootstrap(pairs, rng, same_trainings=first.trainings == second.trainings)
    low, high = (float(end) for end in np.quantile(draws, (0.025, 0.975)))
    if len(pairs) == len(first.trainings) == len(second.trainings) == 1:
        return difference, low, high, mcnemar(pairs[0][0][0], pairs[0][1][0]), "McNemar"
    tail = min(int((draws <= 0).sum()), int((draws >= 0).sum()))
    return difference, low, high, min(1.0, 2 * (tail + 1) / (len(draws) + 1)), "bootstrap"


def score_interval(answers: Answers, purpose: str = "") -> tuple[float, float]:
    """Return the 95 % interval of the bootstrap of a mean over trainings and relations."""
    pairs = [(np.zeros((1, of.shape[1]), bool), of) for of in answers.correct.values()]
    draws = bootstrap(
        pairs, np.random.default_rng(derive_seed(0, "interval", purpose)), same_trainings=False
    )
    low, high = np.quantile(draws, (0.025, 0.975))
    return float(low), float(high)


def mcnemar(first: Correct, second: Correct) -> float:
    """Return the two-sided p-value of the exact McNemar test.

    Of the examples that one method alone answers right, each is equally likely to be either's.

    Args:
        first: (examples,) bool, answered right.
        second: (examples,) bool, by the other method.

    Source: McNemar, Psychometrika 12 (1947), with the binomial distribution.
    """
    alone = int((first & ~second).sum()), int((second & ~first).sum())
    tail = sum(comb(sum(alone), count) for count in range(min(alone) + 1))
    return min(1.0, float(2 * tail / 2 ** sum(alone)))


def bootstrap(
    pairs: Sequence[tuple[Correct, Correct]],
    rng: np.random.Generator,
    *,
    same_trainings: bool,
    resamples: int = RESAMPLES,
) -> NDArray[np.float64]:
    """Return (resamples,) float64: the difference of means, second minus first, in each resample.

    A resample draws examples of each relation, the same for both methods, and trainings, the same
    for all relations, with replacement. With few trainings their spread is underestimated.

    Args:
        pairs: for each relation or task, (trainings, examples) bool of both methods.
        rng: where the resamples are drawn from.
        same_trainings: whether training number n of both has the same split and seed; then the
            same ones are drawn for both.
        resamples: number of them.

    Source: Koehn, EMNLP 2004; Efron and Tibshirani, An Introduction to the Bootstrap (1993).
    """
    means = np.zeros((resamples, sum(map(len, pairs[0]))))
    for pair in pairs:
        # Examples that all trainings answer alike are drawn together: their numbers are
        # multinomial, as if each example were drawn by itself.
        patterns, counts = np.unique(np.vstack(pair), axis=1, return_counts=True)
        total = counts.sum()
        drawn = rng.multinomial(total, counts / total, size=resamples) / total
        means += drawn @ patterns.T.astype(float) / len(pairs)
    first, second = np.split(means, [len(pairs[0][0])], axis=1)
    draws = rng.integers(first.shape[1], size=first.shape)
    others = draws if same_trainings else rng.integers(second.shape[1], size=second.shape)
    chosen = [np.take_along_axis(of, at, axis=1) for of, at in ((first, draws), (second, others))]
    return np.asarray(chosen[1].mean(axis=1) - chosen[0].mean(axis=1))
