"""Extraction computes each text once, stores every reading of it, and gives the same values however it is cached."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import pytest
import torch
from tiny_models import tiny_model

from probes.activations import ExtractionSettings, extract, fill_stores, open_stores, row_ids
from probes.backbones import FrozenBackbone, tiny_backbone
from probes.backbones.tiny import byte_tokenizer

TEXTS = [f"{'word ' * (i % 7)}number {i}" for i in range(40)]


class Counting:
    """Counts the forward passes of a backbone, and interrupts the one numbered `fail_at`."""

    def __init__(self, backbone: FrozenBackbone, *, fail_at: int | None = None) -> None:
        self.passes = 0
        backbone.model.register_forward_pre_hook(self._count)
        self._fail_at = fail_at

    def _count(self, *_):
        self.passes += 1
        if self.passes == self._fail_at:
            raise KeyboardInterrupt


def filled(backbone, texts, root: Path, **settings):
    settings = ExtractionSettings(**settings)
    stores = open_stores(backbone, settings, root)
    tokenized = backbone.tokenize(texts, max_length=settings.max_length)
    report = fill_stores(backbone, tokenized, stores, settings)
    layers = {r: backbone.layers(r.stack, site=r.site) for r in stores}
    return {r: store.read(tokenized.text_ids, layers[r]) for r, store in stores.items()}, report


@pytest.mark.parametrize("pooling", ["last", "mean"])
@pytest.mark.parametrize("family", ["llama", "bert", "t5", "gpt2"])
def test_extraction_equals_one_plain_pass_per_text(family: str, pooling: str):
    backbone = FrozenBackbone(tiny_model(family), byte_tokenizer())
    activations = extract(backbone, TEXTS, pooling=pooling)
    stack = backbone.model.get_encoder() if family == "t5" else backbone.model
    for row in (0, 6, 39):
        ids = torch.tensor(byte_tokenizer()([TEXTS[row]])["input_ids"])
        with torch.no_grad():
            states = stack(ids, attention_mask=torch.ones_like(ids), output_hidden_states=True).hidden_states[:-1]
        pooled = torch.stack([h[0, -1] if pooling == "last" else h[0].mean(0) for h in states])
        torch.testing.assert_close(activations.values[: len(states), row], pooled, rtol=1e-4, atol=1e-5)


def test_one_pass_computes_all_poolings_sites_and_layers(tmp_path):
    backbone = tiny_backbone()
    counting = Counting(backbone)
    values, report = filled(backbone, TEXTS, tmp_path, pooling=["last", "mean", "max"], site=["residual", "mlp"])
    assert len(values) == 6
    assert counting.passes == report.forward_passes > 0
    assert {v.shape[0] for r, v in values.items() if r.site == "mlp"} == {backbone.num_layers}
    assert {v.shape[0] for r, v in values.items() if r.site == "residual"} == {backbone.num_layers + 1}


def test_equal_texts_are_run_once_and_rows_keep_their_order(tmp_path):
    backbone = tiny_backbone()
    values, report = filled(backbone, [*TEXTS, *reversed(TEXTS)], tmp_path)
    (rows,) = values.values()
    assert report.texts_computed == report.texts == len(TEXTS)
    assert torch.equal(rows[:, :40], rows[:, 40:].flip(1))


def test_a_second_run_reads_the_store_and_runs_no_pass(tmp_path):
    first, _ = filled(tiny_backbone(), TEXTS, tmp_path)
    backbone = tiny_backbone()
    counting = Counting(backbone)
    second, report = filled(backbone, TEXTS[::-1], tmp_path)
    assert (counting.passes, report.forward_passes, report.texts_computed) == (0, 0, 0)
    for reading, values in first.items():
        assert torch.equal(second[reading].flip(1), values)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_activations_do_not_depend_on_which_texts_were_in_the_store(tmp_path, dtype: str):
    backbone = tiny_backbone(dtype=dtype)
    together, _ = filled(backbone, TEXTS, tmp_path / "together", pooling=["last", "mean"])
    filled(backbone, TEXTS[::3], tmp_path / "apart", pooling=["last", "mean"])
    apart, report = filled(backbone, TEXTS, tmp_path / "apart", pooling=["last", "mean"])
    assert 0 < report.texts_computed < len(TEXTS)
    for reading, values in together.items():
        torch.testing.assert_close(apart[reading], values, rtol=0, atol=1e-6 if dtype == "float32" else 1e-2)


def test_a_killed_run_resumes_where_it_stopped(tmp_path):
    whole, _ = filled(tiny_backbone(), TEXTS, tmp_path / "whole")
    broken = tiny_backbone()
    Counting(broken, fail_at=5)
    with pytest.raises(KeyboardInterrupt):
        filled(broken, TEXTS, tmp_path / "killed", tokens_per_batch=64, texts_per_shard=4)
    resumed, report = filled(tiny_backbone(), TEXTS, tmp_path / "killed", tokens_per_batch=64)
    assert 0 < report.texts_computed < len(TEXTS)
    for reading, values in whole.items():
        torch.testing.assert_close(resumed[reading], values, rtol=0, atol=1e-6)


def changed_weight(backbone):
    backbone.model.norm.weight.data[0] += 1
    return backbone


@pytest.mark.parametrize(
    "other",
    [
        lambda: tiny_backbone(seed=1),
        lambda: tiny_backbone(dtype="bfloat16"),
        lambda: changed_weight(tiny_backbone()),
    ],
)
def test_a_backbone_with_other_weights_has_another_store(tmp_path, other):
    filled(tiny_backbone(), TEXTS, tmp_path)
    _, report = filled(other(), TEXTS, tmp_path)
    assert report.texts_computed == len(TEXTS)
    _, again = filled(tiny_backbone(), TEXTS, tmp_path)
    assert again.texts_computed == 0  # the control: the same backbone does


def test_another_decoder_input_has_another_store(tmp_path):
    for decoder_input, computed in [("start", 40), ("text", 40), ("start", 0)]:
        backbone = FrozenBackbone(tiny_model("t5"), byte_tokenizer(), stack="decoder", decoder_input=decoder_input)
        assert filled(backbone, TEXTS, tmp_path)[1].texts_computed == computed


def test_a_truncated_text_is_another_text(tmp_path):
    backbone = tiny_backbone()
    filled(backbone, ["abcdef"], tmp_path)
    assert filled(backbone, ["abcdef"], tmp_path, max_length=3)[1].texts_computed == 1
    assert filled(backbone, ["def"], tmp_path)[1].texts_computed == 0


def test_layers_that_the_store_lacks_are_computed(tmp_path):
    few, _ = filled(tiny_backbone(layers=[1]), TEXTS, tmp_path)
    all_layers, report = filled(tiny_backbone(), TEXTS, tmp_path)
    assert report.texts_computed == len(TEXTS)
    fewer, report = filled(tiny_backbone(layers=[1]), TEXTS, tmp_path)
    assert report.texts_computed == 0
    reading = next(iter(few))
    assert torch.equal(fewer[reading][0], few[reading][0])
    torch.testing.assert_close(all_layers[reading][1], few[reading][0])


def test_a_bfloat16_backbone_stores_single_tokens_exactly_in_half_the_bytes(tmp_path):
    backbone = tiny_backbone(dtype="bfloat16")
    values, _ = filled(backbone, TEXTS, tmp_path, pooling=["last", "mean"])
    sizes = [sum(f.stat().st_size for f in d.glob("*.safetensors")) for d in tmp_path.iterdir()]
    assert min(sizes) < 0.6 * max(sizes)
    exact = {r.pooling: torch.equal(read, read.bfloat16().float()) for r, read in values.items()}
    assert exact == {"last": True, "mean": False}  # means are summed and stored in float32


def test_row_ids_differ_by_task_split_label_and_occurrence():
    ids = row_ids("a", "test", ["t", "t", "t", "u"], [0, 1, 0, 0])
    assert len(set(ids)) == 4
    assert set(ids).isdisjoint(row_ids("a", "train", ["t", "t", "t", "u"], [0, 1, 0, 0]))
    assert set(ids).isdisjoint(row_ids("b", "test", ["t", "t", "t", "u"], [0, 1, 0, 0]))
    assert row_ids("a", "test", ["u", "t"], [0, 1])[0] == ids[3]


def test_the_error_for_infinite_activations_names_their_layers_and_texts(tmp_path):
    backbone = tiny_backbone()
    backbone.model.layers[1].mlp.down_proj.weight.data[0, 0] = float("inf")
    with pytest.raises(ValueError, match=r"NaN or infinite activations at layers \[2, 3\] .*`backbone\.dtype`"):
        filled(backbone, TEXTS, tmp_path)
    assert not list(tmp_path.rglob("*.safetensors"))


def test_a_full_disk_is_refused_before_the_pass(tmp_path, monkeypatch):
    backbone = tiny_backbone()
    counting = Counting(backbone)
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(OSError, match=r"GB free\. Set `paths\.cache_dir`"):
        filled(backbone, TEXTS, tmp_path)
    assert counting.passes == 0


def test_the_disk_space_needed_is_logged(tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        filled(tiny_backbone(), TEXTS, tmp_path)
    assert "Activations to compute: 0.00 GB on disk" in caplog.text


@pytest.mark.parametrize("key", ["max_length", "tokens_per_batch", "texts_per_shard"])
def test_settings_below_one_are_refused(key: str):
    with pytest.raises(ValueError, match=rf"`extraction\.{key}` must be at least 1; got 0"):
        ExtractionSettings(**{key: 0})


@pytest.mark.parametrize("value", ["many", 10.5, True, "1024"])
def test_a_token_budget_that_is_not_an_integer_is_refused(value):
    with pytest.raises(TypeError, match=r"`extraction\.tokens_per_batch` must be `auto` or an integer; got"):
        ExtractionSettings(tokens_per_batch=value)
