"""The frozen backbone equals the model it wraps: layers, sites, poolings, masks, and what it refuses."""

from __future__ import annotations

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny_models import FAMILIES, WITHOUT_FINAL_NORM, tiny_model

from probes.backbones import FrozenBackbone, frozen_view, pad_right, tiny_backbone
from probes.backbones.tiny import byte_tokenizer

TEXTS = ["a", "The cat sat on the mat.", "Two words", "Seven of nine, primary adjunct of unimatrix zero one."]


def backbone_of(family: str, **options) -> FrozenBackbone:
    return FrozenBackbone(tiny_model(family), byte_tokenizer(), name=family, **options)


def batch_of(backbone: FrozenBackbone, texts: list[str], *, extra_pads: int = 0):
    ids = backbone.tokenize(texts).ids
    return pad_right(ids, length=max(map(len, ids)) + extra_pads, pad_id=backbone.pad_id)


def reported_hidden_states(backbone: FrozenBackbone, ids, mask) -> tuple[torch.Tensor, ...]:
    """Hidden states as transformers reports them: layers 0…L−1 and `final`, each `(batch, tokens, features)`."""
    if not backbone.model.config.is_encoder_decoder:
        return backbone.model(ids, attention_mask=mask, output_hidden_states=True).hidden_states
    start = torch.full((len(ids), 1), 2)
    output = backbone.model(ids, attention_mask=mask, decoder_input_ids=start, output_hidden_states=True)
    return output.encoder_hidden_states if backbone.stacks == ("encoder",) else output.decoder_hidden_states


DECODERS = [("t5", "decoder"), ("bart", "decoder")]


@pytest.mark.parametrize(("family", "stack"), [*((name, None) for name in FAMILIES), *DECODERS])
def test_hooks_equal_the_models_own_hidden_states(family: str, stack: str | None):
    backbone = backbone_of(family, stack=stack)
    ids, mask = batch_of(backbone, TEXTS)
    (reading,) = backbone.readings("last")
    layers = [*range(backbone.num_layers), "final"]
    read = backbone(ids, mask, readings=[reading], layers=layers)[reading]
    last = torch.zeros(len(ids)).long() if (family, stack) in DECODERS else mask.sum(1) - 1
    for hidden, values in zip(reported_hidden_states(backbone, ids, mask), read, strict=True):
        torch.testing.assert_close(values, hidden[torch.arange(len(ids)), last], rtol=0, atol=1e-5)


@pytest.mark.parametrize("pooling", ["last", "first", "mean", "max"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_activations_of_a_text_do_not_depend_on_the_other_texts_in_the_batch(family: str, pooling: str):
    backbone = backbone_of(family)
    readings = backbone.readings(pooling)
    together = backbone(*batch_of(backbone, TEXTS, extra_pads=5), readings=readings)[readings[0]]
    for row, text in enumerate(TEXTS):
        alone = backbone(*batch_of(backbone, [text]), readings=readings)[readings[0]]
        torch.testing.assert_close(together[:, row], alone[:, 0], rtol=1e-4, atol=1e-5)


def masks_given(backbone: FrozenBackbone, ids, mask) -> list[bool]:
    """Whether the model is given a mask, for each of its passes over a batch."""
    given = []

    def record(_module, _args, kwargs):
        given.append(kwargs.get("attention_mask") is not None)

    handle = backbone.model.register_forward_pre_hook(record, with_kwargs=True)
    backbone(ids, mask, readings=backbone.readings("last"))
    handle.remove()
    return given


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma2", "gpt2", "gpt_neox", "opt"])
def test_a_causal_stack_is_run_without_a_mask_only_if_padding_is_on_the_right(family: str, dtype: torch.dtype):
    backbone = FrozenBackbone(tiny_model(family).to(dtype), byte_tokenizer(), name=family)
    ids, mask = batch_of(backbone, TEXTS)
    assert masks_given(backbone, ids, mask) == [False]
    assert masks_given(backbone, ids.flip(1), mask.flip(1)) == [True]


@pytest.mark.parametrize("family", ["llama", "gpt_neox"])
def test_rotary_models_have_the_same_activations_with_padding_on_the_left(family: str):
    backbone = backbone_of(family)
    readings = backbone.readings(["last", "mean"])
    ids, mask = batch_of(backbone, TEXTS)
    on_right = backbone(ids, mask, readings=readings)
    for row, tokens in enumerate(mask.sum(1).tolist()):
        shift = mask.shape[1] - tokens
        on_left = backbone(ids[[row]].roll(shift, 1), mask[[row]].roll(shift, 1), readings=readings)
        for reading in readings:
            torch.testing.assert_close(on_left[reading][:, 0], on_right[reading][:, row], rtol=1e-4, atol=1e-5)


def attend_in_both_directions(model) -> None:
    for block in model.layers:
        block.self_attn.is_causal = False


def leak_a_little(model) -> None:
    model.layers[0].mlp.register_forward_hook(
        lambda _module, _args, output: output + 0.01 * output.mean(1, keepdim=True)
    )


@pytest.mark.parametrize("change", [attend_in_both_directions, leak_a_little])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_decoder_that_is_not_causal_is_given_its_mask(change, dtype: torch.dtype):
    model = tiny_model("llama").to(dtype)
    change(model)
    backbone = FrozenBackbone(model, byte_tokenizer())
    assert masks_given(backbone, *batch_of(backbone, TEXTS)) == [True]


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_an_encoder_is_given_its_mask(family: str):
    backbone = backbone_of(family)
    assert masks_given(backbone, *batch_of(backbone, TEXTS)) == [True]


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_a_decoder_that_reads_the_text_does_not_depend_on_the_other_texts_in_the_batch(family: str):
    backbone = backbone_of(family, stack=["encoder", "decoder"], decoder_input="text")
    readings = backbone.readings(["last", "mean"])
    together = backbone(*batch_of(backbone, TEXTS, extra_pads=3), readings=readings)
    for row, text in enumerate(TEXTS):
        alone = backbone(*batch_of(backbone, [text]), readings=readings)
        for reading in readings:
            torch.testing.assert_close(together[reading][:, row], alone[reading][:, 0], rtol=1e-4, atol=1e-5)


def test_the_activations_of_a_decoder_depend_on_its_input():
    started, reading = backbone_of("t5", stack="decoder"), backbone_of("t5", stack="decoder", decoder_input="text")
    one, many = (
        b(*batch_of(b, TEXTS), readings=b.readings("last"), layers=[1])[b.readings("last")[0]]
        for b in (started, reading)
    )
    assert not torch.allclose(one, many)


@pytest.mark.parametrize("family", FAMILIES)
def test_layer_l_and_final_differ_exactly_where_there_is_a_final_norm(family: str):
    backbone = backbone_of(family)
    reading = backbone.readings("mean")[0]
    read = backbone(*batch_of(backbone, TEXTS), readings=[reading], layers=[backbone.num_layers, "final"])[reading]
    assert torch.equal(read[0], read[1]) == (family in WITHOUT_FINAL_NORM)
    assert backbone.has_final_norm == (family not in WITHOUT_FINAL_NORM)


@pytest.mark.parametrize("family", FAMILIES)
def test_blocks_past_the_deepest_wanted_one_are_not_run(family: str):
    backbone = backbone_of(family)
    ran = []
    for index, block in enumerate(backbone._stacks[backbone.stacks[0]].blocks):
        block.register_forward_pre_hook(lambda *_, index=index: ran.append(index))
    backbone(*batch_of(backbone, TEXTS), readings=backbone.readings("mean"), layers=[1])
    assert ran == [0]


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma2", "gpt2", "gpt_neox", "opt", "t5"])
def test_attention_and_mlp_are_what_a_block_adds_to_the_stream(family: str):
    backbone = backbone_of(family)
    residual, attention, mlp = backbone.readings("first", ["residual", "attention", "mlp"])
    read = backbone(*batch_of(backbone, TEXTS), readings=[residual, attention, mlp])
    added = read[residual][1:] - read[residual][:-1]
    torch.testing.assert_close(read[attention] + read[mlp], added, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", ["bert", "roberta", "bart"])
def test_in_post_norm_blocks_the_norms_of_the_summed_sites_give_the_next_layer(family: str):
    backbone = backbone_of(family)
    residual, attention, mlp = backbone.readings("first", ["residual", "attention", "mlp"])
    read = backbone(*batch_of(backbone, TEXTS), readings=[residual, attention, mlp])
    block = backbone._stacks["encoder"].blocks[0]
    norms = (
        ("self_attn_layer_norm", "final_layer_norm")
        if family == "bart"
        else ("attention.output.LayerNorm", "output.LayerNorm")
    )
    middle = block.get_submodule(norms[0])(read[residual][0] + read[attention][0])
    torch.testing.assert_close(
        block.get_submodule(norms[1])(middle + read[mlp][0]), read[residual][1], rtol=1e-4, atol=1e-4
    )


def test_attention_and_mlp_of_an_unknown_family_are_refused():
    backbone = backbone_of("llama")
    backbone._stacks["decoder"].module.config.model_type = "novel"
    with pytest.raises(ValueError, match=r"(?s)'novel'.*site 'mlp'.*extraction\.site=residual"):
        backbone.readings(sites="mlp")


def test_a_training_loop_around_the_backbone_changes_no_weight():
    model = tiny_model("bert")
    backbone = FrozenBackbone(model, byte_tokenizer())
    before = backbone.fingerprint()
    trainer_root = torch.nn.ModuleDict({"backbone": backbone, "probe": torch.nn.Linear(32, 2)})
    trainer_root.train()
    assert not any(module.training for module in backbone.modules())
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    reading = backbone.readings("mean")[0]
    features = backbone(*batch_of(backbone, TEXTS), readings=[reading])[reading][-1]
    optimizer = torch.optim.SGD([p for p in trainer_root.parameters() if p.requires_grad], lr=0.1)
    trainer_root["probe"](features).sum().backward()
    optimizer.step()
    assert backbone.fingerprint() == before


def test_the_fingerprint_depends_on_each_weight_and_the_dtype():
    backbone, same, other = tiny_backbone(), tiny_backbone(), tiny_backbone()
    other.model.layers[2].mlp.up_proj.weight[0, 0] += 1e-3
    assert backbone.fingerprint() == same.fingerprint()
    assert (
        len({b.fingerprint() for b in (backbone, other, tiny_backbone(dtype="bfloat16"), tiny_backbone(seed=1))}) == 4
    )


def test_the_callers_tokenizer_is_not_changed():
    tokenizer = byte_tokenizer()
    tokenizer.padding_side, tokenizer.truncation_side = "left", "right"
    state = copy.deepcopy(tokenizer.__dict__.get("init_kwargs"))
    backbone = FrozenBackbone(tiny_model("llama"), tokenizer)
    backbone.tokenize(["word " * 100], max_length=7)
    assert (tokenizer.padding_side, tokenizer.truncation_side) == ("left", "right")
    assert tokenizer.init_kwargs == state
    assert len(tokenizer("word " * 100)["input_ids"]) == 500


def test_a_final_norm_in_an_unknown_place_is_refused():
    model = tiny_model("llama")
    FrozenBackbone(model, byte_tokenizer())  # the control
    model.lnorm, model.norm = model.norm, torch.nn.Identity()
    model.norm.register_forward_hook(lambda _module, _args, output: model.lnorm(output))
    FrozenBackbone(model, byte_tokenizer())  # the output of a module includes what its hooks change
    model.final_norm = torch.nn.Identity()
    del model.norm
    object.__setattr__(model, "norm", lambda hidden: model.lnorm(hidden))
    with pytest.raises(ValueError, match=r"disagree with the model's own hidden states at layers \['final'\]"):
        FrozenBackbone(model, byte_tokenizer())


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (
            13,
            r"'llama' has no layer 13\. It has layers 0 \(embeddings\) to 3, and 'final'\. Set `backbone\.layers`",
        ),
        (-1, "no layer -1"),
        ("last", "no layer 'last'"),
        ([], "No layer is named"),
        ([0, True], "no layer True"),
    ],
)
def test_an_unknown_layer_is_refused(layers, message: str):
    with pytest.raises(ValueError, match=message):
        backbone_of("llama", layers=layers)


def test_an_unknown_stack_pooling_or_site_is_refused():
    with pytest.raises(ValueError, match=r"no stack \['encoder'\]\. It has \['decoder'\]\. Set `backbone\.stack`"):
        backbone_of("gpt2", stack="encoder")
    with pytest.raises(ValueError, match=r"\['median'\].*'mean'.*`extraction\.pooling`"):
        backbone_of("gpt2").readings("median")
    with pytest.raises(ValueError, match=r"\['head'\].*'mlp'.*`extraction\.site`"):
        backbone_of("gpt2").readings(sites="head")
    with pytest.raises(ValueError, match=r"no layer 0 at site 'mlp'\. It has layers 1 to 3"):
        backbone_of("gpt2").layers("decoder", site="mlp", spec=[0])


def activations_of(backbone: FrozenBackbone) -> torch.Tensor:
    """Shape `(layers, 2, features)`."""
    (reading,) = backbone.readings()
    ids = torch.arange(12).view(2, 6)
    return backbone(ids, torch.ones_like(ids), readings=[reading])[reading]


def test_a_frozen_view_equals_the_frozen_model_and_restores_training_afterwards():
    model = tiny_model("llama_with_head")
    expected = activations_of(FrozenBackbone(tiny_model("llama_with_head"), byte_tokenizer()))
    model.train()
    model.get_parameter("model.layers.0.mlp.up_proj.weight").requires_grad_(False)
    before = {name: p.requires_grad for name, p in model.named_parameters()}
    with frozen_view(model, byte_tokenizer()) as view:
        torch.testing.assert_close(activations_of(view), expected, rtol=0, atol=0)
    assert {name: p.requires_grad for name, p in model.named_parameters()} == before
    assert len(set(before.values())) == 2
    assert all(module.training for module in model.modules())


def test_a_frozen_view_restores_training_after_an_error():
    model = tiny_model("llama_with_head").train()
    with pytest.raises(ZeroDivisionError), frozen_view(model, byte_tokenizer()):
        raise ZeroDivisionError
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_frozen_view_reads_the_current_weights_of_adapters():
    model = tiny_model("llama_with_head")
    base = activations_of(FrozenBackbone(tiny_model("llama_with_head"), byte_tokenizer()))
    wrapped = get_peft_model(model, LoraConfig(target_modules=["q_proj"], r=2))
    with frozen_view(model, byte_tokenizer()) as view:
        torch.testing.assert_close(activations_of(view), base)  # a new adapter changes nothing
    for name, parameter in wrapped.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    with frozen_view(model, byte_tokenizer()) as view:
        assert (activations_of(view)[1:] - base[1:]).abs().max() > 0.01
