"""Log-probabilities of answers equal those of transformers; options share passes; sentences and greedy text."""

from __future__ import annotations

import pytest
import torch
from tiny_models import tiny_model
from transformers import (
    Gemma2ForCausalLM,
    GPT2LMHeadModel,
    GPTNeoXForCausalLM,
    OPTForCausalLM,
    Qwen3ForCausalLM,
)

from probes.answers import LanguageModel, Questions, content_free_prompt, label_questions, sentence_questions
from probes.backbones import FrozenBackbone, tiny_backbone
from probes.backbones.tiny import byte_tokenizer
from probes.interventions import add, set_to

HEADS = {"gpt2": GPT2LMHeadModel, "gpt_neox": GPTNeoXForCausalLM, "opt": OPTForCausalLM, "qwen3": Qwen3ForCausalLM,
         "gemma2": Gemma2ForCausalLM}  # fmt: skip
PROMPTS = ["The cat sat.\nTrue or false?", "Is it?", "A rather longer question, in which more happens?"]
LABELS = ["true", "false", "tr", "unknown"]


def language_model(family: str, dtype: torch.dtype = torch.float32) -> LanguageModel:
    if family == "llama":
        model = tiny_model("llama_with_head")
    else:
        base = tiny_model(family)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = HEADS[family](base.config).eval()
        model.base_model.load_state_dict(base.state_dict())
    return LanguageModel(model.to(dtype), byte_tokenizer(), name=family)


def tokens_of(text: str) -> list[int]:
    return byte_tokenizer()(text)["input_ids"]


def directly(lm: LanguageModel, prompt: list[int], answer: list[int]) -> float:
    """The definition, from the whole model's logits of one text without padding."""
    ids = torch.tensor([[*prompt, *answer]])
    with torch.no_grad():
        log_probs = lm.model(ids).logits[0].double().log_softmax(-1)
    return sum(log_probs[len(prompt) - 1 + i, token].item() for i, token in enumerate(answer))


@pytest.mark.parametrize("family", ["llama", *HEADS])
def test_log_probabilities_of_answers_equal_those_of_transformers(family: str):
    lm = language_model(family)
    questions = label_questions(lm.backbone, PROMPTS, LABELS, tokens_per_batch=64)
    found = lm.log_probs(questions)
    for row, prompt in enumerate(lm.backbone.tokenize(PROMPTS).ids):
        for option, label in enumerate(LABELS):
            expected = directly(lm, prompt.tolist(), tokens_of(f" {label}"))
            assert found[row, option].item() == pytest.approx(expected, abs=1e-5 * max(1, abs(expected)))


@pytest.mark.parametrize("family", ["llama", *HEADS])
def test_in_bfloat16_they_are_those_of_transformers_up_to_its_rounding(family: str):
    lm = language_model(family, torch.bfloat16)
    found = lm.log_probs(label_questions(lm.backbone, PROMPTS, ["true"]))
    for row, prompt in enumerate(lm.backbone.tokenize(PROMPTS).ids):
        assert found[row, 0].item() == pytest.approx(directly(lm, prompt.tolist(), tokens_of(" true")), rel=0.03)


def test_options_that_begin_alike_share_a_pass():
    questions = Questions.of([[1, 2], [3]], [[[7], [8], [7, 9], [7, 9, 4]]] * 2)
    assert sum(len(batch.input_ids) for batch in questions.batches) == 2  # of 8 options
    apart = Questions.of([[1, 2]], [[[7, 1], [8, 1]]])
    assert sum(len(batch.input_ids) for batch in apart.batches) == 2
    assert questions.lengths.tolist() == [[1, 1, 2, 3]] * 2


def test_scores_do_not_depend_on_the_batches():
    lm = language_model("llama")
    together, alone = (label_questions(lm.backbone, PROMPTS, LABELS, tokens_per_batch=n) for n in (10_000, 1))
    assert (len(together.batches), len(alone.batches)) == (1, 9)
    torch.testing.assert_close(lm.log_probs(together), lm.log_probs(alone), rtol=1e-5, atol=1e-5)


def test_an_intervention_changes_the_answers_as_it_changes_transformers_logits():
    lm = language_model("llama")
    questions = label_questions(lm.backbone, PROMPTS[:1], LABELS)
    before = lm.log_probs(questions)
    (ids,) = lm.backbone.tokenize(PROMPTS[:1]).ids
    with lm.backbone.intervene([add(torch.ones(32), layer=2)]):
        after = lm.log_probs(questions)
        expected = directly(lm, ids.tolist(), tokens_of(" true"))
    assert after[0, 0].item() == pytest.approx(expected, abs=1e-4)
    assert not torch.allclose(before, after)


@pytest.mark.parametrize("start", [None, 255])
def test_the_log_probability_of_a_sentence_is_the_sum_over_its_tokens(start: int | None):
    lm = language_model("gpt2")
    if start is not None:
        lm.backbone.tokenizer.wrapped.bos_token_id = start
    sentences = ["The cats sleep.", "The cats sleeps."]
    found = lm.log_probs(sentence_questions(lm.backbone, sentences))
    for row, sentence in enumerate(sentences):
        tokens = tokens_of(sentence) if start is None else [start, *tokens_of(sentence)]
        assert found[row, 0].item() == pytest.approx(directly(lm, tokens[:1], tokens[1:]), abs=1e-3)


def test_greedy_text_follows_an_intervention():
    lm = language_model("llama")
    with torch.no_grad():
        lm.model.lm_head.weight.zero_()
        lm.model.lm_head.weight[tokens_of("x"), 0] = 1.0
        lm.model.lm_head.weight[tokens_of("y"), 1] = 1.0
    towards_x, towards_y = torch.eye(32)[0], torch.eye(32)[1]
    for direction, text in ((towards_x, "xxx"), (towards_y, "yyy")):
        with lm.backbone.intervene([set_to(direction, layer="final")]):
            assert lm.greedy_texts(PROMPTS, max_new_tokens=3) == [text] * 3


def test_the_content_free_prompt_keeps_what_all_prompts_share():
    prompts = [f"Claim: number {i} is odd.\nTrue or false?" for i in range(30)]
    assert content_free_prompt(prompts) == "Claim: N/A\nTrue or false?"
    assert content_free_prompt(["no", "frame"]) == "N/A"


def test_models_without_a_head_are_refused_by_name():
    with pytest.raises(ValueError, match="LlamaModel has no language-model head"):
        LanguageModel(tiny_model("llama"), byte_tokenizer())
    with pytest.raises(ValueError, match=r"'an encoder'.*only a lone decoder"):
        LanguageModel.of(FrozenBackbone(tiny_model("bert"), byte_tokenizer(), name="an encoder"))
    with pytest.raises(ValueError, match="wrapped around a live model"):
        LanguageModel.of(FrozenBackbone(tiny_model("llama"), byte_tokenizer()))


def test_the_frozen_backbone_and_its_language_model_read_the_same_layers():
    backbone = tiny_backbone()
    lm = LanguageModel.of(backbone)
    assert lm.backbone.fingerprint() == backbone.fingerprint()
    assert not any(parameter.requires_grad for parameter in lm.model.parameters())


@pytest.mark.parametrize(
    ("prompts", "answers", "message"),
    [
        ([[1]], [[]], "at least one"),
        ([[1], [2]], [[[1]], [[1], [2]]], r"same number of options.*\[1, 2\]"),
        ([[]], [[[1]]], "at least one token"),
        ([[1]], [[[]]], "at least one token"),
    ],
)
def test_empty_prompts_and_options_are_refused(prompts, answers, message: str):
    with pytest.raises(ValueError, match=message):
        Questions.of(prompts, answers)
