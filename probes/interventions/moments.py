"""Moments of activations and their labels, collected batch by batch: all that erasers and directions are made from."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


class LabelMoments:
    """Collects first and second moments of activations and of their classes.

    Args:
        features: Number of features.
        classes: Number of classes.

    >>> moments = LabelMoments(2, 2)
    >>> moments.update(torch.tensor([[0.0, 1.0], [2.0, 1.0]]), torch.tensor([0, 1]))
    >>> moments.mean.tolist(), moments.class_means.tolist()
    ([1.0, 1.0], [[0.0, 1.0], [2.0, 1.0]])
    """

    def __init__(self, features: int, classes: int) -> None:
        self.count = 0
        self._origin: Tensor | None = None
        self._squares = torch.zeros(features, features, dtype=torch.float64)
        self._sums = torch.zeros(classes, features, dtype=torch.float64)
        self._counts = torch.zeros(classes, dtype=torch.float64)

    def update(self, x: Tensor, labels: Tensor) -> None:
        """Take rows in: `x` of shape `(rows, features)`, and their class indices `(rows,)`."""
        x, labels = x.detach().double().cpu(), labels.cpu()
        if len(x) == 0:
            return
        if self._origin is None:
            self._origin = x.mean(0)  # sums of deviations from a point near the mean do not cancel
        x = x - self._origin
        self.count += len(x)
        self._squares += x.T @ x
        self._sums.index_add_(0, labels, x)
        self._counts += torch.bincount(labels, minlength=len(self._counts))

    @property
    def mean(self) -> Tensor:
        """Mean of all rows, float64, shape `(features,)`."""
        return self._at(self._sums.sum(0) / self.count)

    @property
    def class_means(self) -> Tensor:
        """Mean of each class, float64, shape `(classes, features)`; NaN for a class without rows."""
        return self._at(self._sums / self._counts[:, None])

    @property
    def class_shares(self) -> Tensor:
        """Share of rows of each class, float64, shape `(classes,)`."""
        return self._counts / self.count

    @property
    def covariance(self) -> Tensor:
        """Covariance of the rows (divided by their number), float64, shape `(features, features)`."""
        mean = self._sums.sum(0) / self.count
        return self._squares / self.count - torch.outer(mean, mean)

    @property
    def covariance_within(self) -> Tensor:
        """Covariance within classes, float64, shape `(features, features)`."""
        present = self._counts > 0
        means = (self._sums[present] / self._counts[present, None]) * self._counts[present, None].sqrt()
        return (self._squares - means.T @ means) / self.count

    @property
    def cross_covariance(self) -> Tensor:
        """Covariance of the rows with the indicator of each class, float64, shape `(features, classes)`."""
        mean = self._sums.sum(0) / self.count
        return (self._sums / self.count - self.class_shares[:, None] * mean).T

    def _at(self, deviation: Tensor) -> Tensor:
        if self._origin is None:
            raise ValueError("No rows were taken in yet, so they have no mean.")
        return self._origin + deviation


def shrunk(covariance: Tensor, rows: int) -> Tensor:
    """A covariance whose correlations are shrunk towards 0 by the oracle approximating estimate (OAS).

    Variances are kept. A few features of language models have variances many times those of all others, so that a
    multiple of the identity would not do as the target. Features without variance stay so.

    Args:
        covariance: Divided by the number of rows, shape `(features, features)`.
        rows: Their number.

    Source:
        Chen, Wiesel, Eldar and Hero 2010, "Shrinkage algorithms for MMSE covariance estimation".
    """
    scale = covariance.diagonal().clamp(min=0).sqrt()
    known = scale > 0
    inverse = torch.where(known, 1 / torch.where(known, scale, 1.0), 0.0)
    correlation = inverse[:, None] * covariance * inverse
    features = int(known.sum())
    if features < 2:
        return covariance
    mean_square = correlation.square().sum() / features**2
    denominator = (rows + 1) * (mean_square - 1 / features)
    share = 1.0 if denominator <= 0 else min(1.0, float((mean_square + 1) / denominator))
    kept = (1 - share) * correlation + share * torch.diag(known.to(correlation.dtype))
    return scale[:, None] * kept * scale


@dataclass(frozen=True)
class Whitening:
    """W = Σ^(−1/2) and its pseudoinverse Σ^(1/2), both symmetric, float64, shape `(features, features)`."""

    forth: Tensor
    back: Tensor

    @classmethod
    def of(cls, covariance: Tensor) -> Whitening:
        """Of a covariance of any rank: directions without variance are mapped to 0."""
        values, vectors = torch.linalg.eigh(covariance)
        kept = values > values.max().clamp(min=0) * len(values) * torch.finfo(values.dtype).eps
        roots = torch.where(kept, values, 1.0).sqrt()
        forth = (vectors * torch.where(kept, 1 / roots, 0.0)) @ vectors.T
        back = (vectors * torch.where(kept, roots, 0.0)) @ vectors.T
        return cls(forth, back)
