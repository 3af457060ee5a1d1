"""A warm cache that this user cannot write, on a read-only disk or of somebody else, is as good as one's own."""

from __future__ import annotations

import torch
from fault_samples import filled, without_write_permission
from study_samples import toy_suite

from probes.activations import ExtractionSettings
from probes.backbones import tiny_backbone
from probes.studies.suite_activations import facts_of, read_suite


def test_a_whole_suite_is_read_from_a_cache_of_another_user_without_a_word(tmp_path, caplog):
    suite, settings = toy_suite(), ExtractionSettings(pooling=["last", "mean"])
    first = read_suite(suite, tiny_backbone(), settings, tmp_path / "cache")
    with without_write_permission(tmp_path / "cache"):
        again = read_suite(suite, tiny_backbone(), settings, tmp_path / "cache")
        values = {(task.name, r): again.rows(task, "test", r).values for task in suite.tasks for r in again.layers}
    assert facts_of(suite, again)["forward_passes"] == 0
    assert facts_of(suite, again)["certificate"] == facts_of(suite, first)["certificate"]
    for task in suite.tasks:
        for reading in first.layers:
            assert torch.equal(values[task.name, reading], first.rows(task, "test", reading).values)
    assert caplog.messages == []


def test_poolings_in_another_order_compute_no_text_again(tmp_path):
    values, report = filled(tiny_backbone(), tmp_path, pooling=["last", "mean"])
    swapped, again = filled(tiny_backbone(), tmp_path, pooling=["mean", "last"])
    assert (report.texts_computed, again.texts_computed) == (24, 0)
    assert [str(reading) for reading in values] == [str(reading) for reading in reversed(swapped)]
    assert all(torch.equal(values[reading], swapped[reading]) for reading in values)
