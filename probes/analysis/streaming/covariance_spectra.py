"""Effective rank, matrix entropy and participation ratio of all rows, from one shared sum over batches."""

from __future__ import annotations

import torch
from torch import Tensor

from probes.analysis.geometry.spectra import (
    effective_rank_of_shares,
    normalised_entropy,
    participation_of_moments,
    renyi_entropy_bits,
    require_renyi_order,
    shares_of_moments,
)
from probes.analysis.moments import x_means
from probes.analysis.streaming.running_sums import LayerMoments


class EffectiveRank(LayerMoments):
    """`effective_rank` over rows that come in batches."""

    def compute(self) -> Tensor:
        """Effective rank of every layer, in directions: float64, shape `(layers,)`; NaN where a layer is constant."""
        return effective_rank_of_shares(shares_of_moments(self.scatter()))


class ParticipationRatio(LayerMoments):
    """`participation_ratio` over rows that come in batches."""

    def compute(self) -> Tensor:
        """Participation ratio, in directions: float64, shape `(layers,)`; NaN where a layer is constant."""
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
        matrices = self.scatter()  # (layers, features, features)
        constant = (matrices.diagonal(dim1=-2, dim2=-1) == 0).all(dim=-1)
        if not self.centred:  # Σ x xᵀ = Σ u uᵀ + n m mᵀ about the mean m
            means = x_means(self.moments)
            matrices = matrices + self.num_rows_seen * means[:, :, None] * means[:, None, :]
        bits = renyi_entropy_bits(shares_of_moments(matrices), self.alpha).masked_fill(constant, torch.nan)
        return normalised_entropy(bits, self.num_rows_seen, self.features) if self.normalise else bits
