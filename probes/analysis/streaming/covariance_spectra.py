"""Effective rank, matrix entropy and participation ratio on all rows, from one shared sum."""

from __future__ import annotations

from abc import ABC

import torch
from torch import Tensor
from torchmetrics import Metric

from probes.analysis.geometry.spectra import (
    effective_rank_of_shares,
    normalised_entropy,
    participation_of_moments,
    renyi_entropy_bits,
    require_renyi_order,
    shares_of_moments,
)
from probes.analysis.moments import cross_moments, merge_moments, row_count, scatter, x_means
from probes.analysis.streaming.batch_checks import require_batch, require_enough_rows


class LayerMoments(Metric, ABC):
    """Packed moments of every layer with itself; the same in every subclass, so a `MetricCollection` keeps them once.

    Memory, float64: `num_layers` × features², 83 MB for 31 layers of 576 features.

    Args:
        num_layers: Layers.
        features: Features of a layer.
    """

    full_state_update = False
    is_differentiable = False
    moments: Tensor

    def __init__(self, num_layers: int, features: int) -> None:
        super().__init__()
        self.num_layers, self.features = num_layers, features
        empty = torch.zeros(num_layers, features + 2, features + 2, dtype=torch.float64)
        self.add_state("moments", empty, dist_reduce_fx=merge_moments)

    def update(self, x: Tensor) -> None:
        """Add a batch.

        Args:
            x: Shape `(layers, rows, features)`.

        Raises:
            ValueError: The shape is not what the metric was made for, or rows are not finite.
        """
        require_batch(x, layers=self.num_layers, features=self.features)
        if x.shape[1] > 0:
            self.moments = merge_moments((self.moments, cross_moments(x, x)))

    @property
    def num_rows_seen(self) -> int:
        """Rows in the sums."""
        return row_count(self.moments)

    def scatter(self) -> Tensor:
        """Sums of products about the mean, float64, shape `(layers, features, features)`.

        Raises:
            ValueError: Fewer than 4 rows came.
        """
        require_enough_rows(self.num_rows_seen, metric=type(self).__name__)
        return scatter(self.moments)


class EffectiveRank(LayerMoments):
    """`effective_rank` over rows that come in batches."""

    def compute(self) -> Tensor:
        """Directions used by every layer: float64, shape `(layers,)`; NaN where a layer is constant."""
        return effective_rank_of_shares(shares_of_moments(self.scatter()))


class ParticipationRatio(LayerMoments):
    """`participation_ratio` over rows that come in batches."""

    def compute(self) -> Tensor:
        """Directions used by every layer: float64, shape `(layers,)`; NaN where a layer is constant."""
        return participation_of_moments(self.scatter())


class MatrixEntropy(LayerMoments):
    """`matrix_entropy` over rows that come in batches.

    Args:
        num_layers: Layers.
        features: Features of a layer.
        alpha: As in `matrix_entropy`.
        normalise: As in `matrix_entropy`.
        centred: As in `matrix_entropy`.

    Raises:
        ValueError: `alpha` is not positive.
    """

    def __init__(
        self, num_layers: int, features: int, *, alpha: float = 1.0, normalise: bool = True, centred: bool = True
    ) -> None:
        require_renyi_order(alpha)
        super().__init__(num_layers, features)
        self.alpha, self.normalise, self.centred = alpha, normalise, centred

    def compute(self) -> Tensor:
        """Entropy of every layer: float64, shape `(layers,)`, a share or bits; NaN where a layer is constant."""
        matrices = self.scatter()
        constant = (matrices.diagonal(dim1=-2, dim2=-1) == 0).all(dim=-1)
        if not self.centred:
            means = x_means(self.moments)
            matrices = matrices + self.num_rows_seen * means[:, :, None] * means[:, None, :]
        bits = renyi_entropy_bits(shares_of_moments(matrices), self.alpha).masked_fill(constant, torch.nan)
        return normalised_entropy(bits, self.num_rows_seen, self.features) if self.normalise else bits
