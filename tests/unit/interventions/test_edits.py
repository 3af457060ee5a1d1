"""Edits of hidden states: what they change, what they leave alone to the bit, and what is refused."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny_models import tiny_model

from probes.backbones import Edit, FrozenBackbone, pad_right, tiny_backbone
from probes.backbones.structure import OUTPUT_PROJECTIONS, output_projection
from probes.backbones.tiny import byte_tokenizer
from probes.interventions import add, project_out, set_to
from probes.interventions.heads import patch_heads

FAMILIES = ["llama", "qwen3", "gemma2", "gpt2", "gpt_neox", "opt"]
ENCODERS = ["bert", "roberta", "t5", "bart"]
DTYPES = [torch.float32, torch.bfloat16]
TEXTS = ["The cat sat on the mat.", "Two words", "a"]
SITES = ["residual", "attention", "mlp", "heads"]


def backbone_of(family: str, dtype: torch.dtype = torch.float32, seed: int = 0) -> FrozenBackbone:
    return FrozenBackbone(tiny_model(family, seed).to(dtype), byte_tokenizer(), name=family)


def batch_of(backbone: FrozenBackbone, texts=TEXTS):
    ids = backbone.tokenize(texts).ids
    return pad_right(ids, length=max(map(len, ids)), pad_id=backbone.pad_id)


def layers_of(backbone: FrozenBackbone, ids, mask):
    """All tokens of every layer, `final` included."""
    return backbone.hidden_states(ids, mask, layers=[*range(backbone.num_layers + 1), "final"])


def vector(size: int = 32) -> torch.Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(1))


def all_equal(before, after, layers) -> bool:
    return all(torch.equal(before[layer], after[layer]) for layer in layers)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", [*FAMILIES, *ENCODERS])
def test_an_edit_that_changes_nothing_changes_no_bit(family: str, dtype: torch.dtype):
    backbone = backbone_of(family, dtype)
    ids, mask = batch_of(backbone)
    before = layers_of(backbone, ids, mask)
    nothing = [
        *(add(0 * vector(), layer=layer, site=site) for layer in (1, 2) for site in SITES),
        add(vector(), layer=0, scale=0.0),
        set_to(before[2], layer=2),
        project_out(torch.zeros(32, 1), layer=3, positions="last"),
        set_to(before["final"], layer="final"),
    ]
    with backbone.intervene(nothing, attention_mask=mask):
        after = layers_of(backbone, ids, mask)
    assert all_equal(before, after, before)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("family", FAMILIES)
def test_layers_before_an_edit_are_the_same_to_the_bit_and_those_after_are_not(family, site, dtype):
    backbone = backbone_of(family, dtype)
    ids, mask = batch_of(backbone)
    before = layers_of(backbone, ids, mask)
    with backbone.intervene([add(3 * vector(), layer=2, site=site)]):
        after = layers_of(backbone, ids, mask)
    assert all_equal(before, after, (0, 1))
    assert not any(torch.equal(before[layer], after[layer]) for layer in (2, 3, "final"))
    assert all_equal(before, layers_of(backbone, ids, mask), before)  # the hooks are gone


@pytest.mark.parametrize("family", FAMILIES)
def test_in_a_causal_model_an_edit_of_the_last_token_leaves_all_others_alone(family: str):
    backbone = backbone_of(family)
    ids, mask = batch_of(backbone)
    before = layers_of(backbone, ids, mask)
    with backbone.intervene([add(vector(), layer=1, positions="last")], attention_mask=mask):
        after = layers_of(backbone, ids, mask)
    last = mask.cumsum(1).eq(mask.sum(1, keepdim=True)) & mask.bool()
    earlier = mask.bool() & ~last
    for layer in (1, 2, 3):
        assert torch.equal(before[layer][earlier], after[layer][earlier])
        assert (before[layer][last] != after[layer][last]).any(-1).all()
    torch.testing.assert_close(after[1][last] - before[1][last], vector().expand(3, -1), rtol=0, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_sublayers_edit_enters_the_stream_as_it_is(family: str):
    backbone = backbone_of(family)
    ids, mask = batch_of(backbone)
    before = layers_of(backbone, ids, mask)
    with backbone.intervene([add(vector(), layer=2, site="mlp")]):
        after = layers_of(backbone, ids, mask)
    torch.testing.assert_close(after[2] - before[2], vector().expand_as(before[2]), rtol=0, atol=1e-4)


@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt2", "gpt_neox", "opt", "bert", "t5"])
def test_the_heads_projected_are_what_the_attention_puts_out(family: str):
    backbone = backbone_of(family)
    ids, mask = batch_of(backbone)
    heads, attention = (
        backbone.hidden_states(ids, mask, layers=[2], site=site)[2][mask.bool()] for site in ("heads", "attention")
    )
    projection = output_projection(backbone._first_stack.blocks[1], model_type=backbone.model.config.model_type)
    torch.testing.assert_close(projection(heads), attention)
    assert backbone.num_heads == 4
    assert heads.shape[-1] % 4 == 0


@pytest.mark.parametrize("family", FAMILIES)
def test_mixing_in_heads_changes_those_alone_and_at_both_ends_exactly(family: str):
    backbone = backbone_of(family)
    ids, mask = batch_of(backbone)
    before = backbone.hidden_states(ids, mask, layers=[2], site="heads")[2]
    other = torch.randn(before.shape, generator=torch.Generator().manual_seed(0))
    width = before.shape[-1] // 4
    with backbone.intervene([patch_heads(other, torch.tensor([0.0, 1.0, 0.25, 0.0]), layer=2)]):
        after = backbone.hidden_states(ids, mask, layers=[2], site="heads")[2]
    by_head = zip(*(own.split(width, dim=-1) for own in (before, other, after)), strict=True)
    for gate, (old, new, found) in zip((0.0, 1.0, 0.25, 0.0), by_head, strict=True):
        if gate in (0.0, 1.0):
            assert torch.equal(found, new if gate else old)
        else:
            torch.testing.assert_close(found, 0.75 * old + 0.25 * new)


def test_a_removed_subspace_holds_its_centre():
    backbone = backbone_of("llama")
    ids, mask = batch_of(backbone)
    basis, _ = torch.linalg.qr(torch.randn(32, 3, generator=torch.Generator().manual_seed(0)))
    with backbone.intervene([project_out(basis, layer=2, centre=vector())]):
        after = layers_of(backbone, ids, mask)[2]
    torch.testing.assert_close(after @ basis, (vector() @ basis).expand(*after.shape[:2], -1), rtol=0, atol=1e-4)


def test_edits_compose_in_their_order_and_contexts_nest():
    backbone = backbone_of("gpt2")
    ids, mask = batch_of(backbone)
    with backbone.intervene([set_to(torch.zeros(32), layer=1), add(vector(), layer=1)]):
        both = layers_of(backbone, ids, mask)[1]
    with backbone.intervene([set_to(torch.zeros(32), layer=1)]), backbone.intervene([add(vector(), layer=1)]):
        nested = layers_of(backbone, ids, mask)[1]
    with backbone.intervene([add(vector(), layer=1), set_to(torch.zeros(32), layer=1)]):
        reversed_ = layers_of(backbone, ids, mask)[1]
    torch.testing.assert_close(both, vector().expand_as(both))
    assert torch.equal(both, nested)
    assert not reversed_.any()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_layer_of_another_model_gives_that_models_later_layers(family: str, dtype: torch.dtype):
    """With equal blocks after layer 1 the source's layer 1 decides everything that follows."""
    target, source = backbone_of(family, dtype), backbone_of(family, dtype)
    source._first_stack.blocks[0].load_state_dict(
        backbone_of(family, dtype, seed=1)._first_stack.blocks[0].state_dict()
    )
    ids, mask = batch_of(target)
    theirs, own = layers_of(source, ids, mask), layers_of(target, ids, mask)
    with target.intervene([set_to(theirs[1], layer=1)]):
        patched = layers_of(target, ids, mask)
    assert all_equal(theirs, patched, (1, 2, 3, "final"))
    assert not torch.equal(own[3], theirs[3])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("layer", [0, 1, 3])
def test_a_resumed_pass_equals_the_whole_one_to_the_bit(family: str, dtype: torch.dtype, layer: int):
    backbone = backbone_of(family, dtype)
    ids, mask = batch_of(backbone)
    before = layers_of(backbone, ids, mask)
    edit = add(vector(), layer=layer)
    with backbone.intervene([edit]):
        whole = layers_of(backbone, ids, mask)
    ran = []
    handles = [block.mlp.register_forward_hook(lambda *_, n=n: ran.append(n))
               for n, block in enumerate(backbone._first_stack.blocks) if hasattr(block, "mlp")]  # fmt: skip
    with backbone.resume(layer, before[layer]), backbone.intervene([edit]):
        resumed = layers_of(backbone, ids, mask)
    for handle in handles:
        handle.remove()
    assert all_equal(whole, resumed, range(layer, 4))
    assert ran in ([], list(range(layer, 3)))
    assert all_equal(before, layers_of(backbone, ids, mask), before)


def test_readings_see_the_edit():
    backbone = backbone_of("llama")
    ids, mask = batch_of(backbone)
    (reading,) = backbone.readings("last")
    with backbone.intervene([set_to(vector(), layer=2)]):
        read = backbone(ids, mask, readings=[reading])[reading]
    torch.testing.assert_close(read[2], vector().expand(3, -1))


def test_an_adapted_model_can_be_edited():
    model = get_peft_model(tiny_model("llama_with_head"), LoraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM"))
    backbone = FrozenBackbone(model.base_model.model, byte_tokenizer())
    ids, mask = batch_of(backbone)
    with backbone.intervene([set_to(vector(), layer=1)]):
        torch.testing.assert_close(layers_of(backbone, ids, mask)[1], vector().expand(3, ids.shape[1], -1))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda: add(vector(), layer=9), r"has no layer 9.*layers 0 \(embeddings\) to 3"),
        (lambda: add(vector(), layer=0, site="mlp"), r"no layer 0 at site 'mlp'"),
        (lambda: add(vector(), layer=1, positions="last"), r"pass `attention_mask`"),
        (lambda: add(vector(), layer=1, positions="middle"), r"Unknown positions 'middle'"),
        (lambda: add(vector(), layer=1, stack="encoder"), r"no stack \['encoder'\].*\['decoder'\]"),
        (lambda: add(vector(), layer=1, site="queries"), r"no site 'queries'.*attention, mlp, heads"),
        (lambda: add(vector(), layer=0, site="heads"), r"no layer 0 at site 'heads'"),
    ],
)
def test_a_place_that_does_not_exist_is_refused(edit, message: str):
    with pytest.raises(ValueError, match=message), tiny_backbone().intervene([edit()]):
        pass


def test_heads_of_an_unknown_family_are_refused_by_name(monkeypatch):
    monkeypatch.delitem(OUTPUT_PROJECTIONS, "llama")
    backbone = tiny_backbone()
    ids, mask = batch_of(backbone)
    with pytest.raises(ValueError, match=r"heads of a 'llama' backbone are not known one by one.*gpt2.*gpt_neox"):
        backbone.hidden_states(ids, mask, layers=[1], site="heads")


def test_a_change_of_shape_is_refused_where_it_happens():
    backbone = tiny_backbone()
    ids, mask = batch_of(backbone)
    with (
        backbone.intervene([Edit(1, lambda hidden: hidden[..., :3])]),
        pytest.raises(ValueError, match=r"layer 1.*keep"),
    ):
        backbone.hidden_states(ids, mask, layers=[2])


def test_hooks_are_removed_after_an_error():
    backbone = tiny_backbone()
    ids, mask = batch_of(backbone)
    before = backbone.hidden_states(ids, mask, layers="all")
    with pytest.raises(RuntimeError), backbone.intervene([add(vector(), layer=1)]), backbone.resume(1, before[1]):
        raise RuntimeError
    assert all_equal(before, backbone.hidden_states(ids, mask, layers="all"), before)
