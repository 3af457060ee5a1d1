"""How far a linear probe is from its optimum at most, computed in float64 on the rows as they are."""

from __future__ import annotations

import torch
from torch import Tensor

from .linear_losses import LinearLoss


def certify(
    loss: LinearLoss, x: Tensor, weights: Tensor, biases: Tensor, penalties: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Bound the gap between each probe's objective and the optimum.

    The biases, which bear no penalty, are first set to their own optimum given the weights. The objective as a function
    of the weights alone is then λ-strongly convex with the returned gradient, so the gap is at most ‖gradient‖² / 2λ
    (the duality gap of these losses is that very number).

    Args:
        loss: Loss of the slices in float64, targets `(slices, outputs, rows)`.
        x: One layer's standardised rows, shape `(rows, features)`.
        weights: Shape `(penalties, slices, outputs, features)`.
        biases: Shape `(penalties, slices, outputs)`.
        penalties: λ, shape `(penalties,)`.

    Returns:
        Polished biases of the shape of `biases`; objectives and gaps `(penalties, slices)`; all float64.
    """
    wide, weights = x.double(), weights.double()
    penalties = penalties.to(wide)[:, None]
    without_bias = (weights.flatten(0, 2) @ wide.T).view(*biases.shape, -1)
    biases = _polish(loss, without_bias, biases.double())
    logits = without_bias + biases[..., None]
    residual = loss.residual(loss.means(logits))
    gradient = (residual.flatten(0, 2) @ wide).view_as(weights) + penalties[..., None, None] * weights
    objective = loss.value(logits) + penalties / 2 * weights.square().sum((-1, -2))
    return biases, objective, gradient.square().sum((-1, -2)) / (2 * penalties)


def _polish(loss: LinearLoss, without_bias: Tensor, biases: Tensor, steps: int = 20) -> Tensor:
    """Newton steps on the biases alone; one that does not lower the loss is taken by an eighth."""
    value = loss.value(without_bias + biases[..., None])
    for _ in range(steps):
        means = loss.means(without_bias + biases[..., None])
        gradient = loss.residual(means).sum(-1)
        if gradient.abs().max() < 1e-9:  # its square is what the objective lacks
            break
        move = loss.bias_step(means, gradient)
        trial = loss.value(without_bias + (biases - move)[..., None])
        lower = (trial <= value)[..., None]
        biases = torch.where(lower, biases - move, biases - move / 8)
        value = loss.value(without_bias + biases[..., None])
    return biases
