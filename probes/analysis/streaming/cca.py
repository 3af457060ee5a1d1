"""SVCCA and PWCCA of all rows, from sums over batches."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor
from typing_extensions import override

from probes.analysis.moments import unpack_layers
from probes.analysis.similarity.cca import Truncation, WhitenedComponents, mean_correlation, weighted_correlation
from probes.analysis.streaming.running_sums import PairMoments


class CanonicalCorrelations(PairMoments, ABC):
    """A mean of canonical correlations of layer k of x with layer k of y, over rows that come in batches.

    Memory as `LinearCKA`, whose sums it shares in a `MetricCollection`.

    Args:
        num_layers: Layers of both sides.
        x_features: Features of x.
        y_features: Features of y.
        variance: Share of each side's variance to keep, in (0, 1].
        ridge: As in `svcca`.

    Raises:
        ValueError: `variance` or `ridge` is out of range.
    """

    def __init__(self, num_layers: int, x_features: int, y_features: int, *, variance: float, ridge: float) -> None:
        super().__init__(num_layers, x_features, y_features)
        self.truncation = Truncation(variance=variance, ridge=ridge)

    @abstractmethod
    def of_layer(self, components: WhitenedComponents | None) -> Tensor:
        """The measure of one layer, float64 scalar; NaN without components, where a side is constant."""

    def compute(self) -> Tensor:
        """The measure of every layer.

        Returns:
            float64, shape `(layers,)`; NaN where a layer is constant.

        Raises:
            ValueError: Fewer than 4 rows came, or too few for the components kept.
        """
        self.require_enough_rows()
        layers = unpack_layers(self.xy, self.xx, self.yy)
        values = self.xy.new_empty(len(layers))
        for index, moments in enumerate(layers):
            values[index] = self.of_layer(WhitenedComponents.of_moments(moments, self.truncation))
        return values


class SVCCA(CanonicalCorrelations):
    """`svcca` over rows that come in batches; arguments as in `CanonicalCorrelations`."""

    def __init__(
        self, num_layers: int, x_features: int, y_features: int, *, variance: float = 0.99, ridge: float = 0.0
    ) -> None:
        super().__init__(num_layers, x_features, y_features, variance=variance, ridge=ridge)

    @override
    def of_layer(self, components: WhitenedComponents | None) -> Tensor:
        return mean_correlation(components)


class PWCCA(CanonicalCorrelations):
    """`pwcca` over rows that come in batches, weighted by x; arguments as in `CanonicalCorrelations`."""

    def __init__(
        self, num_layers: int, x_features: int, y_features: int, *, variance: float = 1.0, ridge: float = 0.0
    ) -> None:
        super().__init__(num_layers, x_features, y_features, variance=variance, ridge=ridge)

    @override
    def of_layer(self, components: WhitenedComponents | None) -> Tensor:
        return weighted_correlation(components)
