"""The three convex losses of linear probes as functions of logits, with their derivatives.

Logits z have shape `(layers, problems, outputs, rows)`. Targets y and row shares s are the same at every layer. Each
loss is a mean over rows, Σᵢ sᵢ · loss(zᵢ, yᵢ).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True, eq=False)
class LinearLoss(ABC):
    """A loss, its derivatives, and the mean function μ(z) that turns logits into predictions of the targets.

    Attributes:
        targets: y, shape `(problems, outputs, rows)`, floating point.
        row_shares: s, shape `(problems, 1, rows)`, sum 1 over rows.
    """

    targets: Tensor
    row_shares: Tensor

    def to(self, like: Tensor) -> Self:
        """The same loss in the dtype and on the device of `like`."""
        return replace(self, targets=self.targets.to(like), row_shares=self.row_shares.to(like))

    def of_problems(self, problems: Tensor) -> Self:
        """The loss of some problems, by mask or by index; an index may occur several times."""
        return replace(self, targets=self.targets[problems], row_shares=self.row_shares[problems])

    @abstractmethod
    def means(self, logits: Tensor) -> Tensor:
        """Predictions of the targets: probabilities, or numbers; shape of the logits."""

    @abstractmethod
    def value(self, logits: Tensor) -> Tensor:
        """Mean loss in nats (or squared units), shape `(layers, problems)`."""

    @abstractmethod
    def logit_curvature(self, means: Tensor) -> Tensor:
        """Second derivative of one row's loss by each logit, not multiplied by the row's share; shape of the logits."""

    def logit_gradient(self, means: Tensor) -> Tensor:
        """Derivative of the mean loss by the logits, s (μ − y), shape of the logits."""
        return (means - self.targets) * self.row_shares

    def curvature_along(self, means: Tensor, direction: Tensor) -> Tensor:
        """Second derivative of the mean loss along a direction of logits, shape `(layers, problems)`."""
        return (self.logit_curvature(means) * direction.square() * self.row_shares).sum((-1, -2))

    def mean_curvature(self, means: Tensor) -> Tensor:
        """Mean over rows of the second derivative by each output, shape `(layers, problems, outputs, 1)`."""
        return (self.logit_curvature(means) * self.row_shares).sum(-1, keepdim=True)

    def bias_hessian(self, means: Tensor) -> Tensor:
        """Hessian of the mean loss by the outputs' biases, shape `(layers, problems, outputs, outputs)`."""
        return torch.diag_embed(self.mean_curvature(means)[..., 0])

    def bias_newton_step(self, means: Tensor, gradient: Tensor) -> Tensor:
        """Newton's step H⁻¹g, to be subtracted from the biases; g and the step `(layers, problems, outputs)`."""
        hessian = self.bias_hessian(means)
        # Where all means have rounded to 0 or 1, the Hessian is 0; a multiple of the identity keeps it invertible.
        ridge = torch.finfo(means.dtype).eps ** 0.75
        hessian = hessian + ridge * torch.eye(hessian.shape[-1], dtype=hessian.dtype, device=hessian.device)
        return torch.cholesky_solve(gradient[..., None], torch.linalg.cholesky(hessian))[..., 0]


class SigmoidLoss(LinearLoss):
    """Binary cross-entropy of one logit: log(1 + eᶻ) − y z."""

    def means(self, logits: Tensor) -> Tensor:
        """Probabilities p of 1."""
        return logits.sigmoid()

    def value(self, logits: Tensor) -> Tensor:
        """Mean cross-entropy in nats."""
        return ((functional.softplus(logits) - self.targets * logits) * self.row_shares).sum((-1, -2))

    def logit_curvature(self, means: Tensor) -> Tensor:
        """The Bernoulli variance p (1 − p)."""
        return means * (1 - means)


class SoftmaxLoss(LinearLoss):
    """Cross-entropy of a softmax over the outputs, log Σₖ exp(zₖ) − yᵀz; targets are one-hot."""

    def means(self, logits: Tensor) -> Tensor:
        """Probabilities p of the classes."""
        return logits.softmax(-2)

    def value(self, logits: Tensor) -> Tensor:
        """Mean cross-entropy in nats."""
        logit_of_target = (logits * self.targets).sum(-2)  # (layers, problems, rows)
        return ((logits.logsumexp(-2) - logit_of_target) * self.row_shares[:, 0]).sum(-1)

    def logit_curvature(self, means: Tensor) -> Tensor:
        """Diagonal p (1 − p) of one row's Hessian diag(p) − p pᵀ."""
        return means * (1 - means)

    def curvature_along(self, means: Tensor, direction: Tensor) -> Tensor:
        """Second derivative along a direction d: dᵀ (diag(p) − p pᵀ) d, the variance of d under p."""
        centred = direction - (means * direction).sum(-2, keepdim=True)
        return (means * centred.square() * self.row_shares).sum((-1, -2))

    def bias_hessian(self, means: Tensor) -> Tensor:
        """Mean of diag(p) − p pᵀ, plus 11ᵀ / outputs.

        Adding one number to all biases changes no probability, so the Hessian is singular along 1; the second term
        makes it invertible and leaves other directions, among them every gradient, as they are.
        """
        weighted = means * self.row_shares
        hessian = torch.diag_embed(weighted.sum(-1)) - weighted @ means.mT
        return hessian + 1 / means.shape[-2]


class SquaredLoss(LinearLoss):
    """Squared error (z − y)²."""

    def means(self, logits: Tensor) -> Tensor:
        """The logits themselves."""
        return logits

    def value(self, logits: Tensor) -> Tensor:
        """Mean squared error."""
        return ((logits - self.targets).square() * self.row_shares).sum((-1, -2))

    def logit_gradient(self, means: Tensor) -> Tensor:
        """Return 2 s (z − y)."""
        return 2 * super().logit_gradient(means)

    def logit_curvature(self, means: Tensor) -> Tensor:
        """Return 2."""
        return torch.full_like(means, 2.0)
