"""Probes that know that classes are in order: one direction along which they lie, solved exactly.

A softmax probe learns each class for itself. Where classes are grades, such as ratings, a ridge regression of the
grade's number has one weight for each feature, and learns from few rows what the softmax probe needs many for.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from probes.metrics import (
    bootstrap_counts,
    errors_of_draws,
    permuted_orders,
    permuted_scores,
    score_interval,
    score_rows,
)
from probes.probe_measures.linear_refits import (
    SolvedLayers,
    has_independent_vectors,
    linear_penalties,
    solve_sets,
)
from probes.probe_measures.protocol import ProbedTask
from probes.seeds import derive_seed
from probes.training.selection import fold_of_rows
from probes.values import Estimates, LayerProfile


@dataclass(frozen=True, kw_only=True)
class OrdinalProbe:
    """Ridge regression of the number of the class, for classification whose classes are in order; else nothing.

    `ordinal/spearman` is the rank correlation of its predictions with the true classes, with a null of permuted labels;
    `ordinal/mean_absolute_error` the mean distance in classes; `ordinal/gain` the correlation less that of the task's
    own probes (of their expected class), paired over the test rows, with the null 0. Each layer's penalty is the best
    by Spearman's correlation in a cross-validation on training and validation rows. Resamples and permutations are as
    many as those of the task's own probes, `probe.bootstrap_samples` and `probe.permutations`.
    """

    def __call__(self, probed: ProbedTask) -> Iterator[LayerProfile]:
        """Profiles over the layers of the task."""
        data = probed.data
        if data.kind != "classification" or not data.ordered or not has_independent_vectors(data):
            return
        if probed.fit.best_layers is None:
            return
        predicted = ordinal_predictions(probed)
        live = ~predicted.isnan().any(1)
        targets, rows = data.test.targets, len(data.test.targets)
        samples = probed.settings.bootstrap_samples
        counts = bootstrap_counts(rows, samples, seed=derive_seed(probed.seed, "bootstrap", "test"))
        own = score_rows("regression", predicted[live][..., None], targets.double(), counts, names={"spearman"})
        nominal = score_rows(
            "classification",
            probed.fit.probes.logits(data.test.activations.values)[live],
            targets,
            counts,
            ordered=True,
            names={"spearman"},
        )
        orders = permuted_orders(rows, probed.settings.permutations, seed=derive_seed(probed.seed, "permutations"))
        null = permuted_scores("regression", predicted[live][..., None], targets.double(), orders, names={"spearman"})[
            "spearman"
        ]
        distance = (predicted[live] - targets).abs()  # (layers, rows)
        of_rows = (distance - distance.mean(1, keepdim=True)).T / (rows * (rows - 1)) ** 0.5

        def profile(name: str, unit: str, values: Tensor, **uncertainty: Any) -> LayerProfile:
            spread: dict[str, Any] = {
                key: _over(live, value) if isinstance(value, Tensor) else value for key, value in uncertainty.items()
            }
            return LayerProfile(
                quantity=f"ordinal/{name}",
                unit=unit,
                layers=data.layers,
                task=data.task,
                reading=data.reading,
                seed=probed.seed,
                estimates=Estimates(_over(live, values), rows, **spread),
            )

        spearman, draws = own.values["spearman"], own.draws["spearman"]
        yield profile(
            "spearman",
            "rank correlation",
            spearman,
            interval=torch.stack(score_interval(spearman, draws, rows=rows, scale="correlation")) if samples else None,
            null=null if len(null) else None,
        )
        errors = errors_of_draws(draws - nominal.draws["spearman"], units=rows)
        yield profile("mean_absolute_error", "classes", distance.mean(1), errors=of_rows)
        yield profile(
            "gain",
            "rank correlation",
            spearman - nominal.values["spearman"],
            errors=errors if samples else None,
            freedom=((len(errors), rows - 1),),
            null=torch.zeros(1, int(live.sum())),
            alternative="two-sided",
        )


def ordinal_predictions(probed: ProbedTask) -> Tensor:
    """Predicted class numbers of the test rows, float64 `(layers, rows)`, clipped to the range of classes.

    Returns:
        NaN at constant layers.
    """
    data, settings = probed.data, probed.settings
    values = torch.cat([data.train.activations.values, data.validation.activations.values], dim=1)
    classes = torch.cat([data.train.targets, data.validation.targets])
    grades, count = classes.float(), len(data.train.targets)
    fold = fold_of_rows(
        "classification",
        classes,
        settings.folds,
        seed=derive_seed(probed.seed, "ordinal"),
        groups=data.groups_of("train", "validation"),
    )
    in_train = (torch.arange(len(classes)) < count).float()
    weights = torch.stack([(fold != number).float() for number in range(settings.folds)] + [in_train])
    places = [(fold == number).nonzero()[:, 0] for number in range(settings.folds)]
    held_out = torch.cat(places)
    # From the largest penalty down, as `argmax` returns the first of equal scores.
    order = torch.tensor(linear_penalties(settings)).argsort(descending=True)

    def reduce(solved: SolvedLayers) -> Tensor:
        predicted = torch.cat([solved.logits(number, at) for number, at in enumerate(places)], dim=2)
        scores = score_rows("regression", predicted.flatten(0, 1), grades[held_out].double(), names={"spearman"})
        by_penalty = scores.values["spearman"].view(predicted.shape[:2]).nan_to_num(-1.0)
        best = order[by_penalty[:, order].argmax(1)]
        on_test = solved.logits(settings.folds, slice(len(classes), None))
        return on_test[torch.arange(len(best)), best, :, 0].double()

    predicted = solve_sets(
        "regression",
        values,
        grades,
        weights,
        apply_to=torch.cat([values, data.test.activations.values], dim=1),
        classes=1,
        settings=settings,
        reduce=reduce,
    )
    return predicted.clamp(0, data.num_classes - 1)


def _over(live: Tensor, values: Tensor) -> np.ndarray:
    """Values of the layers that are not constant, the last axis, over all layers; NaN at the others."""
    spread = values.new_full((*values.shape[:-1], len(live)), torch.nan, dtype=torch.float64)
    spread[..., live] = values.double()
    return spread.numpy()
