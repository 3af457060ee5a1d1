"""Similarity and retrieval on pairs of texts, against loops over pairs, with planted layers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from planted_tasks import READING
from probed_samples import probed, profiles_of
from scipy.stats import spearmanr

from probes.analysis.significance import with_p_values
from probes.probe_measures import LabelFreePanel, TextPairs
from probes.probe_measures.label_free.text_pairs import PairSettings, pair_profiles, retrieval

PAIRS = 60


def planted(*, matches: bool = False, signal: float = 1.0, seed: int = 0, texts=None) -> TextPairs:
    """Three layers: one of noise, one whose cosines follow the gold score, one whose rows are all equal."""
    generator = torch.Generator().manual_seed(seed)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    gold = torch.ones(PAIRS) if matches else torch.rand(PAIRS, generator=generator)
    shared = noise(PAIRS, 16)
    sides = []
    for _ in range(2):
        follows = signal * gold[:, None] * shared + (1 - gold[:, None] / 2) * noise(PAIRS, 16)
        sides.append(torch.stack([noise(PAIRS, 16), follows, torch.ones(PAIRS, 16)]))
    names = tuple(f"text {n}" for n in range(PAIRS)) if texts is None else texts
    return TextPairs(
        task="pairs",
        reading=READING,
        layers=(0, 1, 2),
        first=sides[0],
        second=sides[1],
        first_texts=names,
        second_texts=names,
        gold=gold,
        probed=(),
        seed=seed,
    )


def p_cells(profiles, quantity):
    (profile,) = with_p_values([profiles[quantity]])
    return profile.estimates.p_cell


def test_similarity_is_spearmans_correlation_of_cosines_and_gold_scores():
    pairs = planted()
    found = profiles_of(pair_profiles(pairs, PairSettings(resamples=100)))
    profile = found["label_free/sts_spearman"]
    for layer in (0, 1):
        cosines = torch.cosine_similarity(pairs.first[layer], pairs.second[layer])
        expected = spearmanr(cosines, pairs.gold).statistic
        assert profile.estimates.values[layer] == pytest.approx(expected, abs=1e-6)
    assert np.isnan(profile.estimates.values[2])
    assert profile.estimates.interval_over == "pairs"
    assert p_cells(found, "label_free/sts_spearman")[1] < 0.01
    assert "label_free/retrieval_mrr" not in found  # the highest gold score has one pair


def test_noise_neither_follows_gold_scores_nor_finds_matches():
    above = []
    for seed in range(20):
        found = profiles_of(pair_profiles(planted(seed=seed), PairSettings(resamples=20, baseline=False)))
        above.append(p_cells(found, "label_free/sts_spearman")[0] < 0.05)
        found = profiles_of(pair_profiles(planted(seed=seed, matches=True), PairSettings(resamples=20, baseline=False)))
        above.append(p_cells(found, "label_free/retrieval_mrr")[0] < 0.05)
    assert sum(above) <= 6  # 2 of 40 expected


def test_matches_are_found_at_the_layer_that_holds_what_texts_share():
    found = profiles_of(pair_profiles(planted(matches=True, signal=2.0), PairSettings(resamples=100)))
    accuracy, ranks = (found[f"label_free/retrieval_{name}"].estimates for name in ("accuracy", "mrr"))
    assert accuracy.values[1] > 0.9 > 0.2 > accuracy.values[0]
    assert accuracy.interval[0, 1] <= accuracy.values[1] <= accuracy.interval[1, 1]
    assert ranks.null.mean(0)[1] == pytest.approx((1 / np.arange(1, PAIRS + 1)).mean(), abs=0.02)
    assert "label_free/sts_spearman" not in found  # all gold scores are equal


def test_ranks_are_those_of_a_loop():
    generator = torch.Generator().manual_seed(1)
    queries, candidates = torch.randn(12, 4, generator=generator), torch.randn(30, 4, generator=generator)
    matches, orders = torch.arange(5, 17), torch.stack([torch.randperm(12, generator=generator) for _ in range(3)])
    texts = [f"text {n}" for n in range(30)]
    found = retrieval(queries, candidates, matches, texts, orders)

    def ranks(of: torch.Tensor, without: int = -1) -> np.ndarray:
        cosines = torch.cosine_similarity(queries.double()[:, None], candidates.double()[None], dim=-1)
        if without >= 0:
            cosines[:, matches[without]] = -2
        own = [1 + int((cosines[query] > cosines[query, match]).sum()) for query, match in enumerate(of)]
        return np.array([rank for query, rank in enumerate(own) if query != without])

    for name, score in (("accuracy", lambda ranks: ranks == 1), ("mrr", lambda ranks: 1 / ranks)):
        assert found[name].value == pytest.approx(score(ranks(matches)).mean())
        np.testing.assert_allclose(found[name].without, [score(ranks(matches, left)).mean() for left in range(12)])
        np.testing.assert_allclose(found[name].null, [score(ranks(matches[order])).mean() for order in orders])


def test_equal_cosines_are_every_order_equally_often_and_equal_texts_one_candidate():
    same, matches, none = torch.ones(4, 3), torch.arange(4), torch.empty(0, 4, dtype=torch.long)
    found = retrieval(same, same, matches, ["a", "b", "c", "d"], none)
    assert found["accuracy"].value == 0.25
    assert found["mrr"].value == pytest.approx((1 + 1 / 2 + 1 / 3 + 1 / 4) / 4)
    assert found["accuracy"].without.tolist() == pytest.approx([1 / 3] * 4)
    found = retrieval(same, same, matches, ["a", "a", "a", "a"], none)
    assert found["accuracy"].value == found["mrr"].value == 1.0


def test_layers_are_compared_with_bags_of_words_on_the_same_pairs():
    apart = tuple(f"word{n}" for n in range(PAIRS))
    found = profiles_of(pair_profiles(planted(matches=True, texts=apart), PairSettings(resamples=100)))
    words = found["baseline/tfidf_retrieval_accuracy"]
    assert (words.layers, words.estimates.values.tolist()) == ((None,), [1.0])
    gain = found["gain_over/tfidf_retrieval_accuracy"].estimates
    own = found["label_free/retrieval_accuracy"].estimates
    np.testing.assert_allclose(gain.values[:2], own.values[:2] - 1)
    assert np.isfinite(gain.errors[:, :2]).all()
    assert len(gain.errors) == PAIRS
    assert p_cells(found, "gain_over/tfidf_retrieval_accuracy")[0] < 0.01


def test_pairs_are_correlated_with_the_mean_score_of_the_probed_tasks():
    scores = [probed(seed=seed).fit.profile("macro_f1") for seed in (0, 1)]
    pairs = planted(seed=3)
    wider = {side: getattr(pairs, side)[[0, 1, 0, 1]] + torch.randn(4, PAIRS, 16) / 4 for side in ("first", "second")}
    found = profiles_of(
        LabelFreePanel().of_pairs(TextPairs(**vars(pairs) | wider | {"layers": (0, 1, 2, 3), "probed": scores}))
    )
    mean = np.mean([score.estimates.values for score in scores], axis=0)
    expected = spearmanr(found["label_free/sts_spearman"].estimates.values, mean).statistic
    assert found["score_correlation/sts_spearman"].estimates.values.item() == pytest.approx(expected)
