"""Derivatives of the losses against automatic differentiation."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from probes.training.linear_solver.losses import SigmoidLoss, SoftmaxLoss, SquaredLoss

LAYERS, PROBLEMS, ROWS = 2, 3, 11


@pytest.fixture(params=["sigmoid", "softmax", "squared"])
def loss_and_logits(request):
    generator = torch.Generator().manual_seed(0)
    outputs = 4 if request.param == "softmax" else 1
    shares = torch.rand(PROBLEMS, 1, ROWS, generator=generator, dtype=torch.float64)
    shares = shares / shares.sum(-1, keepdim=True)
    classes = torch.randint(0, max(outputs, 2), (PROBLEMS, ROWS), generator=generator)
    logits = torch.randn(LAYERS, PROBLEMS, outputs, ROWS, generator=generator, dtype=torch.float64)
    if request.param == "softmax":
        return SoftmaxLoss(functional.one_hot(classes, outputs).mT.double(), shares), logits
    return (SigmoidLoss if request.param == "sigmoid" else SquaredLoss)(classes[:, None].double(), shares), logits


def hessian_by_logits(loss, logits):
    """Of one layer's problem 0, shape `(outputs · rows, outputs · rows)`."""
    one_problem, shape = loss.of_problems(torch.tensor([0])), logits[:1, :1].shape
    return torch.autograd.functional.hessian(
        lambda flat: one_problem.value(flat.view(shape)).sum(), logits[0, 0].flatten()
    )


def test_the_value_is_torchs_loss_weighted_by_the_row_shares(loss_and_logits):
    loss, logits = loss_and_logits
    targets = loss.targets.expand_as(logits)
    if isinstance(loss, SoftmaxLoss):
        by_row = functional.cross_entropy(logits.transpose(1, 2), targets.transpose(1, 2), reduction="none")
    elif isinstance(loss, SigmoidLoss):
        by_row = functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")[:, :, 0]
    else:
        by_row = functional.mse_loss(logits, targets, reduction="none")[:, :, 0]
    torch.testing.assert_close(loss.value(logits), (by_row * loss.row_shares[:, 0]).sum(-1))


def test_the_gradient_by_the_logits_is_that_of_automatic_differentiation(loss_and_logits):
    loss, logits = loss_and_logits
    logits.requires_grad_()
    (expected,) = torch.autograd.grad(loss.value(logits).sum(), logits)
    torch.testing.assert_close(loss.logit_gradient(loss.means(logits)), expected)


def test_curvatures_are_those_of_automatic_differentiation(loss_and_logits):
    loss, logits = loss_and_logits
    means, outputs = loss.means(logits), logits.shape[2]
    hessian = hessian_by_logits(loss, logits)
    direction = torch.randn(logits.shape, generator=torch.Generator().manual_seed(1), dtype=logits.dtype)
    flat = direction[0, 0].flatten()
    torch.testing.assert_close(loss.curvature_along(means, direction)[0, 0], flat @ hessian @ flat)
    by_logit = (loss.logit_curvature(means) * loss.row_shares)[0, 0]
    torch.testing.assert_close(by_logit.flatten(), hessian.diagonal())
    # A bias adds to the logits of all rows, so its Hessian sums over rows.
    by_bias = hessian.view(outputs, ROWS, outputs, ROWS).sum((1, 3))
    torch.testing.assert_close(loss.mean_curvature(means)[0, 0, :, 0], by_bias.diagonal())
    constant = 1 / outputs if isinstance(loss, SoftmaxLoss) else 0.0
    torch.testing.assert_close(loss.bias_hessian(means)[0, 0], by_bias + constant)


def test_newtons_steps_of_the_biases_end_at_a_gradient_of_zero(loss_and_logits):
    loss, logits = loss_and_logits
    biases = torch.zeros(logits.shape[:3], dtype=logits.dtype)
    for _ in range(8):
        means = loss.means(logits + biases[..., None])
        biases = biases - loss.bias_newton_step(means, loss.logit_gradient(means).sum(-1))
    gradient = loss.logit_gradient(loss.means(logits + biases[..., None])).sum(-1)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), atol=1e-10, rtol=0)


def test_newtons_step_is_finite_where_all_probabilities_have_rounded_to_0_or_1():
    loss = SigmoidLoss(torch.ones(1, 1, ROWS), torch.full((1, 1, ROWS), 1 / ROWS))
    means = loss.means(torch.full((1, 1, 1, ROWS), 200.0))
    assert loss.bias_newton_step(means, loss.logit_gradient(means).sum(-1)).isfinite().all()
