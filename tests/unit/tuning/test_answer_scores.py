from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torchmetrics.text import CHRFScore
from transformers import GPT2Config, GPT2LMHeadModel
from tuning_samples import encoded, tuned_model

from probes.answers import greedy_answers
from probes.answers.answer_model import AnswerBatch, AnswerModel
from probes.backbones import tiny_backbone
from probes.tuning import TuningSettings
from probes.tuning.answer_scores import AnswerSample, answer_loss, corpus_chrf, evaluate, score_answers

BACKBONE = tiny_backbone()
EXAMPLES = encoded(BACKBONE, rows=20)


def sample(rows: int) -> AnswerSample:
    return AnswerSample(rows=rows, max_new_tokens=6, end_id=256, longest=2048, tokenizer=BACKBONE.tokenizer.wrapped)


def gpt2() -> AnswerModel:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = GPT2LMHeadModel(
            GPT2Config(vocab_size=257, n_embd=32, n_layer=2, n_head=4, n_positions=40, initializer_range=0.3)
        )
    return AnswerModel(model.eval())


@pytest.mark.parametrize("model", [tuned_model(TuningSettings(), moved=True).eval(), gpt2()], ids=["llama", "gpt2"])
def test_greedy_answers_are_those_of_one_prompt_at_a_time_without_a_cache(model):
    prompts = [example.prompt for example in EXAMPLES]
    answers = greedy_answers(model, prompts, end_id=256, max_new_tokens=6, longest=2048, tokens_per_batch=100)
    assert len({tuple(answer) for answer in answers}) > 1
    for prompt, answer in zip(prompts, answers, strict=True):
        ids = torch.from_numpy(prompt).long()[None]  # (1, tokens)
        for _ in range(6):
            with torch.no_grad():
                ids = torch.cat([ids, model.model(ids).logits[:, -1:].argmax(-1)], dim=1)
        assert answer == ids[0, len(prompt) :].tolist()


def test_an_answer_stops_before_the_end_token_and_at_the_longest_input():
    model, prompts = gpt2(), [np.arange(5), np.arange(38), np.arange(40)]
    free = greedy_answers(model, prompts, end_id=256, max_new_tokens=5, longest=40, tokens_per_batch=100)
    assert list(map(len, free)) == [5, 2, 0]
    end = free[0][2]
    ended = greedy_answers(model, prompts[:1], end_id=end, max_new_tokens=5, longest=40, tokens_per_batch=100)
    assert ended[0] == free[0][: free[0].index(end)]


def test_the_loss_is_the_mean_over_all_answer_tokens_whatever_the_micro_batches():
    model = tuned_model(TuningSettings(dropout=0.5), moved=True).train()
    few, many = (answer_loss(model, EXAMPLES, micro_batch_tokens=tokens) for tokens in (40, 10**6))
    assert few == pytest.approx(many, rel=1e-6)
    assert model.training
    losses = model.eval()(AnswerBatch.of(EXAMPLES, device=torch.device("cpu")))
    assert many == pytest.approx(losses.mean().item(), rel=1e-6)
    assert math.isnan(answer_loss(model, [], micro_batch_tokens=40))


def test_scores_are_1_for_correct_answers_and_0_for_unrelated_ones():
    assert score_answers(["yes", "a b c"], ["yes", "a b c"]) == (1, 1, 1)
    assert score_answers(["x", "q"], ["yes", "no"]) == (0, 0, 0)
    exact, rouge, chrf = score_answers(["the cat"], ["the cat sat"])
    assert exact == 0
    assert rouge == pytest.approx(2 * 1 * (2 / 3) / (1 + 2 / 3))
    assert 0 < chrf < 1


def test_chrf_is_the_f_score_of_mean_precision_and_mean_recall():
    assert corpus_chrf(["ab"], ["abc"], orders=2) == pytest.approx(
        5 * 1 * (2 / 3 + 1 / 2) / 2 / (4 + (2 / 3 + 1 / 2) / 2)
    )
    assert corpus_chrf(["a bc"], ["abc"]) == 1
    assert corpus_chrf([""], ["abc"]) == 0
    long = (["the cat sat on the mat today"], ["the cat sits on a mat"])
    theirs = CHRFScore(n_word_order=0)(long[0], [[target] for target in long[1]]).item()
    assert corpus_chrf(*long) == pytest.approx(theirs, abs=0.02)


def test_an_evaluation_counts_its_rows_and_its_scores_are_nan_without_a_sample():
    model = tuned_model(TuningSettings(), moved=True)
    scores = evaluate(model, EXAMPLES[:3], EXAMPLES, sample(4), micro_batch_tokens=100)
    assert (scores.n_validation, scores.n_test, scores.n_answered) == (3, 20, 4)
    assert 0 <= scores.exact_match <= 1
    empty = evaluate(model, [], EXAMPLES, sample(0), micro_batch_tokens=100)
    assert empty.n_answered == 0
    assert all(map(math.isnan, (empty.exact_match, empty.rouge_l, empty.chrf, empty.validation_loss)))
    assert empty.test_loss == pytest.approx(scores.test_loss)


def test_the_sample_is_the_same_every_time_and_in_order():
    drawn = sample(5).draw(EXAMPLES)
    rows = [next(i for i, e in enumerate(EXAMPLES) if e is chosen) for chosen in drawn]
    assert rows == sorted(set(rows))
    assert len(rows) == 5
    assert all(a is b for a, b in zip(drawn, sample(5).draw(EXAMPLES), strict=True))
    assert len(sample(99).draw(EXAMPLES)) == 20
