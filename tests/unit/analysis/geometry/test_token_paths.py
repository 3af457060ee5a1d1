"""Entropy and curvature of paths whose shape is known."""

from __future__ import annotations

import math

import pytest
import torch
from gaussian_rows import draw

from probes.analysis.geometry.token_paths import prompt_entropy, token_curvature


def test_the_entropy_is_that_of_the_singular_values():
    tokens = draw(3, 7, 20)
    expected = []
    for layer in tokens:
        shares = torch.linalg.svdvals(layer).square()
        shares = shares / shares.sum()
        expected.append(-(shares * shares.log()).sum() / math.log(7))
    torch.testing.assert_close(prompt_entropy(tokens), torch.stack(expected))


def test_the_entropy_depends_on_neither_scale_nor_rotation_but_on_a_shift():
    tokens = draw(2, 6, 8)
    rotation = torch.linalg.qr(draw(8, 8, seed=1)).Q
    torch.testing.assert_close(prompt_entropy(3 * tokens @ rotation), prompt_entropy(tokens))
    assert (prompt_entropy(tokens + 10) < prompt_entropy(tokens) - 0.1).all()  # towards one common direction


def test_a_straight_path_does_not_turn_and_a_random_walk_turns_by_a_right_angle_on_average():
    line = torch.arange(9.0)[:, None] * torch.ones(1, 5)
    back_and_forth = torch.tensor([0.0, 1.0] * 4)[:, None] * torch.ones(1, 5)
    walk = draw(1, 400, 200).cumsum(1)
    assert token_curvature(line[None]).item() == pytest.approx(0, abs=1e-3)
    assert token_curvature(back_and_forth[None]).item() == pytest.approx(180, abs=1e-3)
    assert token_curvature(walk).item() == pytest.approx(90, abs=1)


def test_paths_that_are_too_short_have_no_value():
    assert prompt_entropy(draw(2, 1, 4)).isnan().all()
    assert token_curvature(draw(2, 2, 4)).isnan().all()
