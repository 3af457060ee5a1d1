"""A layer that recognises altered copies has more InfoNCE, DiME and LiDAR than one that does not."""

from __future__ import annotations

import math

import pytest
import torch
from gaussian_rows import draw

from probes.analysis.geometry.augmented_views import dime, info_nce_bits, info_nce_leave_one_out, lidar


def views(noise: float, *, texts: int = 40, features: int = 30, copies: int = 2, seed: int = 0) -> torch.Tensor:
    """One layer's views of texts `(1, copies, texts, features)`, the text's vector plus noise."""
    return draw(1, 1, texts, features, seed=seed) + noise * draw(1, copies, texts, features, seed=seed + 1)


def test_info_nce_is_the_mean_of_both_directions_loss():
    first, second = views(0.5)[:, 0], views(0.5)[:, 1]
    logits = torch.cosine_similarity(first[0][:, None], second[0][None], dim=-1) / 0.1
    targets = torch.arange(40)
    losses = [torch.nn.functional.cross_entropy(one, targets) for one in (logits, logits.T)]
    expected = math.log2(40) - sum(loss.item() for loss in losses) / 2 / math.log(2)
    assert info_nce_bits(first, second).mean().item() == pytest.approx(expected)


def test_info_nce_without_each_text_is_that_of_the_others():
    first, second = views(0.5, texts=9)[:, 0], views(0.5, texts=9)[:, 1]
    found = info_nce_leave_one_out(first, second)
    assert found.values.item() == pytest.approx(info_nce_bits(first, second).mean().item())
    for left in range(9):
        kept = [text for text in range(9) if text != left]
        expected = info_nce_bits(first[:, kept], second[:, kept]).mean()
        assert found.without_row[0, left].item() == pytest.approx(expected.item())


def test_info_nce_and_dime_fall_with_the_noise_between_views_and_are_low_for_unrelated_ones():
    clear, faint = views(0.1, copies=4), views(2.0, copies=4)
    unrelated = draw(1, 4, 40, 30, seed=9)
    for measure in (lambda v: info_nce_bits(v[:, 0], v[:, 1]).mean(1), lambda v: dime(v[:, 0], v[:, 1])):
        assert measure(clear) > measure(faint)
    assert info_nce_bits(clear[:, 0], clear[:, 1]).mean() > 0.9 * math.log2(40)
    assert info_nce_bits(unrelated[:, 0], unrelated[:, 1]).mean() < 0.1
    assert abs(dime(unrelated[:, 0], unrelated[:, 1]).item()) < 0.1


def test_lidar_counts_the_directions_in_which_texts_differ():
    directions = torch.zeros(1, 1, 60, 30, dtype=torch.float64)
    directions[..., :3] = draw(1, 1, 60, 3)
    few = directions + 0.01 * draw(1, 4, 60, 30, seed=1)
    assert lidar(few).item() == pytest.approx(3, abs=0.4)
    many = draw(1, 1, 60, 30) + 0.01 * draw(1, 4, 60, 30, seed=1)
    assert lidar(many) > 20
    assert lidar(torch.ones(1, 4, 10, 5)).isnan().all()


def test_lidar_does_not_depend_on_rotation_or_scale_nor_on_how_it_is_computed():
    wide = views(0.5, texts=10, features=60, copies=3)
    rotation = torch.linalg.qr(draw(60, 60, seed=5)).Q
    torch.testing.assert_close(lidar(7 * wide @ rotation), lidar(wide), atol=1e-6, rtol=1e-6)
    # from the definition, in all features
    means = wide[0].mean(0)
    between = (means - means.mean(0)).T @ (means - means.mean(0))
    within = (wide[0] - means).flatten(0, 1)
    scatter = within.T @ within / len(within)
    scatter = scatter + (1e-4 * scatter.diagonal().mean() + 1e-12) * torch.eye(60, dtype=torch.float64)
    shares = torch.linalg.eigvals(torch.linalg.solve(scatter, between)).real.clamp_min(0)
    shares = shares / shares.sum()
    assert lidar(wide).item() == pytest.approx(torch.special.entr(shares).sum().exp().item(), rel=1e-4)
