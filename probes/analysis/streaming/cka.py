"""Linear CKA of matched layers on all rows, from sums: exact, also debiased."""

from __future__ import annotations

import torch
from torch import Tensor

from probes.analysis.moments import scatter
from probes.analysis.streaming.pair_moments import PairMoments


class LinearCKA(PairMoments):
    """`linear_cka` of layer k of x with layer k of y, over rows that come in batches.

    The unbiased estimate is that of *all* rows together, not a sum over minibatches: with linear kernels K and L of
    centred rows u and v, Σ K∘L is ‖Σ u vᵀ‖², their diagonals are |u|² and |v|², and rows of K sum to 0, so Song's
    estimate is a function of sums over rows alone.

    Memory, float64: `num_layers` × (x_features² + x_features × y_features + y_features²), 248 MB for 31 layers of 576
    features on both sides; as much again is held to reset to, and once more while a batch is merged. Merging costs as
    much as the products of some 256 rows, so batches larger than that pay.

    Args:
        num_layers: Layers of both sides.
        x_features: Features of x.
        y_features: Features of y.
        debiased: As in `linear_cka`.

    >>> x = torch.randn(2, 60, 5, generator=torch.Generator().manual_seed(0))
    >>> metric = LinearCKA(2, 5, 5)
    >>> for rows in x.split(7, dim=1):
    ...     metric.update(rows, 100 - rows)
    >>> metric.compute().round(decimals=6).tolist()
    [1.0, 1.0]
    """

    def __init__(self, num_layers: int, x_features: int, y_features: int, *, debiased: bool = True) -> None:
        super().__init__(num_layers, x_features, y_features)
        self.debiased = debiased

    def compute(self) -> Tensor:
        """CKA of every layer.

        Returns:
            float64, shape `(layers,)`; NaN where a layer is constant.

        Raises:
            ValueError: Fewer than 4 rows came.
        """
        self.require_enough_rows()
        return cka_of_moments(self.xy, self.xx, self.yy, debiased=self.debiased)


def cka_of_moments(xy: Tensor, xx: Tensor, yy: Tensor, *, debiased: bool) -> Tensor:
    """CKA of every layer from packed moments, NaN unless both self-HSICs are positive."""
    between, within_x, within_y = (hsic_of_moments(packed, debiased=debiased) for packed in (xy, xx, yy))
    defined = (within_x > 0) & (within_y > 0)
    return torch.where(defined, between / (within_x.sqrt() * within_y.sqrt()), torch.nan)


def hsic_of_moments(packed: Tensor, *, debiased: bool) -> Tensor:
    """Linear HSIC of every layer from packed moments, as `hsic_pairs` from rows: float64, shape `(layers,)`."""
    rows = packed[..., 0, 0]
    products = scatter(packed).square().sum((-1, -2))
    if not debiased:
        return products / (rows - 1) ** 2
    on_diagonal, totals = packed[..., -1, -1], packed[..., -1, 0] * packed[..., 0, -1]
    hollow = products - on_diagonal + totals / ((rows - 1) * (rows - 2)) - 2 * on_diagonal / (rows - 2)
    return hollow / (rows * (rows - 3))
