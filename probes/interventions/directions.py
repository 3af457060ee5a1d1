"""Directions to steer with: towards a class and away from the others, all of the same length."""

from __future__ import annotations

import torch
from torch import Tensor

from probes.interventions.moments import LabelMoments, Whitening, shrunk


def mean_difference_directions(moments: LabelMoments) -> Tensor:
    """Mean of each class less the mean of the other classes' means, float64, shape `(classes, features)`.

    >>> moments = LabelMoments(1, 2)
    >>> moments.update(torch.tensor([[0.0], [1.0], [5.0]]), torch.tensor([0, 0, 1]))
    >>> mean_difference_directions(moments).tolist()
    [[-4.5], [4.5]]
    """
    return contrasts(moments.class_means)


def lda_directions(moments: LabelMoments, *, shrink: bool = True) -> Tensor:
    """Directions of linear discriminant analysis, Σ_within⁻¹ times the mean differences, `(classes, features)`.

    Args:
        moments: Of the rows.
        shrink: Shrink the correlations in Σ_within.
    """
    within = moments.covariance_within
    whitening = Whitening.of(shrunk(within, moments.count) if shrink else within)
    return mean_difference_directions(moments) @ whitening.forth @ whitening.forth


def random_directions(like: Tensor, *, seed: int) -> Tensor:
    """Isotropic random directions of the shape of others; those of two classes are opposite, as of all contrasts."""
    generator = torch.Generator().manual_seed(seed)
    return contrasts(torch.randn(like.shape, generator=generator, dtype=like.dtype))


def contrasts(by_class: Tensor) -> Tensor:
    """Each class's row less the mean of the other classes' rows, shape `(classes, …)`."""
    classes = len(by_class)
    return (by_class - by_class.mean(0)) * (classes / (classes - 1))


def of_equal_length(directions: Tensor, like: Tensor) -> Tensor:
    """Directions scaled to the lengths of others, both `(classes, features)`; a direction of length 0 stays so."""
    length = directions.norm(dim=1, keepdim=True)
    scale = torch.where(length > 0, like.norm(dim=1, keepdim=True) / torch.where(length > 0, length, 1.0), 0.0)
    return directions * scale
