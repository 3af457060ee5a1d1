"""Attributions: gradients add up, integrated gradients are complete, and parts of prompts are told apart."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from logged_objectives import with_logged_objective
from toy_language_model import ANSWERS, planted_directions, toy_language_model, toy_task

from probes.analysis import LayerAnalysis
from probes.answers import LanguageModel, Questions, label_questions
from probes.backbones import tiny_backbone
from probes.interventions.attribution import (
    _gradient,
    average_tokens,
    gradient_times_input,
    integrated_gradients,
    parts_of_prompts,
    right_answer_weights,
    score_at,
)
from probes.report import FilesOnly, read_attributions, read_results
from probes.studies import AttributeStudy, RunContext
from probes.studies.interventions.answered import AnsweredTask
from probes.studies.interventions.attribute import attributed_texts
from probes.tasks import starter_suite

LM = toy_language_model


def questions_and_weights() -> tuple[Questions, torch.Tensor]:
    rows = toy_task(0, test=24).splits["test"]
    questions = label_questions(LM().backbone, rows.prompts, ANSWERS, tokens_per_batch=40)
    return questions, right_answer_weights(torch.tensor(rows.labels), 2)


def layer_0(batch, lm=None):
    return (lm or LM()).backbone.hidden_states(batch.input_ids, batch.attention_mask, layers=[0])[0]


def test_integrated_gradients_sum_to_the_difference_of_the_scores():
    lm = LanguageModel.of(tiny_backbone())
    task = starter_suite(["sentiment"], prompt="instruction", max_rows=12).tasks[0]
    questions = label_questions(lm.backbone, task.splits["test"].prompts, task.labels)
    weights = right_answer_weights(torch.tensor(task.splits["test"].labels), 2)
    start_of = average_tokens(lm, questions)
    for batch, found in zip(questions.batches, integrated_gradients(lm, questions, weights, steps=12), strict=True):
        hidden = layer_0(batch, lm)
        ends = [score_at(lm, batch, own, weights) for own in (hidden, start_of(batch, hidden))]
        torch.testing.assert_close(found.sum(1), ends[0] - ends[1], rtol=1e-4, atol=1e-4)
        assert (ends[0] - ends[1]).abs().mean() > 1e-2


def test_integrated_gradients_of_a_row_do_not_depend_on_its_batch():
    found = []
    for tokens_per_batch in (12, 40, 4096):
        task = toy_task(0, test=24)
        answered = AnsweredTask.of(task, LM().backbone, tokens_per_batch=tokens_per_batch)
        found.append(AttributeStudy(method="integrated_gradients")._shares(LM(), answered))
        assert (len(answered.test.batches) == 1) == (tokens_per_batch == 4096)
    for other in found[1:]:
        for name in ("by_token", "completeness_error"):
            np.testing.assert_allclose(other[name], found[0][name], rtol=1e-3, atol=1e-4)
    assert np.abs(found[0]["by_token"]).mean() > 0.1


def test_an_average_token_has_the_mean_direction_and_length_of_all_prompt_tokens():
    questions, _ = questions_and_weights()
    tokens = torch.cat([layer_0(batch)[batch.prompt_mask.bool()] for batch in questions.batches])
    batch = questions.batches[-1]
    prompt, started = batch.prompt_mask.bool(), average_tokens(LM(), questions)(batch, layer_0(batch))
    average = tokens.mean(0) / tokens.mean(0).norm() * tokens.norm(dim=1).mean()
    torch.testing.assert_close(started[prompt], average.expand(int(prompt.sum()), -1))
    assert torch.equal(started[~prompt], layer_0(batch)[~prompt])
    assert not torch.allclose(started[prompt], layer_0(batch)[prompt])


def test_gradient_times_input_is_the_slope_of_the_score_when_a_token_is_scaled():
    questions, weights = questions_and_weights()
    batch, found = questions.batches[0], gradient_times_input(LM(), questions, weights)[0]
    hidden, step = layer_0(batch), 1e-3
    for token in (0, batch.prompt_mask.sum(1).max().item() - 1):
        scaled = [hidden.clone(), hidden.clone()]
        for own, sign in zip(scaled, (1, -1), strict=True):
            own[:, token] *= 1 + sign * step
        scores = [score_at(LM(), batch, own, weights) for own in scaled]
        slopes = (scores[0] - scores[1]) / (2 * step) * batch.prompt_mask[:, token]
        torch.testing.assert_close(found[:, token], slopes, rtol=0.05, atol=0.02)


def test_the_answer_owes_itself_more_to_the_sign_that_is_read_though_its_gradient_is_saturated():
    questions, weights = questions_and_weights()
    sizes = []
    for batch in questions.batches:
        hidden = layer_0(batch)
        gradient = _gradient(LM(), batch, hidden, weights)
        rows, last = torch.arange(len(hidden)), batch.prompt_mask.sum(1) - 1
        sizes.append((gradient[rows, last] @ planted_directions().T) * (hidden[rows, last] @ planted_directions().T))
    read, ignored = torch.cat(sizes).mean(0).tolist()  # gradient × input along both planted directions
    assert read > abs(ignored)


def test_parts_of_a_prompt_are_its_input_its_instruction_and_the_options_in_it():
    task = starter_suite(["sentiment"], prompt="instruction", max_rows=60).tasks[0]
    prompts = task.splits["test"].prompts
    parts = parts_of_prompts(tiny_backbone(), prompts, task.labels)
    for prompt, own in zip(prompts, parts, strict=True):
        texts = {part: "".join(np.array(list(prompt))[mask]) for part, mask in own.items()}
        assert texts["options"] == "positivenegative"
        assert texts["instruction"] == "\nIs this opinion  or ?"
        assert texts["input"] == prompt.split("\n")[0]


def test_a_run_leaves_shares_that_add_up_and_their_difference_from_a_reference(tmp_path):
    suite = starter_suite(["sentiment"], prompt="instruction", max_rows={"train": 40, "validation": 8, "test": 24})
    context = RunContext.of(logger=FilesOnly(), seed=0, cache_dir=tmp_path / "cache", output_dir=tmp_path / "out")
    objective = with_logged_objective(
        lambda: AttributeStudy(method="integrated_gradients", steps=4).run(
            context,
            backbone=tiny_backbone,
            reference_backbone=lambda: tiny_backbone(seed=1),
            suite=lambda: suite,
            analysis=LayerAnalysis(),
        )
    )
    results = read_results(tmp_path / "out" / "results.csv")
    for role in ("", "reference"):
        shares = [row.value for row in results if row.metric.startswith("attribution/share/") and row.role == role]
        assert len(shares) == 3
        assert sum(shares) == pytest.approx(1.0, abs=1e-6)
    by_name = {(row.metric, row.role): row.value for row in results}
    assert by_name["attribution/share_difference/input", ""] == pytest.approx(
        by_name["attribution/share/input", ""] - by_name["attribution/share/input", "reference"]
    )
    assert objective == pytest.approx(by_name["attribution/share/instruction", ""], abs=0.05)
    assert np.isfinite(objective)
    assert by_name["attribution/completeness_error", ""] < 0.2  # with four nodes
    for row in results:  # a share cannot be 0 by chance, a difference of shares can
        if row.metric.startswith("attribution/share"):
            assert (row.p_cell is None, row.null_mean is None) == ("share/" in row.metric,) * 2
    texts = read_attributions(tmp_path / "out" / "attributions" / "sentiment.csv")
    prompts = suite.tasks[0].splits["test"].prompts
    assert [(text.role, text.row) for text in texts] == [(role, row) for role in ("", "reference") for row in range(24)]
    for text in texts:
        assert [word for word, _, _ in text.words] == prompts[text.row].split()
        assert sum(map(abs, text.shares)) == pytest.approx(1)
    assert {part for _, part, _ in texts[0].words} == {"input", "instruction", "options"}
    shown = (tmp_path / "out" / "report.html").read_text()
    assert shown.count('<p class="words">') == 2 * 8  # the first prompts, of both models


def test_the_words_of_a_prompt_add_up_to_its_tokens(tmp_path):
    task = starter_suite(["sentiment"], prompt="instruction", max_rows=40).tasks[0]
    lm = LanguageModel.of(tiny_backbone())
    answered = AnsweredTask.of(task, lm.backbone, tokens_per_batch=512)
    found = AttributeStudy()._shares(lm, answered)
    for text in attributed_texts(lm.backbone, answered, found, ""):
        whole = found["by_token"][text.row].sum()  # white space between words belongs to none
        prompt = task.splits["test"].prompts[text.row]
        white = [place for place, letter in enumerate(prompt) if letter.isspace()]  # a token for each byte
        words = sum(value for _, _, value in text.words)
        assert words == pytest.approx(whole - found["by_token"][text.row, white].sum(), rel=1e-6, abs=1e-9)


def test_from_a_prompt_with_the_other_sign_the_sign_that_is_read_is_all_of_the_difference_and_the_ignored_one_nothing():
    rows = toy_task(0, test=48).splits["test"]
    weights = right_answer_weights(torch.tensor(rows.labels), 2)

    def questions(flipped: int) -> Questions:
        prompts = [
            " ".join([*words[:-1], f"w{int(words[-1][1:]) ^ flipped}"]) for words in map(str.split, rows.prompts)
        ]
        return label_questions(LM().backbone, prompts, ANSWERS)

    own, totals = questions(0), {}
    gap = right_log_odds(own, weights).mean()
    for name, flipped in {"read": 1, "ignored": 2}.items():
        other = questions(flipped)
        starts = iter([layer_0(batch) for batch in other.batches])
        found = integrated_gradients(LM(), own, weights, steps=24, start_of=lambda *_, starts=starts: next(starts))
        totals[name] = torch.cat([values.sum(1) for values in found]).mean()
        # half of the difference, as the other prompt's answer is as far on the other side
        last = torch.cat(
            [v[torch.arange(len(v)), b.prompt_mask.sum(1) - 1] for v, b in zip(found, own.batches, strict=True)]
        )
        torch.testing.assert_close(last.mean(), totals[name])
    assert totals["read"] / 2 > 0.9 * gap
    assert abs(totals["ignored"]) / 2 < 0.05 * gap


def right_log_odds(questions: Questions, weights: torch.Tensor) -> torch.Tensor:
    return (LM().log_probs(questions) * weights).sum(1)


def test_too_few_nodes_are_warned_about(caplog):
    study = AttributeStudy(method="integrated_gradients", steps=2)
    profile = study._completeness("moods", np.array([0.3]), "")
    assert profile.estimates.values.tolist() == [0.3]
    assert "'moods' miss 30 %" in caplog.text
    assert "`study.steps` larger than 2" in caplog.text


def test_an_unknown_method_is_refused():
    with pytest.raises(ValueError, match=r"no method 'saliency'.*integrated_gradients.*study\.method"):
        AttributeStudy(method="saliency")


@pytest.mark.parametrize("key", ["steps", "tokens_per_batch"])
def test_settings_out_of_range_are_refused(key: str):
    with pytest.raises(ValueError, match=rf"`study\.{key}` must be at least 1; got 0"):
        AttributeStudy(**{key: 0})
