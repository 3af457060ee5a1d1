"""A probe study whose training rows do not fit streams them from the store, says so, and finds the same."""

from __future__ import annotations

import csv
import logging
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from probes.cli import CONFIG_DIR
from probes.run import run

FAST = ["experiment=quick", "suite.tasks=[topic]", "probe.bootstrap_samples=20", "probe.permutations=20"]


def scores(tmp_path: Path, name: str, *overrides: str) -> dict[tuple[str, str, str], float]:
    """Test scores by metric, layer and control."""
    out = tmp_path / name
    paths = (f"paths.cache_dir={tmp_path / 'cache'}", f"paths.output_dir={out}")
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        run(compose("train", overrides=[*FAST, "probe.min_validation_rows=20", *paths, *overrides]))
    with (out / "results.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "test"]
    return {(row["metric"], row["layer"], row["control"]): float(row["value"]) for row in rows if row["value"]}


@pytest.mark.slow
def test_rows_beyond_the_limit_are_streamed_with_the_same_scores(tmp_path, caplog):
    memory = scores(tmp_path, "memory", "probe=ridge")
    assert "streamed" not in caplog.text
    with caplog.at_level(logging.WARNING):
        streamed = scores(tmp_path, "streamed", "probe=ridge", "probe.max_train_bytes=10000")
    assert "Task 'topic': its 120 training rows take 0.00 GB" in caplog.text
    assert "They are streamed from the store" in caplog.text
    assert any(metric == "macro_f1" for metric, *_ in memory)
    shared = memory.keys() & streamed.keys()
    assert {"macro_f1", "selectivity", "label_cka"} <= {metric for metric, *_ in shared}
    for key in shared:
        assert streamed[key] == pytest.approx(memory[key], abs=1e-5, nan_ok=True), key


@pytest.mark.slow
def test_logistic_probes_of_streamed_rows_are_trained_by_minibatches(tmp_path, caplog):
    options = ("probe=linear", "probe.max_train_bytes=0", "probe.max_epochs=2", "probe.penalties=[0.1]")
    with caplog.at_level(logging.WARNING):
        found = scores(tmp_path, "logistic", *options)
    assert "They are streamed from the store" in caplog.text
    assert any(metric == "macro_f1" for metric, *_ in found)
