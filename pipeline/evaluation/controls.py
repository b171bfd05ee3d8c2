"""Controls: what a method without a language model reaches.

A tuned prompt can learn which answers are frequent, and which words of a subject go with which
answer; these say what that alone is worth (OptiPrompt, Zhong et al., arXiv:2104.05240).
"""

from collections import Counter
from collections.abc import Sequence


def majority(answers: Sequence[str]) -> str:
    """Return the most frequent answer; of equally frequent ones the first in the alphabet.

    Raises:
        ValueError: there are none.
    """
    if not answers:
        raise ValueError("no answers to count")
    counts = Counter(answers)
    return min(counts, key=lambda answer: (-counts[answer], answer))


def majority_share(train: Sequence[str], test: Sequence[str]) -> float:
    """Return the share of test answers that equal the most frequent answer of train.

    Raises:
        ValueError: one of the two is empty.
    """
    if not test:
        raise ValueError("no answers to count")
    frequent = majority(train)
    return sum(answer == frequent for answer in test) / len(test)


def naive_bayes_share(train: Sequence[tuple[str, str]], test: Sequence[tuple[str, str]]) -> float:
    """Return the share of test facts that naive Bayes answers right from the subject's words.

    Multinomial, add-one smoothing, over words as white space parts them, in their own case. Of
    equally likely answers the first in the alphabet counts.

    Args:
        train: subject and object of each fact to count.
        test: those to answer.

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
