"""How well a model answers: the loss of the right answers, and what it writes by itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics.text.rouge import ROUGEScore

from ..seeds import derive_seed
from .answer_model import AnswerBatch, AnswerModel
from .batches import micro_batches
from .chrf import corpus_chrf
from .examples import Example
from .greedy import greedy_answers


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
