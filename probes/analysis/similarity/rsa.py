"""Representational similarity analysis (RSA): do two layers place the same pairs of samples far apart?"""

from __future__ import annotations

from functools import partial
from typing import Literal, get_args

import numpy as np
import torch
from scipy.stats import pearsonr, spearmanr
from torch import Tensor

from probes.analysis.invariances import by_layer, invariant_to, require_matched_rows
from probes.analysis.similarity.neighbours import unit_rows

Distance = Literal["euclidean", "correlation", "cosine"]
Correlation = Literal["spearman", "pearson"]


@invariant_to("rotation", "scale", "shift")
def rsa(x: Tensor, y: Tensor, *, distance: Distance = "euclidean", correlation: Correlation = "spearman") -> Tensor:
    """Correlation, over all pairs of rows, of the distances in matched layers.

    Around 0 for unrelated layers when nothing else is shared, but pairs share rows: a few rows far from all others in
    both layers correlate them, and pairs are not independent samples. Test by permuting rows; do not bootstrap them,
    since repeated rows are at distance 0 in both.

    Args:
        x: Shape `(layers, rows, x_features)`.
        y: Shape `(layers, rows, y_features)`; row `i` is the same sample as row `i` of `x`.
        distance: Between rows: `"euclidean"`; `"cosine"`, one less their cosine, which a shift changes;
            `"correlation"`, one less their correlation over features, which a rotation changes too.
        correlation: `"spearman"`, of ranks, ties at their mean rank; or `"pearson"`, of the distances themselves.

    Returns:
        float64, shape `(layers,)`, in [−1, 1]; NaN where a layer is constant or all its distances are equal, and
        where a row is all zeros (`"cosine"`) or the same in all features (`"correlation"`).

    Raises:
        ValueError: Fewer than 4 rows, layers or rows that don't match, non-finite rows, an unknown option.

    Source:
        Kriegeskorte et al. 2008, Frontiers in Systems Neuroscience 2:4.

    >>> x = torch.randn(1, 50, 8, generator=torch.Generator().manual_seed(0))
    >>> round(rsa(x, 3 * x.flip(2) + 1).item(), 6)
    1.0
    """
    for name, options in ((distance, get_args(Distance)), (correlation, get_args(Correlation))):
        if name not in options:
            raise ValueError(f"RSA knows no '{name}' here. There are {options}.")
    require_matched_rows(x, y)
    return by_layer(partial(_correlation_of_distances, distance=distance, correlation=correlation), x, y)


def _correlation_of_distances(x: Tensor, y: Tensor, *, distance: Distance, correlation: Correlation) -> Tensor:
    x_pairs, y_pairs = (_distances(side, distance).numpy(force=True) for side in (x, y))
    if any(np.isnan(pairs).any() or (pairs == pairs[0]).all() for pairs in (x_pairs, y_pairs)):
        return x.new_tensor(torch.nan)  # as scipy, but without its warning
    result = spearmanr(x_pairs, y_pairs) if correlation == "spearman" else pearsonr(x_pairs, y_pairs)
    return x.new_tensor(result[0])


def _distances(points: Tensor, distance: Distance) -> Tensor:
    """All pairs of rows once, `(rows × (rows − 1) / 2,)`, from direct differences, which keep ties."""
    if distance == "euclidean":
        return torch.pdist(points)
    if distance == "correlation":
        points = points - points.mean(dim=1, keepdim=True)
    return torch.pdist(unit_rows(points)).square() / 2  # |a − b|² = 2 − 2 cos
