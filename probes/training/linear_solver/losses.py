"""The three convex losses of linear probes, as functions of logits, for the exact solver.

Logits have shape `(layers, slices, outputs, rows)`: a slice is one probe of a layer (a control, or one label of a
multi-label task). Targets `(slices, outputs, rows)` and row weights `(slices, 1, rows)` are shared by all layers. Every
loss is a weighted mean over rows.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional


class LinearLoss(ABC):
    """A loss, its derivatives, and the link from logits to means.

    Args:
        targets: Shape `(slices, outputs, rows)`, floating point.
        weights: Shape `(slices, 1, rows)` with mean 1 over rows, or `None` for equal weights.
    """

    def __init__(self, targets: Tensor, weights: Tensor | None = None) -> None:
        self.targets = targets
        self.scale = (torch.ones_like(targets[:, :1]) if weights is None else weights) / targets.shape[-1]

    def to(self, like: Tensor) -> Self:
        """Return the same loss in the dtype and on the device of `like`."""
        weights = self.scale.to(like) * self.targets.shape[-1]
        return type(self)(self.targets.to(like), weights)

    def keep(self, slices: Tensor) -> Self:
        """Return the loss of these slices alone, indices or a mask; an index twice is a slice twice."""
        return type(self)(self.targets[slices], self.scale[slices] * self.targets.shape[-1])

    def residual(self, means: Tensor) -> Tensor:
        """Derivative by the logits, shape `(layers, slices, outputs, rows)`."""
        return (means - self.targets) * self.scale

    @abstractmethod
    def means(self, logits: Tensor) -> Tensor:
        """What the logits predict for the targets: probabilities, or numbers."""

    @abstractmethod
    def value(self, logits: Tensor) -> Tensor:
        """Weighted mean loss in nats (or squared units), shape `(layers, slices)`."""

    @abstractmethod
    def spread(self, means: Tensor) -> Tensor:
        """Second derivative by each logit alone, unweighted, shape of the logits."""

    def along(self, means: Tensor, direction: Tensor) -> Tensor:
        """Second derivative of the loss along a direction of logits, shape `(layers, slices)`."""
        return (self.spread(means) * direction.square() * self.scale).sum((-1, -2))

    def curvature(self, means: Tensor) -> Tensor:
        """Mean second derivative of each output, shape `(layers, slices, outputs, 1)`."""
        return (self.spread(means) * self.scale).sum(-1, keepdim=True)

    def bias_hessian(self, means: Tensor) -> Tensor:
        """Hessian by the outputs' biases, shape `(layers, slices, outputs, outputs)`."""
        return torch.diag_embed(self.curvature(means)[..., 0])

    def bias_step(self, means: Tensor, gradient: Tensor) -> Tensor:
        """Newton's step of the biases, to be taken off them; gradient and step `(layers, slices, outputs)`."""
        hessian = self.bias_hessian(means)
        rounding = torch.finfo(means.dtype).eps ** 0.75  # means of 0 and 1 leave no curvature but what is rounded
        hessian = hessian + rounding * torch.eye(hessian.shape[-1]).to(hessian)
        return torch.cholesky_solve(gradient[..., None], torch.linalg.cholesky(hessian))[..., 0]


class SigmoidLoss(LinearLoss):
    """Binary cross-entropy of one logit."""

    def means(self, logits: Tensor) -> Tensor:
        """Return probabilities of 1."""
        return logits.sigmoid()

    def value(self, logits: Tensor) -> Tensor:
        """Weighted mean cross-entropy in nats."""
        return ((functional.softplus(logits) - self.targets * logits) * self.scale).sum((-1, -2))

    def spread(self, means: Tensor) -> Tensor:
        """Return p (1 − p)."""
        return means * (1 - means)


class SoftmaxLoss(LinearLoss):
    """Cross-entropy of a softmax over the outputs; targets are one-hot."""

    def means(self, logits: Tensor) -> Tensor:
        """Return probabilities of the classes."""
        return logits.softmax(-2)

    def value(self, logits: Tensor) -> Tensor:
        """Weighted mean cross-entropy in nats."""
        right = (logits * self.targets).sum(-2)
        return ((logits.logsumexp(-2) - right) * self.scale[:, 0]).sum(-1)

    def spread(self, means: Tensor) -> Tensor:
        """Return p (1 − p)."""
        return means * (1 - means)

    def along(self, means: Tensor, direction: Tensor) -> Tensor:
        """Second derivative along a direction: the variance of the direction under the probabilities."""
        centred = direction - (means * direction).sum(-2, keepdim=True)
        return (means * centred.square() * self.scale).sum((-1, -2))

    def bias_hessian(self, means: Tensor) -> Tensor:
        """Mean of diag(p) − p pᵀ, made regular along the constant direction, which changes nothing."""
        weighted = means * self.scale
        hessian = torch.diag_embed(weighted.sum(-1)) - weighted @ means.mT
        return hessian + 1 / means.shape[-2]


class SquaredLoss(LinearLoss):
    """Squared error `(y − ŷ)²`."""

    def means(self, logits: Tensor) -> Tensor:
        """Return the predictions themselves."""
        return logits

    def residual(self, means: Tensor) -> Tensor:
        """Return 2 (ŷ − y)."""
        return 2 * super().residual(means)

    def value(self, logits: Tensor) -> Tensor:
        """Weighted mean squared error."""
        return ((logits - self.targets).square() * self.scale).sum((-1, -2))

    def spread(self, means: Tensor) -> Tensor:
        """Return 2."""
        return torch.full_like(means, 2.0)
