"""Do two sets of probes differ on the same test rows? Paired differences of their scores at every layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from probes.analysis.join import layer_remarks, match_layers
from probes.metrics import (
    MAIN_METRIC,
    Predictions,
    TargetKind,
    bootstrap_counts,
    drawn,
    errors_of_draws,
    score_interval,
    score_rows,
    widened,
)
from probes.values import Estimates, Layer

_ELEMENTS_AT_ONCE = 2**23
"""Elements of exchanged logits held at once."""


def paired_score_difference(
    first: Predictions,
    second: Predictions,
    *,
    metric: str | None = None,
    resamples: int = 1000,
    exchanges: int = 500,
    seed: int = 0,
) -> Estimates:
    """Score of the second probes minus that of the first at every layer of the first, on the same rows.

    The interval is that of the paired bootstrap over rows: both are scored on the same resamples. If both have errors
    over training sets and the metric is their main one, these are added: as differences if both were refitted on the
    same halves of the same training rows, else as independent errors.

    The null is that it makes no difference which probe predicted a row. In each draw the two predictions of every row
    are exchanged with probability ½, at all layers together. If the two are exchangeable, the observed difference is
    one more of these draws; two-sided. Of words, whole sentences are resampled and exchanged, and whole groups
    of rows that share a value of `suite.group`. The test is about
    the two trained probes as they are: other training rows might reverse a small difference, which only the interval
    over training sets accounts for.

    Args:
        first: Of one run.
        second: Of another run, on the same rows in any order.
        metric: One of `first.metrics`; the main metric of the kind of task by default.
        resamples: Of the rows; 0: no interval.
        exchanges: Draws of the null; 0 for none.
        seed: Of resamples and exchanges.

    Returns:
        Estimates over `first.layers`. The layers of a model of another depth are matched as by `match_layers`. Where
        smaller values of the metric are better, a positive difference still means a larger value.

    Raises:
        ValueError: Kind, labels, rows or their targets differ, or the metric does not follow from predictions.
    """
    second = _same_rows(first, second)
    metric = MAIN_METRIC[first.kind] if metric is None else metric
    if metric not in first.metrics:
        raise ValueError(
            f"'{metric}' cannot be computed from predictions of task '{first.task}' ({first.kind}). There are "
            f"{', '.join(first.metrics)}."
        )
    matched = match_layers(first.layers, second.layers, depth=first.depth, other_depth=second.depth)
    pair = torch.stack([first.logits(), second.logits(matched)])  # (2, layers, rows, classes)
    targets, rows = first.target_tensor(), len(first.row_ids)
    groups = first.groups
    units, of, number = (rows, "rows", None) if groups is None else (groups.count, groups.name, groups.number)
    counts = bootstrap_counts(rows, resamples, seed=seed, groups=number)
    (one, other) = (score_rows(first.kind, logits, targets, counts, names={metric}) for logits in pair)
    value = other.values[metric] - one.values[metric]
    draws = other.draws[metric] - one.draws[metric]
    ends = torch.stack(score_interval(value, draws, rows=units, scale="difference"))
    errors, over = errors_of_draws(draws, units=units), of
    freedom = [(len(errors), units - 1)]
    over_sets = _errors_over_training_sets(first, second, matched) if metric == MAIN_METRIC[first.kind] else None
    if over_sets is not None:
        ends, over = widened(ends, value, over_sets), f"{of} and training sets"
        errors = torch.cat([errors, over_sets])
        freedom.append((len(over_sets), len(over_sets) - 1))
    return Estimates(
        value.numpy(),
        rows,
        errors=drawn(errors) if resamples > 0 else None,
        null=drawn(_exchanged(pair, targets, first.kind, metric, exchanges, groups=number, seed=seed + 1)),
        alternative="two-sided",
        note="the score is undefined",
        interval=ends.numpy() if resamples > 0 else None,
        interval_over=over,
        remarks=layer_remarks(first.layers, matched),
        freedom=tuple(freedom),
    )


def _same_rows(first: Predictions, second: Predictions) -> Predictions:
    """The second predictions with their rows in the order of the first.

    Raises:
        ValueError: They are of another kind of task, of other labels or rows, or a target differs.
    """
    where = f"Task '{first.task}' cannot be compared: "
    if (first.kind, first.labels) != (second.kind, second.labels):
        raise ValueError(
            f"{where}it is {first.kind} with labels {list(first.labels)} in one run, and {second.kind} with labels "
            f"{list(second.labels)} in the other."
        )
    position = {row_id: row for row, row_id in enumerate(second.row_ids)}
    common = [row_id for row_id in first.row_ids if row_id in position]
    if len(common) != len(first.row_ids) or len(common) != len(second.row_ids):
        raise ValueError(
            f"{where}the runs have different test rows, {len(first.row_ids)} and {len(second.row_ids)} of which "
            f"{len(common)} are the same. Use the same data, `suite.seed`, `suite.max_rows` and prompts in both runs."
        )
    order = [position[row_id] for row_id in first.row_ids]
    targets = second.targets[order]
    if not np.array_equal(targets, first.targets):
        raise ValueError(f"{where}{int((targets != first.targets).sum())} targets of the same rows differ.")
    return replace(second, row_ids=first.row_ids, predicted=second.predicted[:, order], targets=targets)


def _errors_over_training_sets(first: Predictions, second: Predictions, matched: Sequence[Layer]) -> Tensor | None:
    """Errors of the difference over training sets, float64 `(errors, layers)`; `None` if one side lacks its own."""
    if len(first.training_errors) == 0 or len(second.training_errors) == 0:
        return None
    own = torch.from_numpy(first.training_errors).double()
    other = torch.from_numpy(second.training_errors[:, [second.layers.index(layer) for layer in matched]]).double()
    paired = first.training_seed == second.training_seed and len(own) == len(other)
    return other - own if paired else torch.cat([own, other])


def _exchanged(
    pair: Tensor,
    targets: Tensor,
    kind: TargetKind,
    metric: str,
    exchanges: int,
    *,
    groups: Tensor | None,
    seed: int,
) -> Tensor:
    """Differences after the predictions of random rows or groups were exchanged, float64 `(exchanges, layers)`."""
    layers, rows = pair.shape[1:3]
    generator = torch.Generator().manual_seed(seed)
    if groups is None:
        exchanged = torch.rand(exchanges, rows, generator=generator) < 0.5
    else:
        number = groups.unique(return_inverse=True)[1]
        exchanged = (torch.rand(exchanges, int(number.max()) + 1, generator=generator) < 0.5)[:, number]
    draws = []
    for some in exchanged.split(max(1, _ELEMENTS_AT_ONCE // pair[0].numel())):
        chosen = some[None, :, :, None]  # (1, exchanges, rows, 1)
        one = torch.where(chosen, pair[1][:, None], pair[0][:, None]).flatten(0, 1)
        other = torch.where(chosen, pair[0][:, None], pair[1][:, None]).flatten(0, 1)
        scores = [score_rows(kind, logits, targets, names={metric}).values[metric] for logits in (one, other)]
        draws.append((scores[1] - scores[0]).view(layers, len(some)).T)
    return torch.cat(draws)
