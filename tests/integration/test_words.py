"""A run on the generated treebank: words and pairs are probed, sentences resampled, tags and entities scored."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from hydra import compose, initialize_config_dir

from probes.run import run

CONFIG_DIR = Path(__file__).parents[2] / "conf"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("words")
    overrides = [
        "experiment=syntax",
        "backbone=tiny",
        "backbone.layers=[0,3]",
        "suite.tasks=[upos,entities,edge]",
        "suite.max_rows={train:30,validation:16,test:20}",
        "probe.penalties=[0.1]",
        "probe.bootstrap_samples=50",
        "probe.permutations=20",
        f"paths.output_dir={folder / 'run'}",
        f"paths.cache_dir={folder / 'cache'}",
    ]
    with initialize_config_dir(str(CONFIG_DIR), version_base=None):
        run(compose("train", overrides=overrides))
    return folder / "run"


@pytest.fixture(scope="module")
def results(folder) -> pd.DataFrame:
    return pd.read_csv(folder / "results.csv", keep_default_na=False, na_values=[""])


def test_scores_of_words_and_pairs_have_intervals_over_sentences_and_the_controls_of_words(results):
    scores = results[(results.metric == "macro_f1") & (results.split == "test") & results.layer.notna()]
    assert set(scores.task) == {"upos", "entities", "edge"}
    assert set(scores.pooling) == {"words.last"}
    assert set(scores.interval_over) <= {"sentences", "sentences and training sets"}
    assert set(scores.control.dropna()) == {"word_types"}
    baselines = results[results.layer.isna() & (results.metric == "accuracy") & (results.split == "test")]
    assert set(baselines.control) == {"majority", "majority_per_word"}


def test_tags_have_a_matrix_of_their_own_and_entities_are_wholes(folder, results):
    matrix = pd.read_csv(folder / "layer_by_task" / "tag_f1_upos.csv")
    assert {"NOUN", "DET", "VERB"} <= set(matrix.columns) | set(matrix.iloc[:, 0])
    assert (folder / "figures" / "tag_f1_upos.png").is_file()
    entities = results[(results.metric == "entity_f1") & results.layer.notna()]
    assert set(entities.task) == {"entities"}
    assert entities.value.between(0, 1).all()
    assert "tag_f1" in (folder / "report.html").read_text()
