"""How much a linear probe gains in bits from a layer: V-information (Xu et al. 2020), of all rows and of each row.

With V the family of linear probes,

    I_V(layer → label) = H_V(label) − H_V(label | layer)

is the cross-entropy of the best prediction that ignores the activations less that of the best probe that reads them.
Both are fitted on training rows and measured on test rows. A row's own part, its pointwise V-information (Ethayarajh,
Choi and Swayamdipta 2022), is negative where the probe misleads.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from probes.metrics import bootstrap_counts, majority_logits
from probes.probe_measures.linear_refits import (
    LossSelected,
    SolvedLayers,
    bits_of_targets,
    errors_over_sets,
    has_independent_vectors,
    select_by_loss,
    solve_sets,
)
from probes.probe_measures.protocol import ProbedTask, TaskTable
from probes.seeds import derive_seed
from probes.training.training_sets import half_weights
from probes.values import Estimates, Layer, LayerProfile

_TEXT_CHARACTERS = 300
"""Characters, from the end, of a prompt in the table of rows that change most."""
_RESAMPLES = 100
"""Resamples of the test rows on which refitted probes are measured."""


@dataclass(frozen=True, kw_only=True)
class VInformation:
    """V-information of each layer about the labels, in bits per label; its null is 0.

    Each layer's penalty is chosen by cross-entropy on validation rows. Beside the profile there are two tables: what
    each layer says about each test row, and the rows for which layers differ most. Regression has none.

    Attributes:
        rows_shown: Rows in the table of those that change most between layers.
    """

    rows_shown: int = 10

    def __call__(self, probed: ProbedTask) -> Iterator[LayerProfile | TaskTable]:
        """The profile, and the tables `pointwise_v_information` and `rows_that_change`."""
        data = probed.data
        if data.kind == "regression" or not has_independent_vectors(data):
            return
        try:
            selected = select_by_loss(data, probed.settings, seed=probed.seed)
        except ValueError as error:  # every layer is constant
            estimates = Estimates(np.full(len(data.layers), np.nan), len(data.test.targets), note=str(error))
            yield _profile(probed, estimates)
            return
        pointwise = self._pointwise(probed, selected.logits)
        rows = pointwise.shape[1]
        errors = (pointwise - pointwise.mean(1, keepdim=True)).T / (rows * (rows - 1)) ** 0.5
        over, freedom = "rows", [(rows, rows - 1)]
        if probed.settings.sets_to_refit(len(data.train.targets), exact=True) > 0:
            over_sets = errors_over_sets(self._refits(probed, selected))
            errors, over = torch.cat([errors, over_sets]), "rows and training sets"
            freedom.append((len(over_sets), len(over_sets) - 1))
        estimates = Estimates(
            pointwise.mean(1).numpy(),
            rows,
            errors=errors.numpy(),
            null=np.zeros((1, len(data.layers))),
            interval_over=over,
            freedom=tuple(freedom),
        )
        yield _profile(probed, estimates)
        yield self._table(probed, pointwise)
        yield self._changes(probed, pointwise)

    def _pointwise(self, probed: ProbedTask, logits: Tensor) -> Tensor:
        """Bits of each test row `(layers, rows)`, from logits `(layers, rows, classes)`."""
        data = probed.data
        constant = majority_logits(data.kind, data.train.targets, len(data.test.targets), classes=data.num_classes)
        without = bits_of_targets(data.kind, constant, data.test.targets)  # (1, rows)
        return without - bits_of_targets(data.kind, logits, data.test.targets)

    def _refits(self, probed: ProbedTask, selected: LossSelected) -> Tensor:
        """V-information of probes refitted on halves of the training rows, as `errors_over_sets` expects it.

        Each half has its own class frequencies, too.
        """
        data, settings = probed.data, probed.settings
        train, test = data.train, data.test
        sets = settings.sets_to_refit(len(train.targets), exact=True)
        seed, groups = derive_seed(probed.seed, "training sets"), data.groups_of("train")
        weights = half_weights(len(train.targets), sets, seed=seed, groups=groups)
        constants = [
            majority_logits(data.kind, train.targets[half > 0], len(test.targets), classes=data.num_classes)[0]
            for half in weights
        ]
        # a class that a half lacks would take infinitely many bits; its share is that of all rows
        whole = majority_logits(data.kind, train.targets, len(test.targets), classes=data.num_classes)[0]
        without = torch.stack(
            [bits_of_targets(data.kind, own.where(own.isfinite(), whole), test.targets) for own in constants]
        )

        def reduce(solved: SolvedLayers) -> Tensor:
            by_set = [bits_of_targets(data.kind, solved.logits(s)[:, 0], test.targets) for s in range(sets)]
            return without - torch.stack(by_set, dim=1)

        gains = solve_sets(
            data.kind,
            train.activations.values,
            train.targets,
            weights,
            apply_to=test.activations.values,
            classes=data.num_classes,
            settings=settings,
            reduce=reduce,
            chosen=selected.chosen,
        )  # (layers, sets, rows)
        seed = derive_seed(probed.seed, "bootstrap", "test")
        counts = bootstrap_counts(len(test.targets), _RESAMPLES, seed=seed).double()
        counts = torch.cat([torch.ones(1, counts.shape[1]).double(), counts])
        live = ~gains[:, 0, 0].isnan()
        means = torch.full((len(counts), sets, len(gains)), torch.nan, dtype=torch.float64)
        means[:, :, live] = torch.einsum("cr,lsr->csl", counts / counts.sum(1, keepdim=True), gains[live])
        return means

    def _table(self, probed: ProbedTask, pointwise: Tensor) -> TaskTable:
        """What each layer says about each test row."""
        data = probed.data
        columns = {"row": list(data.test.activations.row_ids), "label": _label_names(probed)}
        columns |= {f"layer {layer}": pointwise[i].tolist() for i, layer in enumerate(data.layers)}
        return TaskTable(name="pointwise_v_information", task=data.task, reading=data.reading, columns=columns)

    def _changes(self, probed: ProbedTask, pointwise: Tensor) -> TaskTable:
        """The rows whose pointwise V-information differs most between two layers, with their prompts."""
        data, prompts = probed.data, probed.task.splits["test"].prompts
        low, low_at = pointwise.nan_to_num(torch.inf).min(0)
        high, high_at = pointwise.nan_to_num(-torch.inf).max(0)
        order = (high - low).argsort(descending=True, stable=True)[: self.rows_shown].tolist()
        labels = _label_names(probed)

        def layer(at: Tensor) -> list[Layer]:
            return [data.layers[i] for i in at[order].tolist()]

        columns = {
            "text": [prompts[row][-_TEXT_CHARACTERS:] for row in order],
            "label": [labels[row] for row in order],
            "lowest bits": low[order].tolist(),
            "at its layer": layer(low_at),
            "highest bits": high[order].tolist(),
            "at this layer": layer(high_at),
        }
        return TaskTable(name="rows_that_change", task=data.task, reading=data.reading, columns=columns)


def _profile(probed: ProbedTask, estimates: Estimates) -> LayerProfile:
    return LayerProfile(
        quantity="v_information",
        unit="bits per label",
        estimates=estimates,
        layers=probed.data.layers,
        task=probed.data.task,
        reading=probed.data.reading,
        seed=probed.seed,
    )


def _label_names(probed: ProbedTask) -> list[str]:
    """The label of each test row in words."""
    data = probed.data
    if data.kind == "classification":
        return [data.labels[k] for k in data.test.targets.tolist()]
    return [", ".join(np.array(data.labels)[row > 0].tolist()) for row in data.test.targets.numpy()]
