"""What a layer holds of a task, with its doubt: functions of one task's rows to `Estimates` at every layer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from probes.analysis.bias_floor import biased_cka_floor
from probes.analysis.cka import label_rows
from probes.analysis.intervals import half_sample_errors, jackknife_errors
from probes.analysis.leave_one_out import cka_leave_one_out, odd_rows
from probes.analysis.permutations import cka_null
from probes.analysis.spectra import effective_rank_of_shares
from probes.analysis.spectral_errors import spectral_jackknife
from probes.values import Estimates

_NO_CKA = "constant layer: all rows, or all but one, are equal"

Needs = Literal["rows", "labels", "reference"]


@dataclass(frozen=True)
class TaskRows:
    """What measures see of one task.

    Attributes:
        values: Activations, float32, shape `(layers, rows, features)`.
        labels: int64 `(rows,)` for classes, float `(rows,)` for numbers, float `(rows, labels)` for 0/1 entries; `None`
            where the task has no labels.
        reference: Activations of the same rows in another model, `(layers, rows, reference_features)`; `None` where
            there is no other model.
    """

    values: Tensor
    labels: Tensor | None = None
    reference: Tensor | None = None


class TaskMeasure(Protocol):
    """A quantity of one task at every layer. Any object with these four can stand in `conf/analysis`."""

    @property
    def quantity(self) -> str:
        """Its name, such as `label_cka`."""
        ...

    @property
    def unit(self) -> str:
        """Its unit."""
        ...

    @property
    def needs(self) -> Needs:
        """`rows` alone, or also `labels` or a `reference`; without them it is not asked."""
        ...

    def __call__(self, rows: TaskRows) -> Estimates:
        """Measure every layer."""
        ...


@dataclass(frozen=True, kw_only=True)
class LabelCKA:
    """Debiased CKA between activations and labels: does the geometry of the layer follow the task's labels?

    Args:
        permutations: Shuffles of the labels behind null and p; 0 for none.
        seed: Decides them.
    """

    permutations: int = 200
    seed: int = 0
    quantity: ClassVar = "label_cka"
    unit: ClassVar = "CKA"
    needs: ClassVar[Needs] = "labels"

    def __call__(self, rows: TaskRows) -> Estimates:
        """Measure every layer; NaN where the layer is constant, or all rows, or all but one, have one label."""
        assert rows.labels is not None
        labels = label_rows(rows.labels)[None].to(rows.values.dtype)
        estimates = _cka(rows.values, labels, permutations=self.permutations, seed=self.seed)
        odd = int(odd_rows(labels).sum())
        if odd > 1:
            return estimates
        return replace(estimates, note="all rows but one have one label" if odd else "all rows have one label")


@dataclass(frozen=True, kw_only=True)
class ReferenceCKA:
    """Linear CKA between every layer and the same layer of the reference backbone.

    Args:
        debiased: Else the biased estimate, whose chance level is its floor at this number of rows and these spectra.
        permutations: Shuffles of the rows of one side behind null and p of the debiased estimate; 0 for none.
        seed: Decides them.
    """

    debiased: bool = True
    permutations: int = 200
    seed: int = 0
    unit: ClassVar = "CKA"
    needs: ClassVar[Needs] = "reference"

    @property
    def quantity(self) -> str:
        """`reference_cka`, or `reference_cka_biased`."""
        return "reference_cka" if self.debiased else "reference_cka_biased"

    def __call__(self, rows: TaskRows) -> Estimates:
        """Measure every layer; NaN where the layer is constant in either model."""
        assert rows.reference is not None
        if self.debiased:
            return _cka(rows.values, rows.reference, permutations=self.permutations, seed=self.seed)
        statistic = cka_leave_one_out(rows.values, rows.reference, debiased=False)
        floor = biased_cka_floor(rows.values, rows.reference)[None].numpy(force=True)
        return Estimates(_array(statistic.values), rows.values.shape[1], jackknife_errors(statistic), floor)


@dataclass(frozen=True, kw_only=True)
class SpectralMeasure:
    """A function of the eigenvalue shares of each layer's covariance, such as its effective rank.

    Args:
        quantity: Its name.
        unit: Its unit.
        of_shares: Shares `(directions,)` to a number, differentiable.
    """

    quantity: str = "effective_rank"
    unit: str = "directions"
    of_shares: Callable[[Tensor], Tensor] = effective_rank_of_shares
    needs: ClassVar[Needs] = "rows"

    def __call__(self, rows: TaskRows) -> Estimates:
        """Measure every layer; NaN where it is constant."""
        values, errors = spectral_jackknife(rows.values, self.of_shares)
        return Estimates(_array(values), rows.values.shape[1], _array(errors))


@dataclass(frozen=True, kw_only=True)
class RowMeasure:
    """Any function of activations, or of activations and the reference's, on a seeded sample of the rows.

    Args:
        quantity: Its name.
        unit: Its unit.
        function: `(layers, rows, features)`, for `needs="reference"` twice, to `(layers,)`.
        needs: What it is called with besides the activations.
        max_rows: Rows it is computed on at most; the number used is reported as `n`.
        half_samples: Halves of these rows behind the intervals; 0 for none.
        seed: Decides sample and halves.
    """

    quantity: str
    unit: str
    function: Callable[..., Tensor]
    needs: Needs = "rows"
    max_rows: int = 1000
    half_samples: int = 20
    seed: int = 0

    def __call__(self, rows: TaskRows) -> Estimates:
        """Measure every layer."""
        total = rows.values.shape[1]
        generator = torch.Generator().manual_seed(self.seed)
        chosen = torch.randperm(total, generator=generator)[: self.max_rows].sort().values
        inputs = [rows.values[:, chosen], *([rows.reference[:, chosen]] if rows.reference is not None else [])]
        inputs = inputs if self.needs == "reference" else inputs[:1]
        errors = None
        if self.half_samples > 0:
            errors = half_sample_errors(
                lambda half: self.function(*(part[:, half] for part in inputs)),
                len(chosen),
                half_samples=self.half_samples,
                seed=self.seed,
            )
        return Estimates(_array(self.function(*inputs).double()), len(chosen), errors)


def _cka(x: Tensor, y: Tensor, *, permutations: int, seed: int) -> Estimates:
    statistic = cka_leave_one_out(x, y)
    null = None
    if permutations > 0:
        null = _array(cka_null(x, y, norm=statistic.norm, permutations=permutations, seed=seed))
    return Estimates(_array(statistic.values), x.shape[1], jackknife_errors(statistic), null, _NO_CKA)


def _array(values: Tensor) -> np.ndarray:
    return values.numpy(force=True)
