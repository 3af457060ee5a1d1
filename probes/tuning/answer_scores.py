"""How well a model answers: the loss of the target answers, and scores of the answers it generates greedily."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchmetrics.text.rouge import ROUGEScore

from probes.answers import Example, greedy_answers, micro_batches
from probes.answers.answer_model import AnswerBatch, AnswerModel
from probes.seeds import derive_seed
from probes.tuning.ranks import ALONE, Ranks


@dataclass(frozen=True, kw_only=True)
class AnswerScores:
    """How well a model answers a task; NaN where there are no rows.

    Attributes:
        validation_loss: Mean cross-entropy of answer tokens on the validation split, nats.
        test_loss: The same on the test split.
        exact_match: Share of greedy answers that equal their target, apart from white space at both ends.
        rouge_l: Mean F1 of the longest common subsequence of words, in [0, 1] (Lin 2004).
        chrf: chrF of the whole sample, character n-grams up to 6, β = 2, in [0, 1] (Popović 2015).
        n_validation: Validation rows.
        n_test: Test rows.
        n_answered: Test rows with a greedy answer.
    """

    validation_loss: float
    test_loss: float
    exact_match: float
    rouge_l: float
    chrf: float
    n_validation: int
    n_test: int
    n_answered: int


@dataclass(frozen=True, kw_only=True)
class AnswerSample:
    """Which test rows are answered greedily, and how.

    Attributes:
        rows: Test rows at most; the sample is the same for all seeds and models.
        max_new_tokens: Tokens of an answer at most.
        end_id: The token that ends an answer.
        longest: Tokens of prompt and answer together that the model can read.
        tokenizer: A transformers tokenizer, which decodes answers.
    """

    rows: int
    max_new_tokens: int
    end_id: int
    longest: int
    tokenizer: Any

    def draw(self, test: Sequence[Example]) -> list[Example]:
        """The sampled rows, in the order of the split."""
        generator = torch.Generator().manual_seed(derive_seed(0, "answered rows"))
        chosen = torch.randperm(len(test), generator=generator)[: self.rows].sort().values
        return [test[row] for row in chosen.tolist()]


def evaluate(
    model: AnswerModel,
    validation: Sequence[Example],
    test: Sequence[Example],
    sample: AnswerSample,
    *,
    micro_batch_tokens: int,
    ranks: Ranks = ALONE,
) -> AnswerScores:
    """Losses on validation and test rows, and scores of greedy answers to a sample of the test rows.

    Ranks divide the rows, and each has the scores of all of them. The answers of a model whose weights are divided are
    written by every rank for all rows, since their numbers of passes are not known before.
    """
    drawn = sample.draw(test)
    exact_match, rouge_l, chrf = _score_sample(model, drawn, sample, micro_batch_tokens, ranks)
    return AnswerScores(
        validation_loss=answer_loss(model, validation, micro_batch_tokens=micro_batch_tokens, ranks=ranks),
        test_loss=answer_loss(model, test, micro_batch_tokens=micro_batch_tokens, ranks=ranks),
        exact_match=exact_match,
        rouge_l=rouge_l,
        chrf=chrf,
        n_validation=len(validation),
        n_test=len(test),
        n_answered=len(drawn),
    )


@torch.no_grad()
def answer_loss(
    model: AnswerModel, examples: Sequence[Example], *, micro_batch_tokens: int, ranks: Ranks = ALONE
) -> float:
    """Mean cross-entropy over all answer tokens without dropout, nats; NaN without examples.

    Ranks divide the examples, and each has the mean over all of them.
    """
    if not examples:
        return float("nan")
    total = torch.zeros((), dtype=torch.float64, device=model.device)
    with evaluation_mode(model):
        for group, weight in micro_batches_of(examples, micro_batch_tokens, ranks):
            total += weight * model(AnswerBatch.of(group, device=model.device)).double().sum()
    return ranks.total(total.item()) / sum(len(example.answer) for example in examples)


def micro_batches_of(examples: Sequence[Example], tokens: int, ranks: Ranks) -> list[tuple[list[Example], float]]:
    """The micro-batches of a rank's share of some examples, each with its weight.

    Where weights are divided among ranks, all have the same number of micro-batches: those that a rank lacks are passes
    of weight 0.
    """
    groups = [(group, 1.0) for group in micro_batches(ranks.share(examples), tokens)]
    if ranks.sharded:
        shortest = min(examples, key=lambda example: example.num_inputs)
        groups += [([shortest], 0.0)] * (ranks.most(len(groups)) - len(groups))
    return groups


@contextmanager
def evaluation_mode(module: nn.Module) -> Iterator[None]:
    """Dropout is off in this context; afterwards every submodule has its previous mode."""
    training = [submodule for submodule in module.modules() if submodule.training]
    module.eval()
    try:
        yield
    finally:
        for submodule in training:
            submodule.training = True


def _score_sample(
    model: AnswerModel, drawn: Sequence[Example], sample: AnswerSample, micro_batch_tokens: int, ranks: Ranks
) -> tuple[float, float, float]:
    if not drawn:
        return float("nan"), float("nan"), float("nan")
    ours = drawn if ranks.sharded else ranks.share(drawn)
    with evaluation_mode(model):
        answers = greedy_answers(
            model,
            [example.prompt for example in ours],
            end_id=sample.end_id,
            max_new_tokens=sample.max_new_tokens,
            longest=sample.longest,
            tokens_per_batch=micro_batch_tokens,
        )
    if not ranks.sharded:
        answers = ranks.joined(ranks.gathered(answers))
    targets = [example.answer[:-1] for example in drawn]  # without the end token
    return score_answers(_decode(sample.tokenizer, answers), _decode(sample.tokenizer, targets))


def _decode(tokenizer: Any, answers: Iterable[Sequence[int] | np.ndarray]) -> list[str]:
    return [tokenizer.decode(answer, skip_special_tokens=True).strip() for answer in answers]


def score_answers(answers: Sequence[str], targets: Sequence[str]) -> tuple[float, float, float]:
    """Exact match, ROUGE-L and chrF of answers, each against its target, as in `AnswerScores`.

    >>> [round(score, 2) for score in score_answers(["a cat sat", "no"], ["a cat sat", "yes"])]
    [0.5, 0.5, 0.89]
    """
    rouge_l: Tensor = ROUGEScore(rouge_keys="rougeL")(list(answers), list(targets))["rougeL_fmeasure"]
    exact_match = sum(a == t for a, t in zip(answers, targets, strict=True)) / len(targets)
    return exact_match, rouge_l.item(), corpus_chrf(answers, targets)


def corpus_chrf(answers: Sequence[str], targets: Sequence[str], *, orders: int = 6, beta: float = 2.0) -> float:
    """F-score of character n-grams over a whole sample, white space ignored, in [0, 1].

    Precision and recall are averaged over the orders that occur in both the answers and the targets, as sacreBLEU does.
    torchmetrics counts the remaining orders as 0, so that a correct answer of three letters scores 0.5 there.

    Args:
        answers: What the model generated.
        targets: The target of each answer.
        orders: Longest n-gram, characters.
        beta: How many times as much as precision recall counts.

    Source:
        Popović 2015, chrF: character n-gram F-score for automatic MT evaluation.

    >>> corpus_chrf(["yes"], ["yes"]), corpus_chrf(["no"], ["yes"])
    (1.0, 0.0)
    """
    precisions, recalls = [], []
    for order in range(1, orders + 1):
        pairs = [(_ngrams(a, order), _ngrams(t, order)) for a, t in zip(answers, targets, strict=True)]
        in_answers, in_targets = sum(a.total() for a, _ in pairs), sum(t.total() for _, t in pairs)
        if in_answers > 0 and in_targets > 0:
            shared = sum((a & t).total() for a, t in pairs)
            precisions.append(shared / in_answers)
            recalls.append(shared / in_targets)
    if sum(precisions) == 0:
        return 0.0
    precision, recall = sum(precisions) / len(precisions), sum(recalls) / len(recalls)
    return (1 + beta**2) * precision * recall / (beta**2 * precision + recall)


def _ngrams(text: str, order: int) -> Counter[str]:
    characters = "".join(text.split())
    return Counter(characters[i : i + order] for i in range(len(characters) - order + 1))
