"""Lenses: at the last layer they are the model, and a trained one is nearer to the model on texts it has not seen."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch
from tiny_models import tiny_model
from toy_language_model import LAYERS, WORDS, toy_language_model, toy_task
from transformers import AutoModelForCausalLM

from probes.answers import LanguageModel, label_questions
from probes.backbones.tiny import byte_tokenizer
from probes.interventions.lenses import (
    Readout,
    TokenStates,
    Translators,
    divergence,
    divergences,
    lens_logits,
    mean_distribution,
    sampled_states,
)
from probes.interventions.tuned_lens import TunedLensSettings, train_translators
from probes.studies.interventions.lensing import look

LM = toy_language_model
FAMILIES = ("llama", "qwen3", "gemma2", "gpt2", "gpt_neox", "opt")
SMALL = TunedLensSettings(steps=80, batch_tokens=64, check_every=20, learning_rate=1e-2)


def with_head(family: str, dtype: torch.dtype = torch.float32) -> LanguageModel:
    """A tiny model of a family with its head, its body as in the other tests."""
    body = tiny_model(family)
    model = AutoModelForCausalLM.from_config(body.config)
    model.base_model.load_state_dict(body.state_dict())
    return LanguageModel(model.to(dtype).eval(), byte_tokenizer(), name=family)


def toy_texts(seed: int, count: int = 200) -> list[str]:
    words = torch.randint(WORDS, (count, 5), generator=torch.Generator().manual_seed(seed)).tolist()
    return [" ".join(f"w{word}" for word in text) for text in words]


def toy_states(seed: int, count: int = 200) -> TokenStates:
    return sampled_states(LM(), toy_texts(seed, count), layers=range(LAYERS + 1), tokens=4 * count, seed=seed)


@pytest.fixture(scope="module")
def trained() -> Translators:
    return train_translators(Readout(LM()), toy_states(0, 500), toy_states(1, 60), SMALL, seed=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_last_layer_through_a_lens_is_the_model_to_the_bit(family: str, dtype: torch.dtype):
    lm = with_head(family, dtype)
    ids = torch.arange(10, 22).view(2, 6)
    positions = torch.tensor([2, 5, 9, 11])
    states = lm.backbone.hidden_states(ids, torch.ones_like(ids), layers=[1, 3])
    assert torch.equal(lens_logits(lm, ids, positions, states[3]), lm.answers.logits_at(ids, positions).detach())
    assert not torch.allclose(lens_logits(lm, ids, positions, states[1]), lens_logits(lm, ids, positions, states[3]))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_readout_is_the_models_norm_head_and_cap(family: str):
    lm = with_head(family)
    ids = torch.arange(40, 52).view(2, 6)
    states = lm.backbone.hidden_states(ids, torch.ones_like(ids), layers=[3])[3]
    expected = lm.model(input_ids=ids).logits
    torch.testing.assert_close(Readout(lm)(states), expected, rtol=1e-4, atol=1e-4)
    some = torch.tensor([3, 200, 7])
    torch.testing.assert_close(Readout(lm)(states, some), expected[..., some], rtol=1e-4, atol=1e-4)


def test_a_model_whose_logits_are_scaled_after_its_head_has_no_readout():
    lm = with_head("llama")
    forward = lm.model.forward
    lm.model.forward = lambda **options: SimpleNamespace(logits=2 * forward(**options).logits)  # as Cohere's models do
    with pytest.raises(ValueError, match=r"'llama' \(a LlamaForCausalLM\) are not its head.*study\.tuned=null"):
        Readout(lm)


def test_a_tuned_lens_is_nearer_to_the_model_on_texts_it_was_not_trained_on(trained: Translators):
    readout, held_out = Readout(LM()), toy_states(2)
    logit = divergences(readout, held_out).mean(1)
    tuned = divergences(readout, held_out, trained).mean(1)
    assert (tuned[:-1] < 0.7 * logit[:-1]).all()
    assert tuned[-1] == logit[-1] == 0


def test_a_layer_that_the_model_maps_linearly_is_translated_almost_without_error():
    lm = LanguageModel(copy.deepcopy(LM().model), LM().backbone.tokenizer.wrapped, name="linear")
    generator = torch.Generator().manual_seed(3)
    states = toy_states(0, 500).values[0]
    turned = states @ torch.linalg.qr(torch.randn(32, 32, generator=generator))[0] + 0.3
    train = TokenStates((0, 1), torch.stack([states, turned]), torch.arange(len(states)))
    settings = TunedLensSettings(steps=300, batch_tokens=128, check_every=100, learning_rate=2e-2)
    found = train_translators(Readout(lm), train, train, settings, seed=0)
    before, after = (divergences(Readout(lm), train, own)[0].mean() for own in (None, found))
    assert after < 0.05 * before


def test_training_on_part_of_the_vocabulary_comes_near_training_on_all_of_it(trained: Translators):
    readout, held_out = Readout(LM()), toy_states(2)
    settings = TunedLensSettings(steps=80, batch_tokens=64, check_every=20, learning_rate=1e-2, vocabulary=60)
    part = train_translators(readout, toy_states(0, 500), toy_states(1, 60), settings, seed=0)
    whole, parts, logit = (divergences(readout, held_out, own)[:-1].mean(1) for own in (trained, part, None))
    assert (parts < logit).all()
    assert ((logit - parts) > 0.8 * (logit - whole)).all()


def test_layers_are_trained_together_but_do_not_depend_on_each_other(trained: Translators):
    one = [toy_states(seed, count) for seed, count in ((0, 500), (1, 60))]
    one = [TokenStates((1, LAYERS), own.values[[1, LAYERS]], own.texts) for own in one]
    alone = train_translators(Readout(LM()), *one, SMALL, seed=0)
    torch.testing.assert_close(alone.matrices[0], trained.matrices[1], rtol=1e-3, atol=1e-4)


def test_without_a_better_state_a_translator_stays_the_identity():
    train, noise = toy_states(0), toy_states(1)
    settings = TunedLensSettings(steps=2, batch_tokens=8, learning_rate=10.0, check_every=1)
    found = train_translators(Readout(LM()), train, noise, settings, seed=0)
    assert not found.matrices.any()
    states = noise.values[1, :4]
    assert torch.equal(found(states, 1), states)
    assert torch.equal(found(states, LAYERS), states)


def test_the_last_layer_alone_has_nothing_to_train():
    last = TokenStates((LAYERS,), toy_states(0).values[[LAYERS]], toy_states(0).texts)
    found = train_translators(Readout(LM()), last, last, SMALL, seed=0)
    assert found.layers == ()
    assert torch.equal(found(last.values[0], LAYERS), last.values[0])


def test_sampled_tokens_are_those_of_their_texts():
    states, texts = toy_states(4, 30), toy_texts(4, 30)
    assert states.values.shape[1] == len(states.texts) <= 120
    for text in (0, 17):
        ids = torch.from_numpy(LM().backbone.tokenize([texts[text]]).ids[0]).long()[None]
        own = LM().backbone.hidden_states(ids, torch.ones_like(ids), layers=[2])[2][0, 1:]
        torch.testing.assert_close(states.values[2, states.texts == text], own, rtol=1e-4, atol=1e-5)
    some = states.of_texts(torch.arange(30) < 10)
    assert some.texts.max() < 10
    assert len(some.texts) > 0
    thin = states.thinned(7)
    assert thin.values.shape[1] == len(thin.texts) == 7
    assert torch.equal(states.thinned(1000).values, states.values)
    with pytest.raises(ValueError, match="None of 2 texts has two tokens"):
        sampled_states(LM(), ["w1", "w2"], layers=[0], tokens=4, seed=0)


def test_the_mean_distribution_is_a_distribution_and_far_from_the_model():
    readout, states = Readout(LM()), toy_states(0)
    mean = mean_distribution(readout, states)
    assert mean.sum().item() == pytest.approx(1)
    final = readout(states.values[-1]).log_softmax(-1).double()
    assert divergence(final, mean.log()).mean() > 0.1


def test_what_a_task_sees_at_the_last_layer_is_what_the_model_answers():
    task = toy_task(0, test=24)
    prompts = task.splits["test"].prompts
    questions = label_questions(LM().backbone, prompts, ["yes", "no", "w3 yes"], tokens_per_batch=32)
    seen = look(LM(), questions, [0, 2, LAYERS])
    torch.testing.assert_close(
        torch.from_numpy(seen.log_probs[-1]), LM().log_probs(questions), rtol=0, atol=1e-5
    )  # fmt: skip
    for row, prompt in enumerate(prompts):
        ids = torch.from_numpy(LM().backbone.tokenize([prompt]).ids[0]).long()[None]
        logits = LM().model(input_ids=ids).logits[0, -1]
        first = [LM().backbone.tokenize([label]).ids[0][0] for label in ("yes", "no", "w3")]
        ranks = [1 + int((logits > logits[token]).sum()) for token in first]
        assert (10 ** seen.log10_ranks[-1, row]).round().tolist() == ranks
    assert not seen.divergences[-1].any()
    assert (seen.divergences[0] > 0.01).all()
    assert seen.log10_ranks.min() >= 0


@pytest.mark.parametrize(
    ("options", "message"),
    [({"steps": 0}, r"study\.tuned\.steps` must be at least 1"), ({"learning_rate": 0.0}, r"learning_rate` must be")],
)
def test_settings_out_of_range_are_refused(options, message: str):
    with pytest.raises(ValueError, match=message):
        TunedLensSettings(**options)
