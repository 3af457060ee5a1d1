"""Composition scores equal those of whole matrices, and their p those of rotations that are drawn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import log_ndtr
from scipy.stats import beta, chi2

from probes.analysis.composition import (
    WrittenComponents,
    component_log_p,
    composition_scores,
    reading_matrices,
    tail_scores,
    whole_log_p,
)
from probes.analysis.significance import holm

FEATURES, RANK = 40, 6


def random_heads(seed: int, heads: int = 3) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    draw = {name: torch.randn(heads, RANK, FEATURES, generator=generator) for name in ("query", "key", "value")}
    spread = torch.tensor([4.0, 2, 1, 1, 0.5, 0.1])[:, None]
    draw = {name: own * spread for name, own in draw.items()}
    return draw | {"output": torch.randn(heads, FEATURES, RANK, generator=generator)}


def scores_of(reader: dict[str, torch.Tensor], writer: dict[str, torch.Tensor], kind: str):
    return composition_scores(reading_matrices(**reader)[kind], WrittenComponents.of(writer["value"], writer["output"]))


@pytest.mark.parametrize("kind", ["query", "key", "value"])
def test_scores_are_those_of_the_whole_matrices(kind: str):
    writer, reader = random_heads(0), random_heads(1)
    found = scores_of(reader, writer, kind)
    for b in range(3):
        query, key, value, output = (reader[name][b] for name in ("query", "key", "value", "output"))
        read = {"query": key.T @ query, "key": query.T @ key, "value": output @ value}[kind]
        for a in range(3):
            wrote = writer["output"][a] @ writer["value"][a]
            expected = (read @ wrote).norm() / (read.norm() * wrote.norm())
            assert found.whole[b, a] == pytest.approx(expected.item(), rel=1e-4)
            left, sizes, right = torch.linalg.svd(wrote)
            for i in range(RANK):
                part = sizes[i] * torch.outer(left[:, i], right[i])
                expected = (read @ part).norm() / (read.norm() * part.norm())
                assert found.components[b, a, i] == pytest.approx(expected.item(), rel=1e-3)


def rotations(count: int, seed: int = 0) -> np.ndarray:
    draw = np.random.default_rng(seed).normal(size=(count, FEATURES, FEATURES))
    return np.linalg.qr(draw)[0]


def test_p_are_those_of_random_rotations_of_what_is_written():
    writer, reader = random_heads(2, heads=1), random_heads(3, heads=1)
    reading = reading_matrices(**reader)["query"]
    written = WrittenComponents.of(writer["value"], writer["output"])
    turned = torch.from_numpy(rotations(4000)).float() @ written.directions[0]  # each draw is a writer
    drawn = composition_scores(reading, WrittenComponents(turned, written.sizes.expand(4000, -1)))
    for scores, log_p in (
        (drawn.whole[0], drawn.whole_log_p[0]),
        (drawn.components[0, :, 0], drawn.components_log_p[0, :, 0]),
    ):
        share = 1 - (np.argsort(np.argsort(scores)) + 0.5) / len(scores)
        p = np.exp(log_p)
        for level in (0.5, 0.1, 0.02):
            assert (p < level).mean() == pytest.approx(level, abs=4 * np.sqrt(level / 4000))
        assert np.abs(p - share)[share < 0.3].max() < 0.04
    assert np.square(drawn.whole[0]).mean() == pytest.approx(1 / FEATURES, rel=0.05)


@pytest.mark.parametrize("p", [0.3, 1e-3, 1e-8, 1e-20])
def test_a_reader_of_equal_sizes_has_the_p_of_a_beta_distribution(p: float):
    share = beta.isf(p, RANK / 2, (FEATURES - RANK) / 2) / RANK
    found = component_log_p(np.array([[share]]), np.full((1, RANK), 1 / RANK), FEATURES)[0, 0]
    assert found == pytest.approx(np.log(p), rel=0.02)


@pytest.mark.parametrize("p", [0.2, 1e-4, 1e-12])
def test_tails_of_sums_are_those_of_chi_square(p: float):
    x = 3 * chi2.isf(p, 5)
    # 3 χ²_5 and, with a hundred degrees of freedom each, two terms that nearly cancel
    score = tail_scores(np.array([3.0, 1e-4, -1e-4]), np.array([5.0, 100, 100]), np.array(x))
    assert log_ndtr(-score) == pytest.approx(np.log(p), rel=0.02)


def test_a_planted_channel_is_beyond_rotations_and_nothing_else_is():
    writer, reader = random_heads(4), random_heads(5)
    left = WrittenComponents.of(writer["value"], writer["output"]).directions[1, :, 2]
    reader["key"][2, 0] = 30 * left
    found = scores_of(reader, writer, "key")
    corrected = holm(np.exp(found.components_log_p).ravel()).reshape(found.components.shape)
    assert corrected[2, 1, 2] < 1e-6
    assert (corrected < 0.05).sum() == 1
    assert np.unravel_index(found.components.argmax(), found.components.shape) == (2, 1, 2)
    assert found.components[2, 1, 2] > 0.9


def test_random_heads_are_beyond_rotations_no_more_often_than_claimed():
    smallest = []
    for seed in range(60):
        found = [scores_of(random_heads(2 * seed), random_heads(2 * seed + 1), kind) for kind in ("query", "value")]
        smallest.append(
            [min(getattr(own, name).min() for own in found) for name in ("whole_log_p", "components_log_p")]
        )
    for smallest_p, cells in zip(np.exp(smallest).T, (18, 18 * RANK), strict=True):
        assert (smallest_p * cells < 0.05).sum() <= 8  # 3 expected; more than 8 happen in 0.3 % of cases
        assert (smallest_p * cells < 0.6).sum() >= 10  # and p are no smaller than they should be


def test_a_reader_of_all_directions_alike_prefers_none():
    found = component_log_p(np.array([[1 / 4]]), np.full((1, 4), 1 / 4), 4)
    assert found[0, 0] == 0.0
    assert np.isfinite(whole_log_p(np.array([[1 / 4]]), np.full((1, 4), 1 / 4), np.full((1, 4), 1 / 4), 4)).all()
