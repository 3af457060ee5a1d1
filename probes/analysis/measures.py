"""Measures: quantities computed from activations at every layer, each with its uncertainty and its chance level.

This module is a plug-in point. There are two kinds of measures:

- a `TaskMeasure` maps the rows of one task (`TaskRows`) to `Estimates`;
- a `BetweenTasks` maps the rows of all tasks together to `Estimates`.

A function of activations needs no class of its own: `RowMeasure` wraps it, and adds a sample of the rows and
intervals; `SpectralMeasure` does so for functions of the covariance spectrum and `BetweenTasks` for functions of rows
and tasks. Any other measure is an object with `quantity`, `unit`, `needs` and `__call__`:

>>> from dataclasses import dataclass
>>> import torch
>>> from probes.analysis import TaskRows
>>> from probes.values import Estimates
>>> @dataclass(frozen=True)
... class MeanNorm:
...     quantity: str = "mean_norm"
...     unit: str = "activation"
...     needs: str = "rows"
...
...     def __call__(self, rows: TaskRows) -> Estimates:
...         norms = rows.values.double().norm(dim=2)  # (layers, rows)
...         n = norms.shape[1]
...         errors = (norms - norms.mean(1, keepdim=True)).T / n  # their squares sum to the variance of the mean
...         return Estimates(norms.mean(1).numpy(), n, errors.numpy())
>>> MeanNorm()(TaskRows(torch.ones(2, 30, 4))).values
array([2., 2.])

Put it in a module that can be imported and name it on the command line, here
`+analysis.measures.mean_norm._target_=my_measures.MeanNorm`, or pass it to `LayerAnalysis` in Python. A measure that
cannot be computed from the given rows, say because they are too few, raises `ValueError`; the run continues, and the
message becomes the note of the missing cells.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from probes.analysis.geometry.spectra import effective_rank_of_shares, spectral_jackknife
from probes.analysis.intervals import (
    HalfMeans,
    errors_of_halves,
    half_sample_errors,
    halves_of,
    jackknife_errors,
)
from probes.analysis.similarity.cka import biased_cka_floor, label_features
from probes.analysis.similarity.leave_one_out import cka_leave_one_out, deviating_rows
from probes.analysis.similarity.permutation_null import cka_null
from probes.values import Estimates

_NO_CKA = "constant layer: all rows, or all but one, are equal"

Needs = Literal["rows", "labels", "reference"]
"""What a measure needs: `rows`, the activations alone; `labels`, also the task's labels; `reference`, also the
activations of another model."""


@dataclass(frozen=True)
class TaskRows:
    """The rows of one task as measures see them.

    Attributes:
        values: Activations, float32, shape `(layers, rows, features)`.
        labels: int64 `(rows,)` for classes, float `(rows,)` for numbers, float `(rows, labels)` of 0 and 1 for
            multi-label tasks; `None` if the task has no labels.
        reference: Activations of the same rows in another model, at the layers matched to those of `values`, shape
            `(layers, rows, reference_features)`; `None` if there is no other model.
        reference_remarks: For each layer that is compared with one of another name, which that is; `()` for none.
    """

    values: Tensor
    labels: Tensor | None = None
    reference: Tensor | None = None
    reference_remarks: tuple[str, ...] = ()


class TaskMeasure(Protocol):
    """A quantity of one task at every layer; any object with these four members may be named in `conf/analysis`."""

    @property
    def quantity(self) -> str:
        """Its name in results, tables and figures, such as `label_cka`; unique among the measures of a run."""
        ...

    @property
    def unit(self) -> str:
        """Its unit, for axes and tables, such as `directions`."""
        ...

    @property
    def needs(self) -> Needs:
        """What it needs beside activations; it is called only for tasks and runs that have it."""
        ...

    def __call__(self, rows: TaskRows) -> Estimates:
        """Measure every layer.

        Args:
            rows: The rows of one task; `labels` or `reference` is not `None` if `needs` says so.

        Returns:
            `values` of shape `(layers,)`, NaN where a layer has no value and `note` says why; `n`, the rows used. If
            known, `errors` of shape `(errors, layers)`, scaled so that `errors.T @ errors` is the covariance of the
            values between layers (see `probes.analysis.intervals`), and `null` of shape `(draws, layers)`, values under
            chance, or their mean as a single draw.

        Raises:
            ValueError: The quantity cannot be computed from these rows; the message is reported.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class LabelCKA:
    """Debiased CKA between activations and labels: how far the geometry of a layer follows the task's labels.

    Errors are from the jackknife over rows. The null permutes the labels.

    Args:
        permutations: Permutations of the labels; 0 for no null.
        seed: Seed of the permutations.
    """

    permutations: int = 200
    seed: int = 0
    quantity: ClassVar = "label_cka"
    unit: ClassVar = "CKA"
    needs: ClassVar[Needs] = "labels"

    def __call__(self, rows: TaskRows) -> Estimates:
        """Measure every layer; NaN where a layer is constant, and if all rows, or all but one, have the same label.

        Raises:
            ValueError: There are no labels, or too few rows.
        """
        labels = _required(rows.labels, "labels", self.quantity)
        features = label_features(labels)[None].to(rows.values.dtype)  # (1, rows, classes)
        estimates = _cka(rows.values, features, permutations=self.permutations, seed=self.seed)
        deviating = int(deviating_rows(features).sum())
        if deviating > 1:
            return estimates
        note = "all rows but one have the same label" if deviating else "all rows have the same label"
        return replace(estimates, note=note)


@dataclass(frozen=True, kw_only=True)
class ReferenceCKA:
    """Linear CKA between every layer and the matching layer of a reference model, on the same rows.

    Errors are from the jackknife over rows. The null of the debiased estimate permutes the rows of one model; that of
    the biased estimate is its expectation for unrelated rows with these spectra (`biased_cka_floor`), as one draw.

    Args:
        debiased: Use unbiased estimates of HSIC throughout; otherwise the biased estimate, which is far above 0 for
            unrelated rows if they are few.
        permutations: Permutations behind the null of the debiased estimate; 0 for no null.
        seed: Seed of the permutations.
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
        """Measure every layer; NaN where the layer is constant in either model.

        Raises:
            ValueError: There is no reference, or too few rows.
        """
        reference = _required(rows.reference, "reference", self.quantity)
        if self.debiased:
            return _cka(rows.values, reference, permutations=self.permutations, seed=self.seed)
        statistic = cka_leave_one_out(rows.values, reference, debiased=False)
        floor = _array(biased_cka_floor(rows.values, reference)[None])  # one draw, (1, layers)
        return Estimates(_array(statistic.values), rows.values.shape[1], jackknife_errors(statistic), floor)


@dataclass(frozen=True, kw_only=True)
class SpectralMeasure:
    """A function of the eigenvalue shares of each layer's covariance, by default its effective rank.

    Errors are from the infinitesimal jackknife, which needs one eigendecomposition per layer. There is no null.

    Args:
        quantity: Its name.
        unit: Its unit.
        of_shares: Differentiable function of the non-zero shares, shape `(directions,)`, to a scalar.
    """

    quantity: str = "effective_rank"
    unit: str = "directions"
    of_shares: Callable[[Tensor], Tensor] = effective_rank_of_shares
    needs: ClassVar[Needs] = "rows"

    def __call__(self, rows: TaskRows) -> Estimates:
        """Measure every layer; NaN where a layer is constant."""
        values, errors = spectral_jackknife(rows.values, self.of_shares)
        return Estimates(_array(values), rows.values.shape[1], _array(errors))


@dataclass(frozen=True, kw_only=True)
class RowMeasure:
    """Any function of activations, or of the activations of two models, on a random sample of the rows.

    Errors are from pairs of complementary half samples, which suit any statistic. There is no null.

    Args:
        quantity: Its name.
        unit: Its unit.
        function: Maps activations `(layers, rows, features)` to `(layers,)`. With `needs="reference"` it gets the
            reference's activations of the same rows as a second argument.
        needs: `rows`, or `reference`.
        max_rows: Largest number of rows it is computed on; the number used is reported as `n`.
        half_samples: Number of half samples behind the interval, even and at least 4; 0 for no interval.
        half_means: `added` where the interval is otherwise too narrow; see `errors_of_halves`.
        least_rows: With fewer rows there is no interval, where it would be too narrow.
        seed: Seed of the sample and of the half samples.
    """

    quantity: str
    unit: str
    function: Callable[..., Tensor]
    needs: Needs = "rows"
    max_rows: int = 1000
    half_samples: int = 40
    half_means: HalfMeans = "ignored"
    least_rows: int = 0
    seed: int = 0

    def __call__(self, rows: TaskRows) -> Estimates:
        """Measure every layer; NaN and `ValueError` are those of the function.

        Raises:
            ValueError: The measure needs a reference and there is none.
        """
        models = [rows.values]
        if self.needs == "reference":
            models.append(_required(rows.reference, "reference", self.quantity))
        generator = torch.Generator().manual_seed(self.seed)
        sample = torch.randperm(rows.values.shape[1], generator=generator)[: self.max_rows].sort().values
        inputs = [values[:, sample] for values in models]  # each (layers, sampled rows, features)
        errors = None
        if self.half_samples > 0 and len(sample) >= self.least_rows:
            errors = half_sample_errors(
                lambda half: self.function(*(values[:, half] for values in inputs)),
                len(sample),
                half_samples=self.half_samples,
                half_means=self.half_means,
                seed=self.seed,
            )
        return Estimates(_array(self.function(*inputs).double()), len(sample), errors)


@dataclass(frozen=True, kw_only=True)
class BetweenTasks:
    """Any function of rows and the task of each row, such as the silhouette of tasks.

    Prompts name their task, so tasks with instructions are easily separated, mostly by wording; without instructions
    they are separated by what their texts are about.

    Errors are from pairs of complementary half samples, each of half the rows of every task. The null is the chance
    level, as one draw.

    Args:
        quantity: Its name.
        unit: Its unit.
        function: Maps activations `(layers, rows, features)` and tasks, int64 `(rows,)`, to `(layers,)`.
        of_draws: An optional quicker way to compute the function of several subsets of the rows: it gets their row
            positions, a list of int64 tensors, as a third argument and returns `(draws, layers)`.
        chance: Value where tasks do not differ; `None` for one over the number of tasks.
        half_means: `subtracted` for functions made of sums over pairs of rows, such as distances; see
            `errors_of_halves`.
        half_samples: Number of half samples behind the interval, even and at least 4; 0 for no interval.
        seed: Seed of the half samples.
    """

    quantity: str
    unit: str
    function: Callable[[Tensor, Tensor], Tensor]
    of_draws: Callable[[Tensor, Tensor, list[Tensor]], Tensor] | None = None
    chance: float | None = 0.0
    half_means: HalfMeans = "ignored"
    half_samples: int = 40
    seed: int = 0

    def __call__(self, rows_by_task: Sequence[Tensor]) -> Estimates:
        """Measure every layer.

        Args:
            rows_by_task: Some rows of each task, `(layers, rows, features)`.

        Raises:
            ValueError: There are fewer than two tasks.
        """
        if len(rows_by_task) < 2:
            raise ValueError(f"'{self.quantity}' compares tasks and needs at least 2; got {len(rows_by_task)}.")
        x = torch.cat(list(rows_by_task), dim=1)  # (layers, rows of all tasks, features)
        counts = torch.tensor([rows.shape[1] for rows in rows_by_task])
        tasks = torch.arange(len(rows_by_task)).repeat_interleave(counts)
        halves = []
        if self.half_samples > 0:
            halves = halves_of(x.shape[1], groups=tasks, half_samples=self.half_samples, seed=self.seed)
        values = self._values_of_draws(x, tasks, [torch.arange(x.shape[1]), *halves]).double()  # (1 + halves, layers)
        errors = errors_of_halves(values[1:], half_means=self.half_means) if halves else None
        chance = 1 / len(rows_by_task) if self.chance is None else self.chance
        return Estimates(_array(values[0]), x.shape[1], errors, np.full((1, len(x)), chance))

    def _values_of_draws(self, x: Tensor, tasks: Tensor, draws: list[Tensor]) -> Tensor:
        if self.of_draws is not None:
            return self.of_draws(x, tasks, draws)
        return torch.stack([self.function(x[:, draw], tasks[draw]) for draw in draws])


def _cka(x: Tensor, y: Tensor, *, permutations: int, seed: int) -> Estimates:
    """Debiased CKA of matched layers, with jackknife errors and the values under permutations of the rows."""
    statistic = cka_leave_one_out(x, y)
    null = None
    if permutations > 0:
        null = _array(cka_null(x, y, norm=statistic.norm, permutations=permutations, seed=seed))
    return Estimates(_array(statistic.values), x.shape[1], jackknife_errors(statistic), null, note=_NO_CKA)


def _required(given: Tensor | None, name: Needs, quantity: str) -> Tensor:
    """The labels or the reference of a task, which the caller of the measure has to provide."""
    if given is None:
        raise ValueError(f"'{quantity}' needs `{name}`; got `TaskRows` without. Pass `TaskRows(values, {name}=…)`.")
    return given


def _array(values: Tensor) -> np.ndarray:
    return values.numpy(force=True)
