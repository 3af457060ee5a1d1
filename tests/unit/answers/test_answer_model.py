from __future__ import annotations

import pytest
import torch
from tiny_models import _LLAMA, tiny_model
from transformers import Gemma2Config, Gemma2ForCausalLM, GenerationConfig, GPT2Config, GPT2LMHeadModel
from tuning_samples import encoded, labelled, tuned_model

from probes.answers.answer_model import AnswerBatch, AnswerModel
from probes.backbones import tiny_backbone
from probes.tuning import TuningSettings

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
def test_the_loss_equals_that_of_transformers_with_prompts_unlabelled(family: str):
    model = models()[family].eval()
    losses = AnswerModel(model)(AnswerBatch.of(EXAMPLES, device=torch.device("cpu")))
    assert losses.shape == (sum(len(e.answer) for e in EXAMPLES),)
    torch.testing.assert_close(losses.mean(), model(**labelled(EXAMPLES)).loss, rtol=1e-5, atol=1e-6)


def test_a_head_that_caps_its_logits_is_not_taken_for_a_projection():
    assert [AnswerModel(model).head_is_projection for model in models().values()] == [True, True, False]


def test_checking_the_head_does_not_change_the_training_mode():
    model = models()["gpt2"].train()
    AnswerModel(model)
    assert model.training


def test_a_loss_does_not_depend_on_the_other_texts_in_the_batch():
    model = tuned_model(TuningSettings(), moved=True).eval()
    together = model(AnswerBatch.of(EXAMPLES, device=torch.device("cpu")))
    alone = torch.cat([model(AnswerBatch.of([e], device=torch.device("cpu"))) for e in EXAMPLES])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)


def test_autocast_multiplies_in_bfloat16_and_returns_float32():
    model = tuned_model(TuningSettings(), moved=True).eval()
    batch = AnswerBatch.of(EXAMPLES, device=torch.device("cpu"))
    exact, half = model(batch), AnswerModel(model.model, autocast=True)(batch)
    assert half.dtype == torch.float32
    assert not torch.equal(half, exact)
    torch.testing.assert_close(half, exact, rtol=0, atol=0.1)


def test_short_batches_under_autocast_use_eager_attention_and_the_model_keeps_its_kernel(monkeypatch):
    monkeypatch.setattr("probes.answers.answer_model._EAGER_TOKENS", 12)
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


def greedy_by_hand(model, ids: torch.Tensor, new_tokens: int) -> torch.Tensor:
    """Greedy decoding from its definition: whole sequences, no cache."""
    start = ids.shape[1]
    for _ in range(new_tokens):
        with torch.no_grad():
            ids = torch.cat([ids, model(ids).logits[:, -1:].argmax(-1)], dim=1)
    return ids[:, start:]


PROMPTS = torch.arange(24).reshape(3, 8)
SAMPLING_DEFAULTS = GenerationConfig(
    do_sample=True, temperature=5.0, top_p=0.5, repetition_penalty=50.0, no_repeat_ngram_size=1, num_beams=3,
    suppress_tokens=list(range(100)), min_new_tokens=6, max_length=5, eos_token_id=list(range(200)), pad_token_id=0,
)  # fmt: skip


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
def test_a_greedy_continuation_ignores_the_models_generation_config_and_leaves_it_as_it_was(family: str):
    model = models()[family].eval()
    expected = greedy_by_hand(model, PROMPTS, 6)
    model.generation_config = SAMPLING_DEFAULTS
    found = AnswerModel(model).greedy_continuation(PROMPTS, end_id=256, max_new_tokens=6)
    assert torch.equal(found, expected)
    assert model.generation_config is SAMPLING_DEFAULTS
    misled = model.generate(PROMPTS, max_new_tokens=6, do_sample=False)[:, PROMPTS.shape[1] :]
    assert not torch.equal(misled, expected)


def test_a_continuation_ends_at_its_end_token_and_short_rows_are_filled_with_it():
    model = tuned_model(TuningSettings(), moved=True).eval()
    free = greedy_by_hand(model.model, PROMPTS, 6)
    end = int(free[0, 1])
    found = model.greedy_continuation(PROMPTS, end_id=end, max_new_tokens=6)
    for row, tokens in zip(found.tolist(), free.tolist(), strict=True):
        length = tokens.index(end) if end in tokens else len(tokens)
        assert row[:length] == tokens[:length]
        assert set(row[length:]) <= {end}
