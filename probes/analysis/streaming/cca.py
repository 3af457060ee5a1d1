"""SVCCA and PWCCA on all rows, from sums."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from probes.analysis.cca import Truncation, pwcca_of_moments, svcca_of_moments
from probes.analysis.moments import Moments, unpack_layers
from probes.analysis.streaming.pair_moments import PairMoments


class SVCCA(PairMoments):
    """`svcca` of layer k of x with layer k of y, over rows that come in batches.

    Memory as `LinearCKA`, whose sums it shares in a `MetricCollection`.

    Args:
        num_layers: Layers of both sides.
        x_features: Features of x.
        y_features: Features of y.
        variance: As in `svcca`.
        ridge: As in `svcca`.

    Raises:
        ValueError: `variance` or `ridge` is out of range.
    """

    def __init__(
        self, num_layers: int, x_features: int, y_features: int, *, variance: float = 0.99, ridge: float = 0.0
    ) -> None:
        super().__init__(num_layers, x_features, y_features)
        self.truncation = Truncation(variance=variance, ridge=ridge)

    def compute(self) -> Tensor:
        """SVCCA of every layer.

        Returns:
            float64, shape `(layers,)`; NaN where a layer is constant.

        Raises:
            ValueError: Fewer than 4 rows came, or too few for the components kept.
        """
        self.require_enough_rows()
        return _of_every_layer(svcca_of_moments, self, self.truncation)


class PWCCA(PairMoments):
    """`pwcca` of layer k of x with layer k of y, over rows that come in batches; x gives the weights.

    Memory as `LinearCKA`, whose sums it shares in a `MetricCollection`.

    Args:
        num_layers: Layers of both sides.
        x_features: Features of x.
        y_features: Features of y.
        variance: As in `pwcca`.
        ridge: As in `pwcca`.

    Raises:
        ValueError: `variance` or `ridge` is out of range.
    """

    def __init__(
        self, num_layers: int, x_features: int, y_features: int, *, variance: float = 1.0, ridge: float = 0.0
    ) -> None:
        super().__init__(num_layers, x_features, y_features)
        self.truncation = Truncation(variance=variance, ridge=ridge)

    def compute(self) -> Tensor:
        """PWCCA of every layer.

        Returns:
            float64, shape `(layers,)`; NaN where a layer is constant.

        Raises:
            ValueError: Fewer than 4 rows came, or too few for the components kept.
        """
        self.require_enough_rows()
        return _of_every_layer(pwcca_of_moments, self, self.truncation)


def _of_every_layer(
    measure: Callable[[Moments, Truncation], Tensor], sums: PairMoments, truncation: Truncation
) -> Tensor:
    return torch.stack([measure(layer, truncation) for layer in unpack_layers(sums.xy, sums.xx, sums.yy)])
