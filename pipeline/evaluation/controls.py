"""Controls: scores of methods without a language model.

A tuned prompt can learn which answers are frequent, and which words of a subject occur with which
answer; these measure how much that alone explains (OptiPrompt, Zhong et al., arXiv:2104.05240).
"""

from collections import Counter
from collections.abc import Sequence


def majority(answers: Sequence[str]) -> str:
    """The most frequent answer, the alphabetically first of several.

    Raises:
        ValueError: there are none.
    """
    if not answers:
        raise ValueError("no answers to count")
    counts = Counter(answers)
    return min(counts, key=lambda answer: (-counts[answer], answer))


def naive_bayes_share(train: Sequence[tuple[str, str]], test: Sequence[tuple[str, str]]) -> float:
    """The share of test facts that naive Bayes predicts from the subject's words.

    Multinomial, add-one smoothing, over words split at white space, case-sensitive. Of equally
    likely answers the alphabetically first counts.

    Args:
        train: subject and object of each fact to count.
        test: those to predict.

    Raises:
        ValueError: one of the two is empty.
    """
    if not train or not test:
        raise ValueError("no answers to count")
    # Not needed to train, so a machine that only trains may lack it.
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.naive_bayes import MultinomialNB

    words = CountVectorizer(lowercase=False, token_pattern=r"\S+")
    model = MultinomialNB().fit(words.fit_transform([s for s, _ in train]), [o for _, o in train])
    likely = model.predict_joint_log_proba(words.transform([subject for subject, _ in test]))
    # Equal but for rounding is equal; argmax takes the first, and classes_ is in alphabetic order.
    answers = model.classes_[(likely >= likely.max(axis=1, keepdims=True) - 1e-9).argmax(axis=1)]
    right = [answer == object_ for answer, (_, object_) in zip(answers, test, strict=True)]
    return float(sum(right) / len(right))
