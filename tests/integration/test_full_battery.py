"""A run of everything on a tiny backbone: each measure leaves its quantities and tables, and the page shows them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from probes.cli import CONFIG_DIR
from probes.report import read_run
from probes.run import run

OVER_LAYERS = {
    "description_length",
    "code_saved",
    "compression",
    "v_information",
    "calibration_error",
    "over_confidence",
    "rows_to_90_percent",
    "scalar_mix_weight",
    "score_up_to/macro_f1",
    "probe_capacity/sparse_1",
    "probe_capacity/mlp_16",
    "label_free/prompt_entropy",
    "label_free/token_curvature",
    "label_free/info_nce",
    "label_free/dime",
    "label_free/lidar",
    "label_free/sts_spearman",
    "label_free/retrieval_accuracy",
    "label_free/retrieval_mrr",
    "gain_over/tfidf_retrieval_mrr",
}
OF_TASKS = {
    "baseline/tfidf_sts_spearman",
    "score_correlation/sts_spearman",
    "score_correlation/retrieval_mrr",
    "layer_choice/centre_of_gravity",
    "layer_choice/expected_layer",
    "layer_choice/concatenation",
    "score_correlation/info_nce",
}
TABLES = {
    "capacity",
    "confusion_matrix",
    "confusions",
    "learning_curves",
    "per_class",
    "pointwise_v_information",
    "recall_by_layer",
    "reliability",
    "rows_that_change",
    "sparse_features",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("battery")
    overrides = [
        "experiment=full_battery",
        "backbone=tiny",
        "logger=csv",
        "suite.tasks=[subject_number,topic]",
        "suite.max_rows={train: 90, validation: 60, test: 60}",
        "probe.bootstrap_samples=100",
        "probe.permutations=30",
        "analysis.probe_measures.capacity.max_epochs=4",
        "analysis.probe_measures.layer_choice.max_epochs=4",
        "analysis.probe_measures.nuisances.resamples=50",
        "analysis.probe_measures.nuisances.permutations=20",
        "analysis.probe_measures.baselines.resamples=50",
        "analysis.probe_measures.baselines.permutations=20",
        f"paths.cache_dir={path / 'cache'}",
        f"paths.output_dir={path / 'out'}",
    ]
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        run(compose("train", overrides=overrides))
    return path / "out"


@pytest.mark.slow
def test_every_quantity_and_table_of_the_battery_is_in_the_folder_and_on_the_page(folder: Path):
    found = read_run(folder)
    assert set(found.quantities) >= OVER_LAYERS
    assert {row.metric for row in found.rows if row.layer is None} >= OF_TASKS
    assert set(found.tables) >= TABLES
    assert all(set(tables) == {"subject_number", "topic"} for name, tables in found.tables.items() if name in TABLES)
    page = (folder / "report.html").read_text()
    for text in (
        "rows that change",
        "per class",
        "learning curves",
        "description_length",
        "layer_choice/expected_layer",
    ):
        assert text in page
