"""Path patching: against passes in which every other sublayer is frozen by hand, and on a circuit that is known."""

from __future__ import annotations

import copy
from functools import cache

import numpy as np
import pytest
import torch
from planted_circuit import circuit_pairs, planted_circuit
from tiny_models import tiny_model
from transformers import AutoModelForCausalLM, LlamaForCausalLM

from probes.answers import LanguageModel
from probes.backbones.tiny import byte_tokenizer
from probes.interventions import PromptPair, set_to
from probes.interventions.paths import PathPatches, Place, places_before
from probes.studies.interventions.patching import pair_questions

FAMILIES = ["llama_with_head", "qwen3", "gemma2", "gpt2", "gpt_neox", "opt"]
PAIRS = [PromptPair("ab cd", "ab xy", "p", "q"), PromptPair("lorem", "lirum", "r", "s")]


@cache
def lm_of(family: str) -> LanguageModel:
    if family in ("planted", "ungrouped"):
        return planted_circuit() if family == "planted" else ungrouped()
    body = tiny_model(family)
    model = body if family.endswith("head") else AutoModelForCausalLM.from_config(body.config)
    if model is not body:
        model.base_model.load_state_dict(body.state_dict())
    return LanguageModel(model.eval(), byte_tokenizer(), name=family)


def both(family: str, pairs=PAIRS):
    sides = [pair_questions(lm_of(family), pairs, side, tokens_per_batch=999) for side in ("clean", "corrupted")]
    return [side.batches[0] for side in sides]


def through(family: str, receivers, senders, pairs=PAIRS):
    lm = lm_of(family)
    patches = PathPatches(lm, *both(family, pairs))
    return patches.log_probs_through(*([Place.parse(n, lm) for n in names] for names in (receivers, senders)))


def states(lm, batch, site, layers="all"):
    return lm.backbone.hidden_states(batch.input_ids, batch.attention_mask, layers=layers, site=site)


def by_hand(family: str, receiver: str, sender: str) -> torch.Tensor:
    """The algorithm of Wang et al. step by step: all sublayers but the sender frozen by hooks, then the receiver's."""
    lm = lm_of(family)
    source, target = both(family)
    sites = ("attention", "mlp")
    frozen = {site: states(lm, target, site) for site in sites}
    new = {site: states(lm, source, site) for site in sites}
    site, layer = sender.split(".")
    layer = int(layer)
    edits = []
    for name in sites:
        for k in range(1, lm.backbone.num_layers + 1):
            value = new[name][k] if (name, k) == (site, layer) else frozen[name][k]
            edits.append(set_to(value, layer=k, site=name))
    with torch.no_grad():
        if receiver == "final":
            with lm.backbone.intervene(edits):
                return lm.token_log_probs(target)
        r_site, r_layer = receiver.split(".")
        without = [edit for edit in edits if (edit.site, edit.layer) != (r_site, int(r_layer))]
        with lm.backbone.intervene(without):
            put_out = states(lm, target, r_site, [int(r_layer)])[int(r_layer)]
        with lm.backbone.intervene([set_to(put_out, layer=int(r_layer), site=r_site)]):
            return lm.token_log_probs(target)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("receiver", "sender"),
    [("final", "attention.1"), ("final", "mlp.3"), ("mlp.2", "attention.2"), ("mlp.3", "mlp.1"),
     ("attention.3", "attention.1"), ("attention.2", "mlp.1")],
)  # fmt: skip
def test_a_path_is_what_freezing_every_other_sublayer_by_hand_gives(family: str, receiver: str, sender: str):
    expected = by_hand(family, receiver, sender)
    torch.testing.assert_close(through(family, [receiver], [sender]), expected, rtol=1e-4, atol=2e-4)
    before = lm_of(family).token_log_probs(both(family)[1])
    parallel = family == "gpt_neox" and receiver == "mlp.2" and sender == "attention.2"
    assert torch.allclose(expected, before, atol=1e-5) == parallel  # there, both read the same stream


@pytest.mark.parametrize("family", FAMILIES)
def test_all_senders_together_reach_the_final_stream_as_the_sources_own_answers(family: str):
    lm = lm_of(family)
    final = Place.parse("final", lm)
    senders = [str(place) for site in ("embeddings", "attention", "mlp") for place in places_before(final, site, lm)]
    source, target = both(family)
    with torch.no_grad():
        hidden = states(lm, source, "residual", [3])[3]
        with lm.backbone.resume(3, hidden):
            expected = lm.token_log_probs(target)
    torch.testing.assert_close(through(family, ["final"], senders), expected, rtol=1e-4, atol=5e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_all_heads_of_a_block_are_its_attention(family: str):
    for receiver in ("final", "mlp.2", "attention.3"):
        heads = through(family, [receiver], [f"head.1.{head}" for head in range(4)])
        whole = through(family, [receiver], ["attention.1"])
        if family == "gemma2":  # a norm after the projection: parts do not add up to the whole
            assert not torch.allclose(heads, whole, atol=1e-4)
        else:
            torch.testing.assert_close(heads, whole, rtol=1e-4, atol=5e-4)
    one = through(family, ["head.3.1"], ["mlp.1"])
    together = through(family, [f"head.3.{head}" for head in range(4)], ["mlp.1"])
    torch.testing.assert_close(together, through(family, ["attention.3"], ["mlp.1"]), rtol=1e-4, atol=5e-4)
    assert not torch.allclose(one, together, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_all_paths_from_a_sender_together_are_patching_it(family: str):
    lm = lm_of(family)
    source, target = both(family)
    for sender, receivers in (("mlp.3", ["final"]), ("attention.3", ["mlp.3", "final"])):
        site, layer = sender.split(".")
        value = states(lm, source, site)[int(layer)]
        with torch.no_grad(), lm.backbone.intervene([set_to(value, layer=int(layer), site=site)]):
            patched = lm.token_log_probs(target)
        torch.testing.assert_close(through(family, receivers, [sender]), patched, rtol=1e-4, atol=5e-4)


def gap_closed(receiver: str, sender: str, flipped: int = 0) -> float:
    """The share of the gap of the sign that is read which a path closes, when one of both signs is flipped."""
    lm = planted_circuit()
    source, target = both("planted", circuit_pairs(flipped))
    values = [lm.token_log_probs(source), lm.token_log_probs(target)]
    values.append(through("planted", [receiver], [sender], circuit_pairs(flipped)))
    sides = zip(values, (source, target, target), strict=True)
    first, second, patched = (_log_odds(own, batch) for own, batch in sides)
    if flipped == 0:
        return float((patched - second).mean() / (first - second).mean())
    return float(np.abs(patched - second).mean() / np.abs(_whole_gap()).mean())


@cache
def _whole_gap() -> np.ndarray:
    lm = planted_circuit()
    source, target = both("planted", circuit_pairs(0))
    return _log_odds(lm.token_log_probs(source), source) - _log_odds(lm.token_log_probs(target), target)


def _log_odds(of_tokens: torch.Tensor, batch) -> np.ndarray:
    total = torch.zeros(24, 2, dtype=torch.float64)
    total.view(-1).index_add_(0, batch.cells, of_tokens.double())
    return (total[:, 0] - total[:, 1]).numpy()


@pytest.mark.parametrize(
    ("receiver", "sender"),
    [("head.1.2", "embeddings"), ("head.2.0", "head.1.2"), ("attention.2", "attention.1"), ("final", "head.2.0"),
     ("final", "attention.2"), ("attention.1", "embeddings")],
)  # fmt: skip
def test_the_planted_path_carries_everything(receiver: str, sender: str):
    assert gap_closed(receiver, sender) == pytest.approx(1.0, abs=1e-5)
    assert gap_closed(receiver, sender, flipped=1) < 1e-5


@pytest.mark.parametrize(
    ("receiver", "sender"),
    [("final", "head.1.2"), ("final", "embeddings"), ("head.2.0", "embeddings"), ("head.2.3", "head.1.2"),
     ("head.2.0", "head.1.1"), ("final", "head.2.3"), ("head.3.0", "head.2.0"), ("mlp.3", "attention.2")],
)  # fmt: skip
def test_another_path_carries_nothing(receiver: str, sender: str):
    assert abs(gap_closed(receiver, sender)) < 1e-5


@pytest.mark.parametrize("family", FAMILIES)
def test_query_key_and_value_together_are_the_head(family: str):
    inputs = [f"head.3.1.{letter}" for letter in "qkv"]
    whole = through(family, ["head.3.1"], ["mlp.1"])
    torch.testing.assert_close(through(family, inputs, ["mlp.1"]), whole, rtol=0, atol=0)
    parts = [through(family, [one], ["mlp.1"]) for one in inputs]
    before = lm_of(family).token_log_probs(both(family)[1])
    for number, part in enumerate(parts):
        assert not torch.allclose(part, before, atol=1e-6)
        assert not torch.allclose(part, whole, atol=1e-6)
        assert not torch.allclose(part, parts[number - 1], atol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_same_prompt_as_source_changes_nothing_through_query_key_or_value(family: str):
    lm, (_, target) = lm_of(family), both(family)
    patches = PathPatches(lm, target, target)
    for letter in "qkv":
        found = patches.log_probs_through([Place.parse(f"head.3.1.{letter}", lm)], [Place.parse("mlp.1", lm)])
        torch.testing.assert_close(found, lm.token_log_probs(target), rtol=1e-5, atol=1e-5)


def own_features(family: str, letter: str, head: int) -> tuple[str, slice]:
    """The projection of block 3 and the features of one head's query, key or value, as transformers lays them out."""
    own = slice(head * 8, head * 8 + 8)
    if family == "gpt2":
        start = "qkv".index(letter) * 32
        return "attn.c_attn", slice(start + own.start, start + own.stop)
    if family == "gpt_neox":
        start = head * 24 + "qkv".index(letter) * 8
        return "attention.query_key_value", slice(start, start + 8)
    return f"self_attn.{letter}_proj", own


@cache
def ungrouped() -> LanguageModel:
    """The Llama whose four heads share two keys and values, with a copy of these for every head."""
    grouped = tiny_model("llama_with_head")
    config = copy.deepcopy(grouped.config)
    config.num_key_value_heads = 4
    model = LlamaForCausalLM(config)
    weights = {
        name: value.unflatten(0, (2, 8)).repeat_interleave(2, 0).flatten(0, 1)
        if name.endswith(("k_proj.weight", "v_proj.weight"))
        else value
        for name, value in grouped.state_dict().items()
    }
    model.load_state_dict(weights)
    return LanguageModel(model.eval(), byte_tokenizer(), name="ungrouped")


@pytest.mark.parametrize("letter", "qkv")
@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "opt", "ungrouped"])
def test_one_input_of_a_head_is_what_its_projection_puts_out_otherwise(family: str, letter: str):
    lm = lm_of(family)
    source, target = both(family)
    stream = states(lm, target, "residual", [2])[2]
    moved = stream + states(lm, source, "mlp", [1])[1] - states(lm, target, "mlp", [1])[1]
    path, features = own_features(family, letter, 1)
    projection = lm.backbone.main_stack.blocks[2].get_submodule(path)
    seen = []
    with torch.no_grad():
        hook = projection.register_forward_hook(lambda _m, _a, output: seen.append(output.clone()))
        with lm.backbone.resume(2, moved):
            lm.token_log_probs(target)
        hook.remove()

        def put(_module, _args, output):
            changed = output.clone()
            changed.view(-1, output.shape[-1])[:, features] = seen[0].view(-1, output.shape[-1])[:, features]
            return changed

        hook = projection.register_forward_hook(put)
        expected = lm.token_log_probs(target)
        hook.remove()
    assert not torch.allclose(expected, lm.token_log_probs(target), atol=1e-6)
    found = through(family, [f"head.3.1.{letter}"], ["mlp.1"])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("letter", "qkv")
def test_a_key_or_value_that_heads_share_changes_for_one_of_them_alone(letter: str):
    receiver = [f"head.2.1.{letter}"]
    with_copies = through("ungrouped", receiver, ["mlp.1"])
    torch.testing.assert_close(through("llama_with_head", receiver, ["mlp.1"]), with_copies, rtol=1e-4, atol=2e-5)


def test_the_planted_fact_is_read_as_a_value_and_not_as_query_or_key():
    assert gap_closed("head.2.0.v", "head.1.2") == pytest.approx(1.0, abs=1e-5)
    for letter in "qk":
        assert abs(gap_closed(f"head.2.0.{letter}", "head.1.2")) < 1e-5


def test_senders_write_otherwise_at_the_chosen_tokens_alone():
    lm = planted_circuit()
    pairs = circuit_pairs(0)
    source, target = both("planted", pairs)
    before = lm.token_log_probs(target)
    cue = torch.zeros_like(target.attention_mask)
    cue[:, 0] = 1
    for positions, moved in ((cue, True), (1 - cue, False)):
        found = PathPatches(lm, source, target, positions).log_probs_through(
            [Place.parse("head.1.2", lm)], [Place.parse("embeddings", lm)]
        )
        assert torch.allclose(found, before, atol=1e-6) != moved


def test_senders_lie_before_their_receiver():
    lm = planted_circuit()
    names = {r: [str(p) for p in places_before(Place.parse(r, lm), "attention", lm)] for r in ("attention.2", "mlp.2")}
    assert names == {"attention.2": ["attention.1"], "mlp.2": ["attention.1", "attention.2"]}
    assert [str(p) for p in places_before(Place.parse("mlp.2", lm), "mlp", lm)] == ["mlp.1"]
    assert len(places_before(Place.parse("final", lm), "head", lm)) == 12


@pytest.mark.parametrize(
    "name", ["mlp", "mlp.0", "mlp.4", "head.1", "head.1.4", "attention.x", "stream.2", "head.1.1.x", "mlp.1.q"]
)
def test_a_place_that_the_model_does_not_have_is_refused(name: str):
    with pytest.raises(
        ValueError, match=r"no place '.*attention\.1 to attention\.3.*head\.3\.3.*study\.paths\.receivers"
    ):
        Place.parse(name, planted_circuit())


def test_a_model_whose_stream_is_no_sum_is_refused(monkeypatch):
    lm = planted_circuit()
    whole = type(lm.backbone).hidden_states

    def other(self, *args, site="residual", **kwargs):
        found = whole(self, *args, site=site, **kwargs)
        return {k: 0 * v for k, v in found.items()} if site == "attention" else found

    monkeypatch.setattr(type(lm.backbone), "hidden_states", other)
    with pytest.raises(ValueError, match="not sums of what its sublayers write"):
        PathPatches(lm, *both("planted", circuit_pairs(0)))
