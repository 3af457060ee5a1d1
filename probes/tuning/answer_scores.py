"""How well a model answers: the loss of the right answers, and what it writes by itself."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchmetrics.text.rouge import ROUGEScore

from probes.seeds import derive_seed
from probes.tuning.answer_model import AnswerBatch, AnswerModel
from probes.tuning.examples import Example, micro_batches


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


@torch.no_grad()
def greedy_answers(
    model: AnswerModel,
    prompts: Sequence[np.ndarray],
    *,
    end_id: int,
    max_new_tokens: int,
    longest: int,
    tokens_per_batch: int,
) -> list[list[int]]:
    """The likeliest next token again and again, until the end token.

    Args:
        model: In evaluation mode.
        prompts: Token ids of each prompt.
        end_id: The token that ends an answer; it is not part of it.
        max_new_tokens: Tokens of an answer at most.
        longest: Tokens of prompt and answer at most.
        tokens_per_batch: Most tokens of prompts and answers held at once.

    Returns:
        Token ids of each answer, in the order of the prompts.
    """
    answers: list[list[int]] = [[] for _ in prompts]
    for rows in _groups(prompts, max_new_tokens, tokens_per_batch):
        ids = torch.from_numpy(np.stack([prompts[row] for row in rows]).astype(np.int64)).to(model.device)
        written = _write(model, ids, end_id, min(max_new_tokens, longest - ids.shape[1]))
        for row, tokens in zip(rows, written.tolist(), strict=True):
            answers[row] = tokens[: tokens.index(end_id)] if end_id in tokens else tokens
    return answers


def _groups(prompts: Sequence[np.ndarray], max_new_tokens: int, tokens_per_batch: int) -> Iterator[list[int]]:
    by_length: dict[int, list[int]] = defaultdict(list)
    for row, prompt in enumerate(prompts):
        by_length[len(prompt)].append(row)
    for length, rows in sorted(by_length.items(), reverse=True):
        size = max(1, tokens_per_batch // (length + max_new_tokens))
        yield from (rows[i : i + size] for i in range(0, len(rows), size))


def _write(model: AnswerModel, ids: Tensor, end_id: int, new_tokens: int) -> Tensor:
    """Answer ids `(rows, at most new_tokens)`; what follows the first end token of a row means nothing."""
    mask, cache, given = torch.ones_like(ids), None, ids
    written: list[Tensor] = []
    ended = torch.zeros(len(ids), dtype=torch.bool, device=ids.device)
    while len(written) < new_tokens and not ended.all():
        token, cache = model.next_token(given, mask, cache)
        written.append(token)
        ended |= token == end_id
        given, mask = token[:, None], torch.cat([mask, mask.new_ones(len(ids), 1)], dim=1)
    return torch.stack(written, dim=1) if written else ids[:, :0]


@dataclass(frozen=True, kw_only=True)
class AnswerScores:
    """How well a model answers a task; NaN where there are no rows.

    Attributes:
        validation_loss: Mean cross-entropy of answer tokens, nats.
        test_loss: The same on the test split.
        exact_match: Share of greedy answers that equal the target, blanks at both ends aside.
        rouge_l: Mean F1 of the longest common subsequence of words, in [0, 1] (Lin 2004).
        chrf: chrF of the whole sample, character n-grams up to 6, β = 2, in [0, 1] (Popović 2015).
        n_validation: Validation rows.
        n_test: Test rows.
        n_answered: Test rows that were answered greedily.
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
    """What of the test split is answered greedily, and how.

    Attributes:
        rows: Test rows at most, drawn once for all seeds and models.
        max_new_tokens: Tokens of an answer at most.
        end_id: The token that ends an answer.
        longest: Tokens of prompt and answer that the model can hold.
        tokenizer: Turns ids to words.
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
) -> AnswerScores:
    """Losses on validation and test rows, and scores of greedy answers on a sample of the latter."""
    drawn = sample.draw(test)
    exact_match, rouge_l, chrf = _answer_scores(model, drawn, sample, micro_batch_tokens)
    return AnswerScores(
        validation_loss=answer_loss(model, validation, micro_batch_tokens=micro_batch_tokens),
        test_loss=answer_loss(model, test, micro_batch_tokens=micro_batch_tokens),
        exact_match=exact_match,
        rouge_l=rouge_l,
        chrf=chrf,
        n_validation=len(validation),
        n_test=len(test),
        n_answered=len(drawn),
    )


@torch.no_grad()
def answer_loss(model: AnswerModel, examples: Sequence[Example], *, micro_batch_tokens: int) -> float:
    """Mean cross-entropy over all answer tokens, nats; NaN without examples. Dropout is off."""
    if not examples:
        return float("nan")
    total = torch.zeros((), dtype=torch.float64, device=model.device)
    with evaluation_mode(model):
        for group in micro_batches(examples, micro_batch_tokens):
            total += model(AnswerBatch.of(group, device=model.device)).double().sum()
    return total.item() / sum(len(example.answer) for example in examples)


@contextmanager
def evaluation_mode(module: nn.Module) -> Iterator[None]:
    """Dropout off within the context; what was on comes back."""
    training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True


def _answer_scores(
    model: AnswerModel, drawn: Sequence[Example], sample: AnswerSample, micro_batch_tokens: int
) -> tuple[float, float, float]:
    if not drawn:
        return float("nan"), float("nan"), float("nan")
    with evaluation_mode(model):
        ids = greedy_answers(
            model,
            [example.prompt for example in drawn],
            end_id=sample.end_id,
            max_new_tokens=sample.max_new_tokens,
            longest=sample.longest,
            tokens_per_batch=micro_batch_tokens,
        )
    targets = [sample.tokenizer.decode(example.answer[:-1], skip_special_tokens=True).strip() for example in drawn]
    return score_answers([sample.tokenizer.decode(a, skip_special_tokens=True).strip() for a in ids], targets)


def score_answers(answers: Sequence[str], targets: Sequence[str]) -> tuple[float, float, float]:
    """Exact match, ROUGE-L and chrF of answers against one target each, as in `AnswerScores`.

    >>> [round(score, 2) for score in score_answers(["a cat sat", "no"], ["a cat sat", "yes"])]
    [0.5, 0.5, 0.89]
    """
    rouge_l: Tensor = ROUGEScore(rouge_keys="rougeL")(list(answers), list(targets))["rougeL_fmeasure"]
    exact_match = sum(a == t for a, t in zip(answers, targets, strict=True)) / len(targets)
    return exact_match, rouge_l.item(), corpus_chrf(answers, targets)
