"""A backbone whose passes disagree on a run's own texts is refused before the texts are read, with the reason."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fault_samples import TEXTS, flip_random_bit
from study_samples import toy_suite
from tiny_models import FAMILIES, tiny_model

from probes.activations import ExtractionSettings, certified, fill_stores, open_stores
from probes.activations.certificate import certify
from probes.backbones import FrozenBackbone, tiny_backbone
from probes.backbones.tiny import byte_tokenizer
from probes.studies.suite_activations import facts_of, read_suite


def certify_on(backbone: FrozenBackbone, poolings=("last", "mean"), sites=("residual",)):
    ids = backbone.tokenize(TEXTS).ids
    return certify(backbone, ids, backbone.readings(list(poolings), list(sites)))


@pytest.mark.parametrize("family", FAMILIES)
def test_models_of_every_family_pass_with_small_errors_at_every_layer(family: str):
    backbone = FrozenBackbone(tiny_model(family), byte_tokenizer(), name=family)
    certificate = certify_on(backbone)
    for errors in (certificate.in_a_batch, certificate.against_hidden_states):
        assert len(errors) == 2
        assert all(0 <= error < 1e-4 for by_layer in errors.values() for error in by_layer.values())
    assert all(set(by_layer) == {"0", "1", "2", "3"} for by_layer in certificate.in_a_batch.values())
    assert certificate.texts == 4


def test_half_precision_passes_and_sublayers_are_compared_in_batches_only():
    certificate = certify_on(tiny_backbone(dtype="bfloat16"), sites=("residual", "mlp"))
    assert len(certificate.in_a_batch) == 4
    assert all("residual" in reading for reading in certificate.against_hidden_states)
    assert certificate.tolerance == 0.1


def mix_texts_of_a_batch(model) -> None:
    model.layers[1].register_forward_hook(lambda _m, _a, output: output + 0.1 * output.mean(0, keepdim=True))


def change_what_the_hooks_see(backbone: FrozenBackbone) -> None:
    forward = backbone._pass.read

    def shifted(*args):
        return {r: {k: 1.01 * v for k, v in layers.items()} for r, layers in forward(*args).items()}

    object.__setattr__(backbone._pass, "read", shifted)


def test_a_model_that_mixes_the_texts_of_a_batch_is_refused():
    backbone = tiny_backbone()
    mix_texts_of_a_batch(backbone.model)
    with pytest.raises(ValueError, match=r"differ between a text alone .*layer [23].*0\.001 is allowed"):
        certify_on(backbone)


def test_hooks_that_see_something_else_than_the_model_reports_are_refused():
    backbone = tiny_backbone()
    change_what_the_hooks_see(backbone)
    with pytest.raises(ValueError, match=r"differ from the hidden states that the model reports.*0\.01"):
        certify_on(backbone)


def test_a_refused_backbone_reads_no_text_of_a_suite(tmp_path):
    backbone = tiny_backbone()
    mix_texts_of_a_batch(backbone.model)
    with pytest.raises(ValueError, match="a text alone"):
        read_suite(toy_suite(), backbone, ExtractionSettings(), tmp_path)
    assert not list(tmp_path.rglob("*.safetensors"))


def test_the_errors_are_in_the_provenance_of_the_run_and_of_later_ones(tmp_path):
    suite = toy_suite()
    facts = [facts_of(suite, read_suite(suite, tiny_backbone(), ExtractionSettings(), tmp_path)) for _ in range(2)]
    assert [fact["forward_passes"] > 0 for fact in facts] == [True, False]
    assert facts[0]["certificate"] == facts[1]["certificate"]
    assert set(facts[0]["certificate"]["in_a_batch"]["decoder.residual.last"]) == {"0", "1", "2", "3"}
    json.dumps(facts)


def test_a_damaged_certificate_is_set_aside(tmp_path: Path, caplog):
    backbone = tiny_backbone()
    texts, settings = backbone.tokenize(TEXTS), ExtractionSettings()
    stores = open_stores(backbone, settings, tmp_path)
    assert certified(backbone, texts, stores) is not None
    fill_stores(backbone, texts, stores, settings)
    assert certified(backbone, texts, stores) is not None
    (file,) = tmp_path.rglob("certificate.json")
    flip_random_bit(file)
    assert certified(backbone, texts, stores) is None
    assert "certificate.json' " in caplog.text
