"""How much of a layer × task value is specific to this layer and this task: the interaction of a two-way layout."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scipy.stats import norm

from probes.values import Estimates, LayerProfile


def specificity(values: np.ndarray, errors: Sequence[np.ndarray] | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Interaction of layer and task: value − layer mean − task mean + grand mean, with its standard error.

    It is the residual of the best additive model, value ≈ layer effect + task effect. It is 0 everywhere if some layers
    are better for all tasks and some tasks are easier at all layers, and positive where a layer serves a task better
    than these two effects predict. With missing cells the additive model is fitted by least squares to the cells that
    are present; without, that is double centring.

    Args:
        values: Shape `(layers, tasks)`, NaN where missing.
        errors: For each task, the errors of its column, shape `(errors, layers)`, scaled so that `errors.T @ errors` is
            the covariance between layers; tasks are taken as independent. Without them standard errors are NaN.

    Returns:
        Specificity and its standard errors, both `(layers, tasks)`, in the unit of the values; NaN where the value is.

    >>> specificity(np.array([[1.0, 0.0], [0.0, 1.0]]))[0]
    array([[ 0.5, -0.5],
           [-0.5,  0.5]])
    """
    present = np.isfinite(values)
    residual_maker = _residual_maker(present)
    specific = np.full(values.shape, np.nan)
    specific[present] = residual_maker @ values[present]
    standard_errors = np.full(values.shape, np.nan)
    if errors is not None:
        by_task = (_variance_from(task, residual_maker, present, of_task) for task, of_task in enumerate(errors))
        standard_errors[present] = np.sqrt(sum(by_task))
    return specific, standard_errors


def specificity_profiles(profiles: Sequence[LayerProfile]) -> list[LayerProfile]:
    """Specificity of every cell of a quantity; with normal intervals and two-sided p if all profiles have errors."""
    values = np.stack([profile.estimates.values for profile in profiles], axis=1)  # (layers, tasks)
    errors = [profile.estimates.errors for profile in profiles]
    known = [columns for columns in errors if columns is not None]
    specific, deviations = specificity(values, known if len(known) == len(profiles) else None)
    reach = norm.ppf(0.975) * deviations
    p = 2 * norm.sf(np.abs(specific) / deviations)
    return [
        replace(
            profile,
            quantity=f"specificity/{profile.metric}",
            penalties=(),
            probe="",
            seed=None,
            estimates=Estimates(
                specific[:, task],
                profile.estimates.n,
                null=np.zeros((1, len(profile.layers))),
                alternative="two-sided",
                p_cell=None if np.isnan(p[:, task]).all() else p[:, task],
                note=profile.estimates.note,
                interval=np.stack([specific[:, task] - reach[:, task], specific[:, task] + reach[:, task]]),
            ),
        )
        for task, profile in enumerate(profiles)
    ]


def _residual_maker(present: np.ndarray) -> np.ndarray:
    """Projection of the n present cells, in row-major order, onto the complement of all additive models, `(n, n)`."""
    layers, tasks = np.nonzero(present)
    # A: a column of indicators for each layer and each task; the residuals of least squares are (I − A A⁺) values
    additive = np.concatenate([np.eye(present.shape[0])[layers], np.eye(present.shape[1])[tasks]], axis=1)
    return np.eye(len(layers)) - additive @ np.linalg.pinv(additive)


def _variance_from(task: int, residual_maker: np.ndarray, present: np.ndarray, errors: np.ndarray) -> np.ndarray:
    """Variance that the errors of one task's column add to each present cell's residual, shape `(n,)`.

    With R the residual maker's columns of this task and E its errors `(errors, layers)`, it is diag(R EᵀE Rᵀ).
    """
    layers, tasks = np.nonzero(present)
    is_task = tasks == task
    return np.square(residual_maker[:, is_task] @ errors[:, layers[is_task]].T).sum(1)
