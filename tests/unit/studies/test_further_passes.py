"""Variants of prompts are read in the pass of the suite, and loaded one at a time."""

from __future__ import annotations

import torch
from study_samples import toy_suite

from probes.activations import ExtractionSettings
from probes.backbones import tiny_backbone
from probes.probe_measures import LabelFreePanel
from probes.studies import further_passes
from probes.studies.further_passes import read_with_further_passes
from probes.studies.suite_activations import task_data


def test_a_variant_is_loaded_when_it_is_looked_up(tmp_path, monkeypatch):
    suite = toy_suite()
    measures = [LabelFreePanel(texts=4, copies=2, tokens=False)]
    read = read_with_further_passes(suite, tiny_backbone(), ExtractionSettings(), tmp_path, measures=measures, seed=0)
    (reading,) = read.activations.layers
    data = task_data(suite.tasks[0], read.activations, reading)
    loaded = []
    load = further_passes.task_data
    monkeypatch.setattr(further_passes, "task_data", lambda task, *rest: loaded.append(task.name) or load(task, *rest))
    variants = read.variants_of(data, reading)
    assert list(variants) == ["altered copy 0", "altered copy 1"]
    assert "altered copy 1" in variants
    assert "altered copy 2" not in variants
    assert len(variants) == 2
    assert loaded == []
    copy = variants["altered copy 1"]
    assert loaded == ["a (altered copy 1)"]
    assert copy.test.activations.row_ids == data.test.activations.row_ids
    unaltered = copy.test.activations.values[:, 4:], data.test.activations.values[:, 4:]
    torch.testing.assert_close(*unaltered)
    assert (copy.test.activations.values[:, :4] != data.test.activations.values[:, :4]).any(2).any(0).all()


def test_paths_from_token_to_token_are_given_to_readings_of_the_residual_stream_alone(tmp_path):
    settings, suite = ExtractionSettings(site=("residual", "attention")), toy_suite()
    measures = [LabelFreePanel(texts=4, copies=0)]
    read = read_with_further_passes(suite, tiny_backbone(), settings, tmp_path, measures=measures, seed=0)
    residual, attention = read.activations.layers
    found = read.token_paths_of(suite.tasks[0], residual)
    assert {name: len(values) for name, values in found.items()} == {
        "prompt_entropy": len(read.activations.layers[residual]),
        "token_curvature": len(read.activations.layers[residual]),
    }
    assert read.token_paths_of(suite.tasks[0], attention) == {}
