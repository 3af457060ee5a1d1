from __future__ import annotations

import pytest
import torch
from tiny_models import _LLAMA, tiny_model
from transformers import Gemma2Config, Gemma2ForCausalLM, GPT2Config, GPT2LMHeadModel
from tuning_samples import encoded, labelled, tuned_model

from probes.backbones import tiny_backbone
from probes.tuning import TuningSettings
from probes.tuning.answer_model import AnswerBatch, AnswerModel

EXAMPLES = encoded(tiny_backbone())


def gemma_with_capped_logits():
    config = Gemma2Config(**_LLAMA, head_dim=8, final_logit_softcapping=0.5)
    return Gemma2ForCausalLM(config)


def models():
    torch.manual_seed(0)
    return {
        "llama": tiny_model("llama_with_head"),
        "gpt2": GPT2LMHeadModel(GPT2Config(vocab_size=257, n_embd=32, n_layer=2, n_head=4, n_positions=64)),
        "gemma2": gemma_with_capped_logits(),
    }


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
def test_the_loss_is_that_of_transformers_with_prompts_unlabelled(family: str):
    model = models()[family].eval()
    losses = AnswerModel(model)(AnswerBatch.of(EXAMPLES, device=torch.device("cpu")))
    assert losses.shape == (sum(len(e.answer) for e in EXAMPLES),)
    torch.testing.assert_close(losses.mean(), model(**labelled(EXAMPLES)).loss, rtol=1e-5, atol=1e-6)


def test_a_head_that_caps_its_logits_is_left_to_the_model_itself():
    assert [AnswerModel(model).own_logits for model in models().values()] == [False, False, True]


def test_asking_about_the_head_leaves_dropout_as_it_was():
    model = models()["gpt2"].train()
    AnswerModel(model)
    assert model.training


def test_a_loss_does_not_depend_on_batch_mates():
    model = tuned_model(TuningSettings(), moved=True).eval()
    together = model(AnswerBatch.of(EXAMPLES, device=torch.device("cpu")))
    alone = torch.cat([model(AnswerBatch.of([e], device=torch.device("cpu"))) for e in EXAMPLES])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)


def test_autocast_multiplies_in_bfloat16_and_still_answers_in_float32():
    model = tuned_model(TuningSettings(), moved=True).eval()
    batch = AnswerBatch.of(EXAMPLES, device=torch.device("cpu"))
    exact, half = model(batch), AnswerModel(model.model, autocast=True)(batch)
    assert half.dtype == torch.float32
    assert not torch.equal(half, exact)
    torch.testing.assert_close(half, exact, rtol=0, atol=0.1)


def test_short_batches_in_half_precision_take_plain_attention_and_the_model_keeps_its_own(monkeypatch):
    monkeypatch.setattr("probes.tuning.answer_model._SHORT", 12)
    model = tuned_model(TuningSettings()).model
    half, used = AnswerModel(model, autocast=True), []
    model.base_model.register_forward_pre_hook(lambda *_: used.append(model.config._attn_implementation))
    widths = sorted({example.num_inputs for example in EXAMPLES})
    for width in widths:
        example = next(example for example in EXAMPLES if example.num_inputs == width)
        half(AnswerBatch.of([example], device=torch.device("cpu")))
    assert used == ["eager" if width <= 12 else "sdpa" for width in widths]
    assert len(set(used)) == 2
    AnswerModel(model)(AnswerBatch.of(EXAMPLES, device=torch.device("cpu")))
    assert used[-1] == model.config._attn_implementation == "sdpa"
