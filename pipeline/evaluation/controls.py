"""Controls: scores of methods without a language model.

A tuned prompt can learn which answers are frequent, and which words of a subject occur with which
answer; these measure how much that alone explains (OptiPrompt, Zhong et al., arXiv:2104.05240).
"""

from collections import Counter
from collections.abc import Sequence

from pipeline.evaluation.metrics import task_metrics, task_score
from pipeline.tasks import Example, Task


def majority(answers: Sequence[str]) -> str:
    """The most frequent answer, the alphabetically first of several.

    Raises:
        ValueError: there are none.
    """
    if not answers:
        raise ValueError("no answers to count")
    counts = Counter(answers)
    return min(counts, key=lambda answer: (-counts[answer], answer))


def best_constant(task: Task, test: Sequence[Example]) -> dict[str, float]:
    """What one answer to all test examples reaches at most, by each metric and by the score.

    The answer is the one that is best on test, for each number its own: a label (a position, where
    examples have their own answers), or an object of a relation. A method that is not better may
    have learned nothing but how frequent the answers are.

    Returns:
        The task's metrics and `score` by name.

    Raises:
        ValueError: there are no examples.
    """
    answers = task.labels or (majority([example.label for example in test]),)
    reached = [task_metrics(task, test, [answer] * len(test)) for answer in answers]
    best = {name: max(metrics[name] for metrics in reached) for name in task.metrics}
    return {**best, "score": max(map(task_score, reached))}


def naive_bayes(train: Sequence[tuple[str, str]], texts: Sequence[str]) -> list[str]:
    """The answers that naive Bayes gives to texts, from their words.

    Multinomial, add-one smoothing, over words split at white space, case-sensitive. Of equally
    likely answers the alphabetically first counts.

    Args:
        train: text and answer of each example to count.
        texts: those to predict.

    Raises:
        ValueError: one of the two is empty.
    """
    if not train or not texts:
        raise ValueError("no answers to count")
    # Not needed to train, so a machine that only trains may lack it.
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.naive_bayes import MultinomialNB

    words = CountVectorizer(lowercase=False, token_pattern=r"\S+")
    model = MultinomialNB().fit(words.fit_transform([s for s, _ in train]), [o for _, o in train])
    likely = model.predict_joint_log_proba(words.transform(texts))
    # Equal but for rounding is equal; argmax takes the first, and classes_ is in alphabetic order.
    best = (likely >= likely.max(axis=1, keepdims=True) - 1e-9).argmax(axis=1)
    return [str(answer) for answer in model.classes_[best]]
