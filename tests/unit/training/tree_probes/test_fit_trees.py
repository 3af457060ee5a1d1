"""Probes of trees: a planted tree is found, noise and shuffled trees give nothing, and probes do not share anything."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tree_samples import READING, random_trees, tree_data

from probes.metrics.tree_scores import chain_parts, random_tree_uuas
from probes.metrics.trees import ROOT, Tree
from probes.trainers import default_trainer
from probes.training.ragged import RaggedRows
from probes.training.tree_probes.fit_trees import TreeFit, TreeProbeSettings, fit_tree_probe
from probes.training.tree_probes.tree_data import ParsedSentences, TreeData
from probes.training.tree_probes.tree_profiles import TreeScorer, counted_gaps, probe_profiles
from probes.values import LayerProfile

SETTINGS = TreeProbeSettings(
    ranks=(2, 12), learning_rate=0.02, phrase_learning_rate=0.02, schedule="constant", patience=4, batch_size=20,
    max_epochs=30, bootstrap_samples=200, permutations=50,
)  # fmt: skip


def fit(kind: str, data: TreeData, settings: TreeProbeSettings = SETTINGS) -> TreeFit:
    return fit_tree_probe(kind, data, settings, default_trainer, seed=0)


def profiles(
    fitted: TreeFit, data: TreeData, settings: TreeProbeSettings = SETTINGS
) -> dict[tuple[str, str], LayerProfile]:
    scorer = TreeScorer(data.layers, READING, settings.bootstrap_samples, settings.permutations, seed=0)
    found = [*probe_profiles(fitted, scorer), *scorer.baselines(data.test.trees)]
    return {(p.quantity.removeprefix("trees/"), p.control or p.task): p for p in found}


@pytest.fixture(scope="module")
def data() -> TreeData:
    return tree_data()


@pytest.fixture(scope="module")
def distance(data: TreeData) -> TreeFit:
    return fit("distance", data)


def test_a_tree_embedded_in_the_activations_is_found_and_noise_gives_nothing(data: TreeData, distance: TreeFit) -> None:
    found = profiles(distance, data)
    uuas = found["uuas", "distance probe"].estimates
    assert uuas.values[1] == 1
    assert uuas.interval is not None
    chance = random_tree_uuas(data.test.trees)
    assert uuas.interval[0, 0] < chance < uuas.interval[1, 0]
    assert found["distance_spearman", "distance probe"].estimates.values[1] > 0.95
    assert uuas.interval_over == "sentences"
    assert uuas.null is not None
    assert uuas.null.mean() == pytest.approx(chance, abs=0.03)


def test_the_rank_that_holds_the_tree_is_chosen_and_reported(data: TreeData, distance: TreeFit) -> None:
    assert distance.ranks[1] == 12
    found = profiles(distance, data)
    assert found["uuas", "distance probe"].estimates.remarks[1] == "rank 12"
    by_rank = [found["uuas_by_rank", f"rank {rank}"].estimates.values[1] for rank in (2, 12)]
    assert by_rank[0] < by_rank[1] == 1


def test_shuffled_trees_give_at_most_the_chain(data: TreeData, distance: TreeFit) -> None:
    found = profiles(distance, data)
    chain = chain_parts(data.test.trees).scores(np.ones((1, len(data.test))))[0, 0]
    assert found["uuas", "chain"].estimates.values.tolist() == [chain]
    assert found["uuas", "shuffled_labels"].estimates.values[1] < chain + 0.05
    above = found["uuas_gain_over_chain", "distance probe"].estimates
    assert above.values[1] == pytest.approx(1 - chain)
    assert above.null is not None
    assert (above.null == 0).all()
    assert above.alternative == "two-sided"


def test_depths_and_the_root_are_found(data: TreeData) -> None:
    found = profiles(fit("depth", data), data)
    assert found["root_accuracy", "depth probe"].estimates.values[1] > 0.95
    assert found["depth_spearman", "depth probe"].estimates.values[1] > 0.9
    assert found["root_accuracy", "shuffled_labels"].estimates.values[1] < 0.4
    assert found["root_accuracy", "depth probe"].estimates.values[0] < 0.4


def heights_in_activations() -> TreeData:
    """Each word's first feature is the height of the gap behind it, at layer 1; layer 0 is noise."""
    rng = np.random.default_rng(0)
    splits = []
    for number in range(3):
        trees = [tree for tree in random_trees(60, seed=number) if tree.spans]
        planted = []
        for tree in trees:
            vectors = rng.standard_normal((2, len(tree), 6)) * np.array([1.0, 0.3])[:, None, None]
            vectors[1, :-1, 0] += tree.gap_heights
            planted.append(vectors)
        tokens = torch.tensor(np.concatenate(planted, 1), dtype=torch.float32)
        splits.append(ParsedSentences(RaggedRows(tokens, torch.tensor([len(tree) for tree in trees])), tuple(trees)))
    return TreeData((0, 1), READING, *splits)


def test_phrases_are_found_from_syntactic_distances() -> None:
    data = heights_in_activations()
    found = profiles(fit("syntactic distance", data), data)
    recall = found["span_recall", "syntactic distance probe"].estimates.values
    assert recall[1] > 0.9
    assert recall[0] < 0.6
    above = found["span_f1_gain_over_branching", "syntactic distance probe"].estimates
    assert above.interval is not None
    assert above.interval[0, 1] > 0 > above.interval[0, 0]


def test_probes_do_not_depend_on_the_other_layers_of_their_bank() -> None:
    data = tree_data((30, 10, 10), planted=(False, True))
    settings = replace(SETTINGS, ranks=(4,), max_epochs=3)
    together = fit("distance", data, settings).predicted["test"]
    layer = torch.tensor([1])
    of_layer = [sentences.of_layers(layer) for sentences in (data.train, data.validation, data.test)]
    alone = fit("distance", TreeData((1,), READING, *of_layer), settings).predicted["test"]
    for both, one in zip(together, alone, strict=True):
        np.testing.assert_allclose(both[1], one[0], rtol=1e-4, atol=1e-5)


def test_layers_that_do_not_vary_have_no_probe() -> None:
    data = tree_data((30, 10, 10), planted=(True, True))
    for split in (data.train, data.validation, data.test):
        split.values.tokens[0] = 1.0
    settings = replace(SETTINGS, ranks=(4,), max_epochs=1)
    fitted = fit("depth", data, settings)
    assert fitted.live == (1,)
    root = profiles(fitted, data, settings)["root_accuracy", "depth probe"].estimates
    assert np.isnan(root.values).tolist() == [True, False]
    assert "constant" in root.note


def test_gaps_across_words_that_do_not_count_take_the_largest_distance() -> None:
    tree = Tree((ROOT, 0, 0, 2), (True, False, True, True))
    assert counted_gaps(np.array([[1.0, 3.0, 2.0, 9.0]]), tree).tolist() == [[3.0, 2.0]]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"kinds": ("colour",)}, "no probe of trees 'colour'.*`study.probes.kinds`"),
        ({"phrase_learning_rate": 0.0}, "`study.probes.phrase_learning_rate` must be a number above 0"),
        ({"ranks": ()}, "`study.probes.ranks` must be distinct"),
        ({"ranks": (4, 4)}, "`study.probes.ranks` must be distinct"),
    ],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TreeProbeSettings(**wrong)  # pyright: ignore[reportArgumentType]


def test_sentences_without_a_vector_for_each_word_are_refused() -> None:
    with pytest.raises(ValueError, match="1 trees of 2 words in all and 1 sentences of 3 vectors"):
        ParsedSentences(RaggedRows(torch.zeros(1, 3, 2), torch.tensor([3])), (Tree((ROOT, 0)),))
