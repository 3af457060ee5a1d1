"""A tuned model as extraction reads it: everything it offers is forwarded on purpose."""

from __future__ import annotations

import pytest
import torch
from tuning_samples import toy_splits

from probes.backbones import ReadableBackbone, tiny_backbone
from probes.trainers import default_trainer
from probes.tuning import TunedBackbone, TuningSettings, tune

pytestmark = pytest.mark.filterwarnings("ignore:Unsupported layer type:UserWarning")
SETTINGS = TuningSettings(learning_rate=1e-2, max_steps=4, batch_size=8, rank=4, generate_rows=0)


@pytest.fixture(scope="module")
def backbone(tmp_path_factory) -> TunedBackbone:
    folder = tmp_path_factory.mktemp("tuned")
    base = tiny_backbone()
    tuned = tune("toy", base, toy_splits(), SETTINGS, trainer=default_trainer, seed=0, cache_dir=folder)
    return TunedBackbone(base, tuned, folder)


def members(protocol: type) -> set[str]:
    names = {*vars(protocol), *protocol.__annotations__}
    return {name for name in names if not name.startswith("_")} | {"__call__"}


def test_both_kinds_of_backbone_have_every_member_that_extraction_needs(backbone):
    for name in members(ReadableBackbone):
        assert hasattr(backbone, name)
        assert hasattr(tiny_backbone(), name)


def test_an_attribute_that_is_not_forwarded_raises_instead_of_answering_for_the_base(backbone):
    assert backbone.base.num_layers == 3  # the base has it
    for name in ("num_layers", "has_final_norm", "stacks", "load_with_head"):
        with pytest.raises(AttributeError):
            getattr(backbone, name)


def test_the_fingerprint_is_kept_and_then_known_without_loading_the_weights(backbone, tmp_path):
    first = backbone.fingerprint()
    assert first != backbone.base.fingerprint()
    again = TunedBackbone(backbone.base, backbone.tuned, backbone._fingerprint_file.parents[2])
    assert again.fingerprint() == first
    assert "loaded" not in vars(again)


def test_tokens_and_layers_are_the_bases_and_activations_the_tuned_models(backbone):
    texts = ["one text", "another"]
    assert backbone.tokenize(texts).text_ids == backbone.base.tokenize(texts).text_ids
    (reading,) = backbone.readings("mean")
    assert backbone.layers(reading.stack) == backbone.base.layers(reading.stack)
    ids = torch.tensor([[65, 66, 67]])
    tuned, base = (b(ids, torch.ones_like(ids), readings=[reading])[reading] for b in (backbone, backbone.base))
    assert torch.equal(tuned[0], base[0])
    assert not torch.equal(tuned[-1], base[-1])
