r"""Activations after nuisances are regressed out of them, cross-fitted.

With nuisances N and activations A, a ridge regression fitted on rows R predicts the activations of other rows as

    Â = H A_R,   H = T Kᵣ + (1 − T Kᵣ 1) 1ᵀ/|R|,   Kᵣ = (N_R N_Rᵀ + I)⁻¹,   T = N_other N_Rᵀ

with N centred over R. H depends on nuisances alone, so that one matrix serves all layers and features. Training rows
are corrected by fits on the other folds, validation and test rows by the fit on all training rows: no row is corrected
by a fit it had a part in, and no validation or test row has a part in any fit.

Small blocks of features have such a norm that they are hardly penalised; the weight of large blocks (bags of words) is
that with which nuisances predict the activations of held-out training rows best.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from probes.probe_measures.nuisances.features import BLOCK_NORM, NuisanceGroup

LARGE_BLOCK_NORMS = (0.0, 0.01, 0.1, 1.0, 10.0)
"""Mean squared norms of a row of a large block, relative to the penalty of 1, that are tried."""
_LAYERS_TRIED = 6
"""Layers, evenly spaced, by which the norm is chosen."""


@dataclass(frozen=True)
class Residuals:
    """Residual activations of all splits.

    Attributes:
        values: Split → `(layers, rows, features)`.
        explained: Share of the variance of the training rows that nuisances of held-out rows predict, `(layers,)`.
    """

    values: Mapping[str, Tensor]
    explained: Tensor


def residuals(values: Mapping[str, Tensor], groups: Sequence[NuisanceGroup], fold: Tensor) -> Residuals:
    """Regress nuisances out of activations.

    Args:
        values: Split → activations, shape `(layers, rows, features)`, with comparable units over features.
        groups: The nuisances.
        fold: Fold of each training row, int64 `(rows,)`.
    """
    train = values["train"]
    tried = torch.linspace(0, len(train) - 1, min(_LAYERS_TRIED, len(train))).round().long()
    norms = LARGE_BLOCK_NORMS if any(group.is_large for group in groups) else LARGE_BLOCK_NORMS[:1]
    features = {norm: _side_by_side(groups, norm) for norm in norms}
    errors = {
        norm: (train[tried] - _out_of_fold(train[tried], own["train"], fold)).square().mean().item()
        for norm, own in features.items()
    }
    best = features[min(norms, key=lambda norm: errors[norm])]
    corrected = {"train": train - _out_of_fold(train, best["train"], fold)}
    for split in ("validation", "test"):
        corrected[split] = values[split] - hat_matrix(best["train"], best[split]).to(train) @ train
    total = (train - train.mean(1, keepdim=True)).square().sum((1, 2))
    explained = 1 - corrected["train"].square().sum((1, 2)) / total.clamp_min(torch.finfo(total.dtype).tiny)
    return Residuals(corrected, explained.clamp(0, 1))


def hat_matrix(fitted: Tensor, others: Tensor) -> Tensor:
    """The matrix that takes targets of the fitted rows to ridge predictions for other rows, with a free intercept.

    Args:
        fitted: Features of the rows that the regression is fitted on, `(rows, features)`.
        others: Features of the rows that it predicts, `(others, features)`.

    Returns:
        float64, shape `(others, rows)`; its rows sum to 1.
    """
    fitted, others = fitted.double(), others.double()
    mean = fitted.mean(0)
    fitted, others = fitted - mean, others - mean
    kernel = fitted @ fitted.T
    kernel.diagonal().add_(1.0)
    weights = torch.cholesky_solve(fitted @ others.T, torch.linalg.cholesky(kernel)).T
    return weights + (1 - weights.sum(1, keepdim=True)) / len(fitted)


def _out_of_fold(values: Tensor, features: Tensor, fold: Tensor) -> Tensor:
    """Predictions for each row from a fit on the other folds, shape `(layers, rows, features)`."""
    predicted = torch.empty_like(values)
    for number in fold.unique().tolist():
        held_out, kept = (fold == number).nonzero()[:, 0], (fold != number).nonzero()[:, 0]
        hat = hat_matrix(features[kept], features[held_out]).to(values)
        predicted[:, held_out] = hat @ values[:, kept]
    return predicted


def _side_by_side(groups: Sequence[NuisanceGroup], large_norm: float) -> dict[str, Tensor]:
    """Features of all groups, those of large ones scaled to a norm, or left out if it is 0."""
    scale = (large_norm / BLOCK_NORM) ** 0.5
    kept = [(group, scale if group.is_large else 1.0) for group in groups if large_norm > 0 or not group.is_large]
    found = {}
    for split, features in groups[0].features.items():
        none = features.new_zeros(len(features), 0)
        found[split] = torch.cat([none, *(group.features[split] * own for group, own in kept)], dim=1)
    return found
