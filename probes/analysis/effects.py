"""Effects of interventions: means over rows that weigh all classes equally, beyond what random interventions do."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy.stats import t as student_t

from probes.analysis.intervals import sum_of_variances
from probes.values import Alternative, Estimates


def class_balanced_mean(values: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Mean over classes of the mean over their rows, shape `(…)` for values of shape `(…, rows)`.

    A constant that is added to the log-odds of one answer, whatever the row, does not change the balanced mean of the
    log-odds of the right answers: what is left depends on what the rows say.

    >>> class_balanced_mean(np.array([0.0, 0.0, 3.0]), np.array([0, 0, 1])).item()
    1.5
    """
    return np.stack([values[..., labels == label].mean(-1) for label in np.unique(labels)]).mean(0)


def log_odds_of_right(log_probs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Log-probability of each row's right answer less the mean of the others', nats, shape `(…, rows)`.

    Args:
        log_probs: Shape `(…, rows, options)`.
        labels: Number of the right option, shape `(rows,)`.
    """
    options = log_probs.shape[-1]
    right = np.take_along_axis(log_probs, np.broadcast_to(labels[:, None], (*log_probs.shape[:-1], 1)), axis=-1)[..., 0]
    return right - (log_probs.sum(-1) - right) / (options - 1)


def effect_estimates(
    effects: np.ndarray,
    labels: np.ndarray,
    random: np.ndarray | None = None,
    *,
    null: float = 0.0,
    alternative: Alternative = "two-sided",
    note: str = "nothing is edited at this layer",
    draws_are: str = "random subspaces",
) -> Estimates:
    """Class-balanced mean of effects over rows at every layer, less that of random interventions if there are any.

    The variance over rows is that of the row's own effect less its mean over the random interventions, within classes.
    The interval adds the variance of the mean over random interventions. p asks whether the intervention could be one
    more of the random ones, so that it adds the variance of a single one, too. Both are Student's t with Welch's
    degrees of freedom.

    Args:
        effects: Shape `(layers, rows)`; NaN rows of a layer make its estimate NaN.
        labels: Class of each row, shape `(rows,)`; if one has a single row, interval and p are NaN.
        random: The same for random interventions of the same size, shape `(draws, layers, rows)`, two or more.
        null: The value of no effect.
        alternative: Which effects count.
        note: Why a layer has no value.
        draws_are: What the random interventions are, for `interval_over`.

    >>> rows = np.array([[1.0, 3.0, 1.0, 3.0]])
    >>> found = effect_estimates(rows, np.array([0, 0, 1, 1]))
    >>> found.values.tolist(), found.interval.round(2).tolist()
    ([2.0], [[-1.04], [5.04]])
    """
    beyond = effects if random is None else effects - random.mean(0)
    classes, counts = np.unique(labels, return_counts=True)
    values = class_balanced_mean(beyond, labels)
    with np.errstate(invalid="ignore", divide="ignore"):
        of_rows = (
            np.sum([_variance(beyond[:, labels == c]) / n for c, n in zip(classes, counts, strict=True)], axis=0)
            / len(classes) ** 2
        )
        freedom_of_rows, draws = int((counts - 1).sum()), 1 if random is None else len(random)
        of_draws = np.zeros_like(values) if random is None else class_balanced_mean(random, labels).var(0, ddof=1)
        variance, freedom = sum_of_variances((of_rows, freedom_of_rows), (of_draws / draws, draws - 1))
        tested = sum_of_variances((of_rows, freedom_of_rows), (of_draws * (1 + 1 / draws), draws - 1))
        distance = np.where(values == null, 0.0, (values - null) / np.sqrt(tested[0]))
    reach = student_t.ppf(0.975, freedom) * np.sqrt(variance)
    tails = {
        "two-sided": lambda: 2 * student_t.sf(np.abs(distance), tested[1]),
        "greater": lambda: student_t.sf(distance, tested[1]),
        "less": lambda: student_t.cdf(distance, tested[1]),
    }
    p = tails[alternative]()
    return Estimates(
        values,
        effects.shape[1],
        null=np.full((1, len(values)), null),
        alternative=alternative,
        note=note,
        interval=np.stack([values - reach, values + reach]),
        interval_over="rows" if random is None else f"rows and {draws_are}",
        p_cell=np.where(np.isfinite(values), p, np.nan),
    )


def without_null(estimates: Estimates) -> Estimates:
    """The same of a quantity that has no value of no effect, such as a share or a log-probability: it is not tested."""
    return replace(estimates, null=None, p_cell=None)


def normalised_effect(changes: np.ndarray, gaps: np.ndarray, *, over: str = "pairs") -> Estimates:
    """Mean change as a share of the mean gap that there is to close, at every layer, on the same rows.

    The interval is Student's t, with the variance of the ratio of two means linearised about them.

    Args:
        changes: What a patch changes, shape `(layers, rows)`.
        gaps: How far the source lies from the target without a patch, shape `(rows,)`.
        over: What a row is, as in `Estimates.interval_over`.

    Returns:
        Estimates over layers; NaN everywhere if the mean gap is less than two standard errors from 0, as then there is
        nothing to close.

    >>> normalised_effect(np.array([[1.0, 2.0]]), np.array([2.0, 4.0])).values.tolist()
    [0.5]
    """
    rows, gap = len(gaps), gaps.mean()
    note = "source and target answer alike: their gap is below two standard errors"
    if not abs(gap) > 2 * gaps.std(ddof=1) / np.sqrt(rows):
        return Estimates(np.full(len(changes), np.nan), rows, note=note)
    values = changes.mean(-1) / gap
    influence = (changes - values[:, None] * gaps) / gap  # (layers, rows), of mean 0
    errors = influence.T / np.sqrt(rows * (rows - 1))
    return Estimates(
        values, rows, errors=errors, null=np.zeros((1, len(values))), alternative="two-sided", note=note,
        interval_over=over,
    )  # fmt: skip


def _variance(values: np.ndarray) -> np.ndarray:
    """Over rows, shape `(layers,)` for `(layers, rows)`; NaN of a single row."""
    return values.var(-1, ddof=1) if values.shape[-1] > 1 else np.full(len(values), np.nan)
