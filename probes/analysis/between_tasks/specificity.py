"""How much a value belongs to this layer and this task, beyond what the layer and the task have in general."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def specificity(values: np.ndarray, errors: Sequence[np.ndarray] | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Value − layer mean − task mean + grand mean, and its standard error.

    What is left of a layer × task matrix when the best additive fit of layers and tasks is taken away: 0 everywhere if
    some layers are good for every task and some tasks easy at every layer, positive where a layer serves this task
    more than that predicts. Where cells are missing the fit is by least squares over the cells there are, which is the
    double-centred matrix if none are.

    Args:
        values: Shape `(layers, tasks)`, NaN where unknown.
        errors: For each task, the errors of its column, shape `(errors, layers)`, scaled so that `errors.T @ errors` is
            their covariance; tasks are taken as independent. Without, standard errors are NaN.

    Returns:
        Specificity and its standard errors, both `(layers, tasks)`; NaN where the value is.

    >>> specificity(np.array([[1.0, 0.0], [0.0, 1.0]]))[0]
    array([[ 0.5, -0.5],
           [-0.5,  0.5]])
    """
    known = np.isfinite(values)
    centring = _centring(known)
    specific = np.full(values.shape, np.nan)
    specific[known] = centring @ values[known]
    deviations = np.full(values.shape, np.nan)
    if errors is not None:
        deviations[known] = np.sqrt(sum(_variances(centring, known, task, own) for task, own in enumerate(errors)))
    return specific, deviations


def _centring(known: np.ndarray) -> np.ndarray:
    """Projection of the known cells, row by row, onto what no additive fit of layers and tasks explains."""
    layers, tasks = np.nonzero(known)
    additive = np.concatenate([np.eye(known.shape[0])[layers], np.eye(known.shape[1])[tasks]], axis=1)
    return np.eye(len(layers)) - additive @ np.linalg.pinv(additive)


def _variances(centring: np.ndarray, known: np.ndarray, task: int, errors: np.ndarray) -> np.ndarray:
    """What one task's errors add to the variance of every known cell."""
    layers, tasks = np.nonzero(known)
    own = tasks == task
    return np.square(centring[:, own] @ errors[:, layers[own]].T).sum(1)
