"""How many training rows a layer needs: scores against the number of rows, on a geometric schedule.

Probes of all layers, penalties and subsets of the training rows are one call of the exact solver. Subsets are prefixes
of random orders, of which each size is half of the next. The penalty of a size is chosen by the rows outside the
subsets and the validation rows, so that it costs no cross-validation.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from probes.metrics import (
    MAIN_METRIC,
    bootstrap_counts,
    majority_logits,
    permuted_scores,
    score_interval,
    score_rows,
    widened,
)
from probes.metrics.scores import SCALES
from probes.probe_measures.description_length import block_starts, row_orders
from probes.probe_measures.linear_refits import (
    SolvedLayers,
    errors_over_sets,
    has_independent_vectors,
    linear_penalties,
    solve_sets,
)
from probes.probe_measures.protocol import ProbedTask, TaskTable
from probes.seeds import derive_seed
from probes.values import Estimates, LayerProfile

_PERMUTATIONS = 50
"""Permutations of the test labels behind the score by chance."""
_RESAMPLES = 200
"""Resamples of the test rows and of the subsets."""


@dataclass(frozen=True, kw_only=True)
class SampleEfficiency:
    """The learning curve of each layer, and the training rows at which it comes near its end.

    The profile `rows_to_90_percent` (or another share) is the number of training rows at which the main metric first
    exceeds chance by 90 % of what it does with all rows, interpolated between sizes on the scale of
    their logarithms. The table `learning_curves` holds every size and layer; the page shows the best layer's.

    Attributes:
        subsets: Random subsets of each size.
        smallest: Least rows of a subset; it also holds as many rows as there are classes.
        share: Share of the last gain over chance that is asked for.
    """

    subsets: int = 8
    smallest: int = 16
    share: float = 0.9

    def __post_init__(self) -> None:
        if self.subsets < 2 or self.smallest < 2 or not 0 < self.share < 1:
            raise ValueError(
                "Sample efficiency needs at least 2 subsets, of 2 rows at least, and a share between 0 and 1; got "
                f"{self.subsets}, {self.smallest} and {self.share}. Set `analysis.probe_measures.sample_efficiency`."
            )

    def __call__(self, probed: ProbedTask) -> Iterator[LayerProfile | TaskTable]:
        """The profile and the table."""
        data = probed.data
        if not has_independent_vectors(data):
            return
        rows = len(data.train.targets)
        starts = block_starts(rows, max(self.smallest, data.num_classes))
        place: dict[str, Any] = {"layers": data.layers, "task": data.task, "reading": data.reading, "seed": probed.seed}
        named = {"quantity": f"rows_to_{100 * self.share:g}_percent", "unit": "training rows", **place}
        if not starts or probed.fit.best_layers is None:
            note = f"too few training rows ({rows}), or only constant layers"
            yield LayerProfile(estimates=Estimates(np.full(len(data.layers), np.nan), rows, note=note), **named)
            return
        curve = learning_curve(probed, starts, subsets=self.subsets)
        chance = curve.chance
        reached = rows_to_reach(curve.values, curve.sizes, chance=chance, share=self.share)
        draws = rows_to_reach(curve.draws, curve.sizes, chance=chance, share=self.share)
        above = curve.low[:, -1] > chance
        interval = np.quantile(draws, [0.025, 0.975], axis=0)
        remarks = ["" if value > curve.sizes[0] else "at the smallest size already" for value in reached]
        estimates = Estimates(
            np.where(above, reached, np.nan),
            rows,
            interval=np.where(above, interval, np.nan),
            interval_over="rows and training sets",
            note="constant layer, or no score above chance",
            remarks=tuple(remark if is_above else "" for remark, is_above in zip(remarks, above, strict=True)),
        )
        yield LayerProfile(estimates=estimates, **named)
        yield _table(probed, curve)


@dataclass(frozen=True)
class LearningCurve:
    """Test scores by the main metric at every size of the training set.

    Attributes:
        sizes: Training rows, ascending, all rows last.
        values: Means over subsets, shape `(layers, sizes)`.
        low: Lower ends of 95 % intervals over test rows and training sets, same shape.
        high: Upper ends.
        draws: Scores in resamples of test rows and of subsets, shape `(resamples, layers, sizes)`.
        chance: Score by chance at each layer, shape `(layers,)`: of the majority baseline, or of the probe of all rows
            against permuted labels, whichever is larger.
    """

    sizes: tuple[int, ...]
    values: np.ndarray
    low: np.ndarray
    high: np.ndarray
    draws: np.ndarray
    chance: np.ndarray


def learning_curve(probed: ProbedTask, starts: list[int], *, subsets: int) -> LearningCurve:
    """Scores of linear probes trained on subsets of the training rows, and on all of them.

    Args:
        probed: The task.
        starts: Sizes of the subsets, ascending, each half of the next.
        subsets: Subsets of each size.
    """
    data, metric = probed.data, MAIN_METRIC[probed.data.kind]
    test, rows = data.test.targets, len(data.train.targets)
    orders = row_orders(rows, subsets, seed=derive_seed(probed.seed, "sample efficiency"))
    logits = _test_logits(probed, orders, starts)  # (layers, sizes · subsets + 1, rows, classes)
    seed = derive_seed(probed.seed, "bootstrap", "test")
    counts = bootstrap_counts(len(test), _RESAMPLES, seed=seed)
    live = ~logits.flatten(1).isnan().any(1)
    scores = score_rows(data.kind, logits[live].flatten(0, 1), test, counts, names={metric})
    drawn = torch.cat([scores.values[metric][None], scores.draws[metric]]).unflatten(1, (int(live.sum()), -1))
    by_set = drawn.new_full((len(drawn), len(live), drawn.shape[2]), torch.nan)
    by_set[:, live] = drawn
    of_subsets = by_set[..., :-1].unflatten(2, (len(starts), subsets))  # (1 + samples, layers, sizes, subsets)
    means = torch.cat([of_subsets.mean(-1), by_set[..., -1:]], dim=2)
    low, high = _intervals(means, of_subsets, starts, probed)
    generator = torch.Generator().manual_seed(derive_seed(probed.seed, "subsets"))
    picked = torch.randint(subsets, (_RESAMPLES, subsets), generator=generator)
    resampled = torch.stack([of_subsets[1 + s][..., picked[s]].mean(-1) for s in range(_RESAMPLES)])
    constant = majority_logits(data.kind, data.train.targets, len(test), classes=data.num_classes)
    majority = score_rows(data.kind, constant, test, names={metric}).values[metric]
    permuted = torch.stack([torch.randperm(len(test), generator=generator) for _ in range(_PERMUTATIONS)])
    chance = torch.full((len(live),), torch.nan, dtype=torch.float64)
    by_chance = permuted_scores(data.kind, logits[live, -1], test, permuted, names={metric})[metric].mean(0)
    chance[live] = by_chance.maximum(majority)
    return LearningCurve(
        (*starts, rows),
        means[0].numpy(),
        low.numpy(),
        high.numpy(),
        torch.cat([resampled, by_set[1:, :, -1:]], dim=2).numpy(),
        chance.numpy(),
    )


def rows_to_reach(values: np.ndarray, sizes: tuple[int, ...], *, chance: np.ndarray, share: float) -> np.ndarray:
    """Where curves first exceed chance by a share of what they do at their end.

    Args:
        values: Scores, shape `(..., sizes)`.
        sizes: Training rows, ascending.
        chance: Score by chance of each curve, shape `(layers,)`, the last axis but one of `values`.
        share: Of the last gain over it.

    Returns:
        Rows, interpolated linearly in their logarithm, shape `(...)`; at least the smallest size, and the largest for a
        curve that ends below chance.

    >>> rows_to_reach(np.array([0.5, 0.6, 0.8, 0.9]), (16, 32, 64, 128), chance=np.array(0.5), share=0.5).round(1)
    np.float64(45.3)
    """
    goal = (chance + share * (values[..., -1] - chance))[..., None]
    positions = np.log2(np.array(sizes, dtype=np.float64))
    first = (values >= goal).argmax(-1)
    before = np.maximum(first - 1, 0)
    here, there = (np.take_along_axis(values, at[..., None], -1)[..., 0] for at in (before, first))
    with np.errstate(divide="ignore", invalid="ignore"):
        part = np.where(first > 0, (goal[..., 0] - here) / (there - here), 0.0)
    reached = 2 ** (positions[before] + part * (positions[first] - positions[before]))
    reached = np.where(values[..., -1] > chance, reached, float(sizes[-1]))
    return np.where(np.isnan(values[..., -1]), np.nan, reached)


def _table(probed: ProbedTask, curve: LearningCurve) -> TaskTable:
    data, metric = probed.data, MAIN_METRIC[probed.data.kind]
    cells = [(layer, size) for layer in range(len(data.layers)) for size in range(len(curve.sizes))]
    columns = {
        "layer": [data.layers[layer] for layer, _ in cells],
        "training rows": [curve.sizes[size] for _, size in cells],
        metric: [float(curve.values[cell]) for cell in cells],
        "lower end": [float(curve.low[cell]) for cell in cells],
        "upper end": [float(curve.high[cell]) for cell in cells],
        "by chance": [float(curve.chance[layer]) for layer, _ in cells],
    }
    return TaskTable(name="learning_curves", task=data.task, reading=data.reading, columns=columns)


def _test_logits(probed: ProbedTask, orders: Tensor, starts: list[int]) -> Tensor:
    """Test logits of each subset at its best penalty, all sizes of subsets in turn, then of all rows."""
    data, metric = probed.data, MAIN_METRIC[probed.data.kind]
    train, validation, test = data.train, data.validation, data.test
    rows = len(train.targets)
    weights = torch.zeros(len(starts), len(orders), rows)
    for start, of_size in zip(starts, weights, strict=True):
        for order, of_subset in zip(orders, of_size, strict=True):
            of_subset[order[:start]] = 1
    weights = torch.cat([weights.flatten(0, 1), torch.ones(1, rows)])
    values = [split.activations.values for split in (train, validation, test)]
    targets = torch.cat([train.targets, validation.targets])
    penalties = linear_penalties(probed.settings)
    # From the largest penalty down, as `argmax` returns the first of equal scores.
    order_of_penalties = torch.tensor(penalties).argsort(descending=True)
    of_fit = torch.tensor([penalties.index(p) if p in penalties else -1 for p in probed.fit.probes.penalties])

    def reduce(solved: SolvedLayers) -> Tensor:
        logits, best = [], torch.zeros(len(solved.rows), dtype=torch.long)
        for size, start in enumerate(starts):
            scores, on_test = 0.0, []
            for subset, order in enumerate(orders):
                outside = torch.cat([order[start:], torch.arange(rows, len(targets))])
                number = size * len(orders) + subset
                held_out = solved.logits(number, outside)  # (layers, penalties, rows, classes)
                found = score_rows(data.kind, held_out.flatten(0, 1), targets[outside], names={metric}).values[metric]
                scores = scores + found.view(held_out.shape[:2]).nan_to_num(-1.0)
                on_test.append(solved.logits(number, slice(len(targets), None)))
            assert isinstance(scores, Tensor)
            best = order_of_penalties[scores[:, order_of_penalties].argmax(1)]
            logits += [one[torch.arange(len(best)), best] for one in on_test]
        whole = solved.logits(len(weights) - 1, slice(len(targets), None))
        # every penalty of the probe of all rows, of which the caller takes the one of the reported probe
        at_best = whole[torch.arange(len(best)), best][:, None]
        return torch.cat([torch.stack(logits, dim=1), whole, at_best], dim=1)

    found = solve_sets(
        data.kind,
        train.activations.values,
        train.targets,
        weights,
        apply_to=torch.cat(values, dim=1),
        classes=data.num_classes,
        settings=probed.settings,
        reduce=reduce,
    )
    subsets, whole = found[:, : len(weights) - 1], found[:, len(weights) - 1 :]
    return torch.cat([subsets, whole[torch.arange(len(whole)), of_fit][:, None]], dim=1)


def _intervals(means: Tensor, of_subsets: Tensor, starts: list[int], probed: ProbedTask) -> tuple[Tensor, Tensor]:
    """Ends `(layers, sizes)` of intervals over test rows and training sets, from scores on the rows and resamples.

    Subsets of m of n rows vary about their mean by (1 − m/n) of what sets of m rows drawn anew do. The mean of R
    subsets therefore has m/(n − m) + 1/R times the variance between subsets. All rows have that between halves.
    """
    data, metric = probed.data, MAIN_METRIC[probed.data.kind]
    rows, subsets = len(data.train.targets), of_subsets.shape[3]
    ends, halves = [], None
    for size, start in enumerate([*starts, rows]):
        values, draws = means[0, :, size], means[1:, :, size]
        scale = SCALES[data.kind, metric]
        over_rows = torch.stack(score_interval(values, draws, rows=len(data.test.targets), scale=scale))
        if size < len(starts):
            halves = errors_over_sets(of_subsets[:, :, size].transpose(1, 2))  # (subsets, layers)
            errors = halves * (start / (rows - start) + 1 / subsets) ** 0.5
        else:
            assert halves is not None
            errors = halves
        ends.append(widened(over_rows, values, errors, scale=scale))
    low, high = torch.stack(ends, dim=2)
    return low, high
