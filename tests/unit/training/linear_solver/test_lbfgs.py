"""L-BFGS directions against the two-loop recursion written out for one problem."""

from __future__ import annotations

import itertools

import pytest
import torch

from probes.training.linear_solver.lbfgs import CurvaturePairs

SHAPE = (2, 3, 2, 5)  # layers, problems, outputs, parameters


def two_loop_direction(gradient, pairs, scale):
    """Algorithm 7.4 of Nocedal and Wright for one problem's vectors; pairs `(step, change)`, the oldest first."""
    direction, alphas = -gradient.clone(), []
    for step, change in reversed(pairs):
        alphas.append(step @ direction / (step @ change))
        direction -= alphas[-1] * change
    direction *= scale
    for (step, change), alpha in zip(pairs, reversed(alphas), strict=True):
        direction += (alpha - change @ direction / (step @ change)) * step
    return direction


def expected_direction(history, gradient, scale, ignored=()):
    """Of all problems; `ignored` lists pairs that a problem must not use, as (layer, problem, position)."""
    expected = torch.empty_like(gradient)
    for index in itertools.product(*map(range, SHAPE[:2])):
        pairs = [
            (step[index].flatten(), change[index].flatten())
            for position, (step, change) in enumerate(history)
            if (*index, position) not in ignored
        ]
        expected[index] = two_loop_direction(gradient[index].flatten(), pairs, scale[index].flatten()).view(SHAPE[2:])
    return expected


def random_history(count, signs=None):
    """Steps and changes of positive curvature; `signs` multiplies the changes of a (layer, problem, position)."""
    generator = torch.Generator().manual_seed(0)
    history = []
    for position in range(count):
        step = torch.randn(SHAPE, generator=generator, dtype=torch.float64)
        change = step * (1 + torch.rand(SHAPE, generator=generator, dtype=torch.float64))
        for (layer, problem, at), sign in (signs or {}).items():
            if position == at:
                change[layer, problem] *= sign
        history.append((step, change))
    gradient = torch.randn(SHAPE, generator=generator, dtype=torch.float64)
    return history, gradient, 0.1 + torch.rand(SHAPE, generator=generator, dtype=torch.float64)


def pairs_of(history, memory=4):
    pairs = CurvaturePairs(memory)
    for step, change in history:
        pairs = pairs.add(step, change)
    return pairs


@pytest.mark.parametrize(("count", "memory"), [(0, 4), (1, 4), (3, 4), (4, 4), (7, 4), (12, 4)])
def test_directions_are_those_of_the_two_loop_recursion_over_the_last_pairs(count, memory):
    history, gradient, scale = random_history(count)
    direction = pairs_of(history, memory).direction(gradient, lambda vector: vector * scale)
    torch.testing.assert_close(direction, expected_direction(history[-memory:], gradient, scale))
    if count > memory:  # the dropped pairs would have changed it
        with pytest.raises(AssertionError):
            torch.testing.assert_close(direction, expected_direction(history, gradient, scale))


@pytest.mark.parametrize("sign", [0, -1])
def test_a_pair_without_positive_curvature_is_ignored_in_its_problem_only(sign):
    ignored = {(0, 1, 2): sign, (1, 2, 0): sign}
    history, gradient, scale = random_history(4, ignored)
    direction = pairs_of(history).direction(gradient, lambda vector: vector * scale)
    torch.testing.assert_close(direction, expected_direction(history, gradient, scale, ignored))


def test_dropping_problems_leaves_the_directions_of_those_kept_as_they_were():
    history, gradient, scale = random_history(7)
    layers, problems = torch.tensor([True, False]), torch.tensor([True, False, True])

    def kept(vector):
        return vector[layers][:, problems]

    pairs = pairs_of(history[:-1])[layers][:, problems].add(*map(kept, history[-1]))
    direction = pairs.direction(kept(gradient), lambda vector: vector * kept(scale))
    torch.testing.assert_close(direction, kept(pairs_of(history).direction(gradient, lambda vector: vector * scale)))
