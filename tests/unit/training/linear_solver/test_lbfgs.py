from __future__ import annotations

import itertools

import pytest
import torch

from probes.training.linear_solver.lbfgs import CurvaturePairs

SHAPE = (2, 3, 2, 5)  # layers, slices, outputs, parameters


def by_two_loops(gradient, pairs, scale):
    """Algorithm 7.4 of Nocedal and Wright for one problem's vectors, the oldest pair first."""
    direction, weights = -gradient.clone(), []
    for step, change in reversed(pairs):
        weights.append(step @ direction / (step @ change))
        direction -= weights[-1] * change
    direction *= scale
    for (step, change), weight in zip(pairs, reversed(weights), strict=True):
        direction += (weight - change @ direction / (step @ change)) * step
    return direction


def remembered(count, memory, still=()):
    """Random pairs of positive curvature; `still` gives those of a layer, slice and number a sign."""
    generator = torch.Generator().manual_seed(0)
    pairs, kept = CurvaturePairs(memory), []
    for number in range(count):
        step = torch.randn(SHAPE, generator=generator, dtype=torch.float64)
        change = step * (1 + torch.rand(SHAPE, generator=generator, dtype=torch.float64))
        for layer, slice_, of_number, sign in still:
            if number == of_number:
                change[layer, slice_] *= sign
        pairs.add(step, change)
        kept.append((step, change))
    gradient = torch.randn(SHAPE, generator=generator, dtype=torch.float64)
    return pairs, kept, gradient, 0.1 + torch.rand(SHAPE, generator=generator, dtype=torch.float64)


def expected_of(kept, gradient, scale, left_out=()):
    expected = torch.empty_like(gradient)
    for cell in itertools.product(*map(range, SHAPE[:2])):
        pairs = [
            (step[cell].flatten(), change[cell].flatten())
            for number, (step, change) in enumerate(kept)
            if (*cell, number) not in left_out
        ]
        expected[cell] = by_two_loops(gradient[cell].flatten(), pairs, scale[cell].flatten()).view(SHAPE[2:])
    return expected


@pytest.mark.parametrize(("count", "memory"), [(0, 4), (1, 4), (3, 4), (4, 4), (7, 4), (12, 4)])
def test_directions_are_those_of_the_two_loops_over_the_last_pairs(count, memory):
    pairs, kept, gradient, scale = remembered(count, memory)
    direction = pairs.direction(gradient, lambda vector: vector * scale)
    torch.testing.assert_close(direction, expected_of(kept[-memory:], gradient, scale))
    if count > memory:  # the forgotten would have changed it
        with pytest.raises(AssertionError):
            torch.testing.assert_close(direction, expected_of(kept, gradient, scale))


@pytest.mark.parametrize("sign", [0, -1])
def test_a_problem_learns_nothing_from_a_pair_without_curvature_and_others_do(sign):
    pairs, kept, gradient, scale = remembered(4, 4, still=[(0, 1, 2, sign), (1, 2, 0, sign)])
    direction = pairs.direction(gradient, lambda vector: vector * scale)
    torch.testing.assert_close(direction, expected_of(kept, gradient, scale, left_out={(0, 1, 2), (1, 2, 0)}))


def test_problems_that_are_kept_go_on_as_before():
    pairs, kept, gradient, scale = remembered(7, 4)
    fewer, *_ = remembered(6, 4)
    layers, slices = torch.tensor([True, False]), torch.tensor([True, False, True])
    fewer.keep((layers,))
    fewer.keep((slice(None), slices))
    fewer.add(*(vector[layers][:, slices] for vector in kept[-1]))
    own = [vector[layers][:, slices] for vector in (gradient, scale, pairs.direction(gradient, lambda v: v * scale))]
    torch.testing.assert_close(fewer.direction(own[0], lambda vector: vector * own[1]), own[2])
