from __future__ import annotations

import pytest
import torch

from probes.training.linear_solver.eigenbasis import Eigenbasis


def random_rows(rows, features, dtype=torch.float64):
    return torch.randn(2, rows, features, generator=torch.Generator().manual_seed(0), dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("rows", "features"), [(60, 40), (20, 40)])
def test_the_axes_are_orthonormal_eigenvectors_of_the_second_moments(rows, features, dtype):
    x = random_rows(rows, features, dtype)
    basis, rank = Eigenbasis.of(x), min(rows, features)
    assert basis.axes.shape == (2, features, rank)
    torch.testing.assert_close(basis.axes.mT @ basis.axes, torch.eye(rank, dtype=dtype).expand(2, -1, -1))
    moments = basis.axes @ basis.eigenvalues.diag_embed() @ basis.axes.mT
    torch.testing.assert_close(moments, x.mT @ x / rows, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_fewer_rows_than_features_become_coordinates_along_the_axes(dtype):
    x = random_rows(20, 40, dtype)
    basis = Eigenbasis.of(x)
    assert basis.rows.shape == (2, 20, 20)
    torch.testing.assert_close(basis.rows @ basis.axes.mT, x)


@pytest.mark.parametrize("rows", [60, 20])
def test_weights_in_the_span_of_the_rows_come_back_and_give_the_same_logits(rows):
    x = random_rows(rows, 40)
    basis, weights, biases = Eigenbasis.of(x), x[:, :3] - x[:, 3:6], torch.ones(2, 3, dtype=x.dtype)
    parameters = basis.to_parameters(weights, biases)
    torch.testing.assert_close(basis.rows @ parameters[..., :-1].mT, x @ weights.mT)
    torch.testing.assert_close(basis.to_weights(parameters), (weights, biases))


@pytest.mark.parametrize("rows", [60, 20])
def test_weighted_moments_are_the_diagonal_of_the_weighted_second_moments_along_the_axes(rows):
    x = random_rows(rows, 40)
    weights = torch.rand(2, 3, 4, rows, generator=torch.Generator().manual_seed(1), dtype=x.dtype)
    basis = Eigenbasis.of(x)
    moments = basis.weighted_moments(weights)
    for layer, problem, output in ((0, 0, 0), (1, 2, 3)):
        shares = weights[layer, problem, output] / weights[layer, problem, output].sum()
        weighted = x[layer].T @ (shares[:, None] * x[layer])
        expected = (basis.axes[layer].T @ weighted @ basis.axes[layer]).diagonal()
        torch.testing.assert_close(moments[layer, problem, output], expected)
    equal = basis.weighted_moments(torch.ones_like(weights))
    torch.testing.assert_close(equal, basis.eigenvalues[:, None, None].expand_as(equal))


@pytest.mark.parametrize("rows", [60, 20])
def test_the_preconditioner_inverts_curvature_times_second_moments_plus_penalty(rows):
    x = random_rows(rows, 40)
    basis, generator = Eigenbasis.of(x), torch.Generator().manual_seed(1)
    weights, biases = x[:, None, :1] - x[:, None, 1:2], torch.ones(2, 1, 1, dtype=x.dtype)  # in the span of the rows
    curvature = 0.1 + torch.rand(2, 1, 1, 1, generator=generator, dtype=x.dtype)
    hessian = curvature[:, 0] * (x.mT @ x / rows) + 0.5 * torch.eye(40, dtype=x.dtype)  # (layers, features, features)
    gradient = basis.to_parameters(weights @ hessian[:, None], biases * curvature[..., 0])
    moments = basis.eigenvalues[:, None, None]
    found = basis.precondition(gradient, curvature, moments, torch.full((1, 1, 1), 0.5, dtype=x.dtype))
    torch.testing.assert_close(basis.to_weights(found), (weights, biases))
