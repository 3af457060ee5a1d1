"""chrF of short answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence


def corpus_chrf(answers: Sequence[str], targets: Sequence[str], *, orders: int = 6, beta: float = 2.0) -> float:
    """F-score of character n-grams over a whole sample, blanks left out, in [0, 1].

    Precision and recall are averaged over the orders of which both sides have any: torchmetrics counts the others as
    0, so that a right answer of three letters scores 0.5 there.

    Args:
        answers: What the model wrote.
        targets: What it should have written, one an answer.
        orders: Longest n-gram.
        beta: How many times recall counts as much as precision.

    Source:
        Popović 2015, chrF: character n-gram F-score for automatic MT evaluation.

    >>> corpus_chrf(["yes"], ["yes"]), corpus_chrf(["no"], ["yes"])
    (1.0, 0.0)
    """
    precisions, recalls = [], []
    for order in range(1, orders + 1):
        pairs = [(_ngrams(a, order), _ngrams(t, order)) for a, t in zip(answers, targets, strict=True)]
        given, wanted = sum(a.total() for a, _ in pairs), sum(t.total() for _, t in pairs)
        if given > 0 and wanted > 0:
            shared = sum((a & t).total() for a, t in pairs)
            precisions.append(shared / given)
            recalls.append(shared / wanted)
    if sum(precisions) == 0:
        return 0.0
    precision, recall = sum(precisions) / len(precisions), sum(recalls) / len(recalls)
    return (1 + beta**2) * precision * recall / (beta**2 * precision + recall)


def _ngrams(text: str, order: int) -> Counter[str]:
    letters = "".join(text.split())
    return Counter(letters[i : i + order] for i in range(len(letters) - order + 1))
